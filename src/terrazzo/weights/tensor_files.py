"""Reading tensors from files of strangers: safetensors, PyTorch's formats, and models split over several files.

What a file is, is told by its first bytes. Nothing in it is ever executed: PyTorch files are read with
``weights_only=True``, and there is no other way. Each tensor is read into memory of its own, once, so the peak is about
the file's size and the file may change afterwards.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from terrazzo.config import parse_json
from terrazzo.errors import CheckpointError
from terrazzo.regular_files import open_regular
from terrazzo.text import printable
from terrazzo.weights.companions import read_json

__all__ = ["TensorFile", "read_tensor_file", "read_tensor_shards"]

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Entries of a training program's checkpoint that hold its tensors."""

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


def read_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors or PyTorch file.

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
        return _read_safetensors(path)
    for pattern, what, fix in LOOKALIKES:
        if re.match(pattern, head, re.DOTALL):
            raise CheckpointError(f"{path} is {what}, not a checkpoint", fix=fix, code="checkpoint-not-weights")
    if head.startswith(b"PK\3\4"):
        _check_archive(path)
        return _read_torch(path, size)
    if head.startswith(b"\x80"):
        return _read_torch(path, size)
    if head[8:9] == b"{":
        raise _damaged(path, "its header is longer than the file")
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


def _read_safetensors(path: Path) -> TensorFile:
    """The library checks the header: sizes, no gaps, no overlaps, nothing behind the last tensor."""
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt"):
            pass
        with open(path, "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(8)
            header = file.read(int.from_bytes(start, "little"))
            digest.update(start + header)
            entries = parse_json(header, str(path), error=CheckpointError, code="checkpoint-damaged")
            entries.pop("__metadata__", None)
            for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
                if entry["dtype"] not in DTYPES:
                    raise _damaged(path, f"{key} has the type {entry['dtype']}, which no network here computes with")
                if max(entry["shape"], default=0) > size:  # [0, 2**63] fills no byte, and is more than torch can count
                    raise _damaged(path, f"{printable(key)[:200]} has a shape that no tensor can have")
                tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
                memory = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
                if file.readinto(memory) != memory.nbytes:
                    raise _damaged(path, f"it ends inside {key}")
                digest.update(memory)
                tensors[key] = tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, f"not a valid safetensors file: {error}") from error
    return TensorFile(tensors, {}, digest.hexdigest())


def _check_archive(path: Path) -> None:
    """See that a zip file is PyTorch's, and has the sizes and checksums that it says; torch.load does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
                raise CheckpointError(
                    f"{path} is a zip archive, not a checkpoint",
                    fix="unpack it and give the file inside",
                    code="checkpoint-not-weights",
                )
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(
                    f"{path} is a TorchScript program, not a checkpoint",
                    fix="give the weights it was exported from",
                    code="checkpoint-not-weights",
                )
            if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
                raise _damaged(path, f"{packed[0]} is compressed, which PyTorch never does")
            if damaged := archive.testzip():
                raise CheckpointError(
                    f"{path} is damaged: the checksum of {damaged} is wrong",
                    fix="copy or download it again",
                    code="checkpoint-checksum",
                )
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error


def _read_torch(path: Path, size: int) -> TensorFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a pickle is of an unusual kind is said below, if it matters
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"(?:unsupported )?(?:GLOBAL|class) ([\w.]{1,200})", str(error))
        raise CheckpointError(
            f"{path} asks Python to run {asked[1]} while it is read, and was not read"
            if asked
            else f"{path} is damaged, or is no checkpoint of tensors alone",
            fix="in the program that wrote it, save the tensors alone: torch.save(model.state_dict(), path)",
            code="checkpoint-pickle",
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, " ".join(str(error).split())[:200] or type(error).__name__) from error
    tensors, meta = _unwrap(content)
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors", fix="give a file of a model's weights", code="checkpoint-empty"
        )
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {str(key)[:100]!r} among its tensors, which is none",
                fix="in the program that wrote it, save the tensors alone: torch.save(model.state_dict(), path)",
                code="checkpoint-not-tensor",
            )
        _check_plain(str(key), value, path)
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    if total > 2 * size + (1 << 20):
        raise _damaged(path, f"its tensors claim {total:,} bytes and the file has {size:,}")
    return TensorFile({str(key): _own_memory(value) for key, value in tensors.items()}, meta)


def _unwrap(content: object) -> tuple[dict[Any, Any], Mapping[str, Any]]:
    """Find the tensors, and what was noted beside them, in what a training program saved."""
    meta: dict[str, Any] = {}
    for _ in range(3):
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        if isinstance(content.get("meta"), Mapping):
            meta |= content["meta"]
        content = inner
    return (dict(content) if isinstance(content, Mapping) else {}), meta


def _check_plain(key: str, value: Tensor, path: Path) -> None:
    """Refuse tensors whose numbers are not all there: sparse, without storage, or one number repeated."""
    plain = (
        value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized and not value.is_nested
    )
    if plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes():
        return
    kind = str(value.layout).removeprefix("torch.") if value.layout != torch.strided else value.device.type
    shown = f"{tuple(value.shape)}, {kind}" if kind not in ("cpu", "jagged") else f"{tuple(value.shape)}"
    raise CheckpointError(
        f"{path} does not hold all numbers of {key[:200]} ({shown})",
        fix="save it as a plain dense tensor",
        code="checkpoint-not-dense",
    )


def _own_memory(value: Tensor) -> Tensor:
    """A view keeps the whole storage it was cut from."""
    value = value.detach()
    return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: {' '.join(how.split())}", fix="copy or download it again", code="checkpoint-damaged"
    )
