"""Reads tensors from untrusted files: safetensors, PyTorch's formats, and models split over several files.

What a file is, is told by its first bytes. Nothing in it is ever executed: the pickles in PyTorch's files are read as
data (`torch_files`). Each tensor is read into memory of its own, once, so the peak is about the size of what is taken,
and the file may change afterwards. Of several sets of weights in a file only the one that is meant is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from terrazzo.config import parse_json
from terrazzo.errors import CheckpointError
from terrazzo.notes import note
from terrazzo.regular_files import named_in_text, open_regular
from terrazzo.text import list_names, printable, said_by
from terrazzo.weights.foreign_files import refuse_foreign_file
from terrazzo.weights.metadata import read_json
from terrazzo.weights.noted_classes import CLASS_NAMES, noted_classes, noted_in_text
from terrazzo.weights.pickled_values import plain
from terrazzo.weights.torch_files import StoredTensor, damaged, open_torch_file
from terrazzo.weights.weight_sets import choose_set, find_sets, sets_in_names

__all__ = ["TensorFile", "read_tensor_file", "read_tensor_shards"]

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LOOKALIKES = (
    (rb"\s*<", "a web page", "download it again: the address led to a page about the file, or to an error"),
    (rb"version https://git-lfs", "a Git LFS pointer of a few lines", "fetch the file itself: git lfs pull"),
    (rb"\x1f\x8b|\xfd7zXZ|BZh|7z\xbc\xaf", "a compressed archive", "unpack it and give the file inside"),
    (rb".{257}ustar", "a tar archive", "unpack it and give the file inside"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes them", "give the PyTorch or safetensors file of the same model"),
    (rb"\x08[\x01-\x20]\x12", "an ONNX model", "give the weights it was exported from"),
    (rb"\x89PNG|\xff\xd8\xff", "a picture", "give the model's file"),
)


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        tensors: by name, dense and on the CPU.
        meta: what the program that wrote it noted beside them, unchecked.
        sha256: of the whole file, where it was computed on the way.
    """

    tensors: dict[str, Tensor]
    meta: Mapping[str, Any]
    sha256: str | None = None


def read_tensor_file(path: Path, part: str = "") -> TensorFile:
    """Read a safetensors or PyTorch file.

    Args:
        path: the file.
        part: which set of weights, of a file that holds several (`weight_sets`); empty for the network itself.

    Raises:
        CheckpointError: it is something else, damaged, or holds what is not plain tensors.
    """
    try:
        with open_regular(path) as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(300)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}", fix="check the path, or copy the file again"
        ) from error
    if size == 0:
        raise CheckpointError(f"{path} is empty", fix="copy it again", code="checkpoint-damaged")
    # First of all, for the length of its header may look like the beginning of anything.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors(path, part)
    refuse_foreign_file(path)
    for pattern, what, fix in LOOKALIKES:
        if re.match(pattern, head, re.DOTALL):
            raise CheckpointError(f"{path} is {what}, not a checkpoint", fix=fix, code="checkpoint-not-weights")
    if head.startswith((b"PK\3\4", b"\x80")):
        return _read_torch(path, size, part)
    if head[8:9] == b"{":
        raise damaged(path, "its header is longer than the file")
    raise CheckpointError(
        f"{path} is neither a safetensors nor a PyTorch file",
        fix="give a .safetensors, .pth, .pt or .bin file, or a model's folder",
        code="checkpoint-not-weights",
    )


def read_tensor_shards(index: Path) -> TensorFile:
    """Read a model that is split over several files beside an index such as ``model.safetensors.index.json``.

    Raises:
        CheckpointError: as `read_tensor_file`; or a file is missing, elsewhere, or holds what the index does not say.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map", fix="copy the folder again", code="checkpoint-index")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(
                f"{index} names {name!r}, which is not a file beside it",
                fix="do not use this model: a whole one keeps its files together",
                code="checkpoint-index",
            )
        tensors |= read_tensor_file(index.with_name(name)).tensors
    if differing := sorted(tensors.keys() ^ places.keys()):
        raise CheckpointError(
            f"{index} and the files beside it differ in {len(differing)} tensors, such as {differing[0]}",
            fix="copy the whole folder again",
            code="checkpoint-index",
        )
    return TensorFile(tensors, {})


def _read_safetensors(path: Path, part: str) -> TensorFile:
    """The library checks the header: sizes, no gaps, no overlaps, nothing behind the last tensor."""
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = {}
    try:
        with open(path, "rb") as file:
            with named_in_text(path) as name, safe_open(name, framework="pt"):
                pass
            start = file.read(8)
            header = file.read(int.from_bytes(start, "little"))
            digest.update(start + header)
            entries = parse_json(header, str(path), error=CheckpointError, code="checkpoint-damaged")
            noted = noted_in_text(entries.pop("__metadata__", None))
            chosen = choose_set(sets_in_names(entries), part, path)
            for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
                if entry["dtype"] not in DTYPES:
                    raise damaged(path, f"{key} has the type {entry['dtype']}, which no network here computes with")
                tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
                memory = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
                if file.readinto(memory) != memory.nbytes:
                    raise damaged(path, f"it ends inside {key}")
                digest.update(memory)
                tensors[key] = tensor
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:  # torch's, for [0, 2**63]
        raise damaged(path, f"not a valid safetensors file: {said_by(error, 200)}") from error
    return TensorFile({key: tensors[key] for key in chosen.tensors}, {CLASS_NAMES: noted}, digest.hexdigest())


def _read_torch(path: Path, size: int, part: str) -> TensorFile:
    with open_torch_file(path, size) as file:
        chosen = choose_set(find_sets(file.content, path), part, path)
        if chosen.others and chosen.layout is None:
            raise CheckpointError(
                f"{path} holds {chosen.others[0][:100]!r} among its tensors, which is not one",
                fix="in the program that wrote it, save the tensors alone: torch.save(model.state_dict(), path)",
                code="checkpoint-not-tensor",
            )
        if chosen.others:
            note(f"{path}: set aside what is not a tensor: {list_names(chosen.others)}")
        for key, stored in chosen.tensors.items():
            _check_plain(key, stored, path)
        total = sum(stored.nbytes for stored in chosen.tensors.values())
        if total > 2 * size + (1 << 20):
            raise damaged(path, f"its tensors claim {total:,} bytes and the file has {size:,}")
        meta: dict[str, Any] = {}
        for noted in chosen.meta:
            meta |= plain(noted)
        meta[CLASS_NAMES] = noted_classes(file.content)
        return TensorFile({key: file.tensor(stored) for key, stored in chosen.tensors.items()}, meta)


def _check_plain(key: str, stored: StoredTensor, path: Path) -> None:
    """Refuse tensors whose numbers are not all there: sparse, without storage, or one number repeated."""
    if stored.why_not.startswith("of a type"):
        raise CheckpointError(
            f"{path} holds {printable(key[:200])} in numbers {stored.why_not}",
            fix="save its tensors in float32: tensor.float()",
            code="checkpoint-not-dense",
        )
    if stored.storage is None:
        raise CheckpointError(
            f"{path} does not hold all numbers of {printable(key[:200])} ({stored.shape}, {stored.why_not})",
            fix="save it as a plain dense tensor",
            code="checkpoint-not-dense",
        )
