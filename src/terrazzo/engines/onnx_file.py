"""A reader of ONNX files: their metadata, and the paths of weights that lie in other files.

It reads the bytes before any runtime opens the file, since a runtime follows the paths in it. An ONNX file is a
protocol buffer: a sequence of fields, each a number, a kind, and a value or a length and that many bytes. Only the
branches that lead to metadata and to tensors stored elsewhere are followed (message and field numbers: onnx.proto).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import CheckpointError, ConfigError, TerrazzoError
from terrazzo.regular_files import open_regular
from terrazzo.text import show
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription

__all__ = ["damaged", "describe_onnx"]

Buffer: TypeAlias = "mmap.mmap | bytes"

MESSAGES = {
    "model": {7: "graph", 14: "metadata", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
IN_MEMORY = "_ORT_MEM_ADDR_"
"""In a location, it makes runtimes take the offset for an address in their own memory and read what is there."""

DEEPEST = 40  # graphs within graphs; networks have none or two
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


@dataclass
class _Found:
    metadata: dict[str, str] = field(default_factory=dict)
    locations: set[str] = field(default_factory=set)
    has_graph: bool = False


def describe_onnx(path: Path) -> ExportedDescription:
    """Read an exported file's description, and check that its weights lie in its own folder.

    Raises:
        CheckpointError: there is no such file (code "checkpoint-missing"), it is damaged ("export-damaged"), was not
            written by terrazzo ("export-foreign"), or has weights outside its folder ("export-outside") or in a missing
            file.
    """
    found = _Found()
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _walk(content, 0, len(content), "model", found, DEEPEST)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}", fix="check the path", code="checkpoint-missing"
        ) from error
    except (ValueError, IndexError) as error:  # an empty file cannot be mapped
        raise damaged(path, "it is not an ONNX model, or was cut off") from error
    if not found.has_graph:
        raise damaged(path, "it is not an ONNX model")
    for location in sorted(found.locations):
        _refuse_outside(path, location)
    return ExportedDescription.from_json(found.metadata.get(METADATA_KEY), str(path))


def damaged(path: Path, problem: str) -> CheckpointError:
    """Return the error for an exported file that cannot be used."""
    return CheckpointError(
        f"{path} is damaged: {problem}", fix="copy it again, or export the model again", code="export-damaged"
    )


def unopened(path: Path, error: Exception, problem: str) -> TerrazzoError:
    """Return the error for an exported file that a runtime could not open: memory ran out, or it is damaged."""
    if not is_out_of_memory(error):
        return damaged(path, problem)
    return ConfigError(
        f"there is not enough memory to open {path}", fix="use a machine with more memory", code="engine-memory"
    )


def _refuse_outside(path: Path, location: str) -> None:
    if "\0" in location or IN_MEMORY in location:
        raise damaged(path, "the path of its weights is impossible")
    folder = path.parent.resolve()
    climbs = ".." in PurePosixPath(location).parts or ".." in PureWindowsPath(location).parts
    rooted = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor != ""
    if climbs or rooted or not (folder / location).resolve().is_relative_to(folder):
        raise CheckpointError(
            f"{path} takes weights from {show(location)}, outside its own folder, and was not read",
            fix="use a file that you exported yourself, or whose origin you trust and whose weights lie beside it",
            code="export-outside",
        )
    if not os.path.isfile(folder / location):
        raise damaged(path, f"the file of its weights, {show(location)}, is not beside it")


def _walk(content: Buffer, start: int, stop: int, message: str, found: _Found, depth: int) -> None:
    if depth == 0:
        raise ValueError("graphs within graphs within graphs")
    followed = MESSAGES[message]
    for number, first, last in _fields(content, start, stop):
        inner = followed.get(number)
        if inner in ("metadata", "external"):
            key, value = _entry(content, first, last)
            if inner == "metadata":
                found.metadata[key] = value
            elif key == "location":
                found.locations.add(value)
        elif inner is not None:
            found.has_graph |= inner == "graph"
            _walk(content, first, last, inner, found, depth - 1)


def _entry(content: Buffer, start: int, stop: int) -> tuple[str, str]:
    texts = {number: content[first:last].decode() for number, first, last in _fields(content, start, stop)}
    return texts.get(1, ""), texts.get(2, "")


def _fields(content: Buffer, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first and last byte of each field that holds bytes."""
    while at < stop:
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == VARINT:
            _, at = _varint(content, at)
        elif kind == BYTES:
            length, at = _varint(content, at)
            if at + length > stop:
                raise ValueError("a field reaches beyond its message")
            yield tag >> 3, at, at + length
            at += length
        elif kind in (FIXED_64, FIXED_32):
            at += 8 if kind == FIXED_64 else 4
        else:
            raise ValueError(f"no field is of kind {kind}")
    if at != stop:
        raise ValueError("a field reaches beyond its message")


def _varint(content: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
