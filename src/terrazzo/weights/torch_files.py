"""PyTorch's files: a pickle that says what there is, and the numbers of every tensor, which are read when asked for.

Two forms are known: the zip archive of PyTorch 1.6 and later, and the older one, a few pickles with the numbers behind
them. The pickles are read as data (`pickles`), and a tensor is made here from its numbers and its shape: PyTorch's own
reader is not needed for it, nor anything else that a file may name. So tensors that nobody asks for (an optimiser's
state, a second set of weights) cost nothing.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from terrazzo.errors import CheckpointError
from terrazzo.text import printable, said_by, show
from terrazzo.weights.pickles import (
    MAX_BYTES,
    Global,
    PersistentId,
    PickleSource,
    Placeholder,
    ProgramInPickle,
    read_pickle,
)

__all__ = ["StoredTensor", "TorchFile", "as_tensor", "damaged", "open_torch_file"]

MAGIC_NUMBER, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older form
CHUNK = 8 << 20
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
DTYPES = {str(dtype): dtype for dtype in STORAGES.values()}
STRIDED = {
    "torch._utils._rebuild_tensor": 4,
    "torch._utils._rebuild_tensor_v2": 6,
    "torch._utils._rebuild_tensor_v3": 7,
}
"""What makes a plain tensor of stored numbers, and how many arguments it has at least."""
AROUND = frozenset(
    f"torch._utils.{name}"
    for name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_cpu_tensor")
) | {"torch.nn.parameter.Parameter"}
"""What holds a tensor as its first argument."""


@dataclass(frozen=True)
class Storage:
    """A run of numbers in a file."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose numbers have not been read.

    Attributes:
        shape: its sizes.
        why_not: why it cannot be made from stored numbers alone, in a word; empty for those that can.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0
    dtype: torch.dtype = torch.float32
    storage: Storage | None = None
    why_not: str = ""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile(ABC):
    """An open file: what it holds, and its tensors' numbers on demand."""

    def __init__(self, path: Path, content: Any) -> None:
        self.path = path
        self.content = content
        self._read: dict[str, Tensor] = {}

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor into memory of its own.

        Raises:
            CheckpointError: its numbers are not all there.
        """
        storage = stored.storage
        assert storage is not None
        if storage.key not in self._read:
            self._read[storage.key] = self._numbers(storage)
        flat = self._read[storage.key].view(stored.dtype)
        view = flat.as_strided(stored.shape, stored.stride, stored.offset)
        return view.clone() if stored.nbytes < flat.numel() * flat.element_size() else view

    def _numbers(self, storage: Storage) -> Tensor:
        """Read a storage as bytes."""
        with self._bytes_of(storage) as (file, count):
            if count != storage.count * storage.dtype.itemsize:
                raise damaged(self.path, f"the record {show(storage.key)} has {count:,} bytes, which is not its size")
            raw = torch.empty(count, dtype=torch.uint8)
            memory = memoryview(raw.numpy())  # type: ignore[arg-type]
            for start in range(0, count, CHUNK):
                chunk = file.read(min(CHUNK, count - start))
                if len(chunk) != min(CHUNK, count - start):
                    raise damaged(self.path, f"it ends inside the record {show(storage.key)}")
                memory[start : start + len(chunk)] = chunk
            file.read(1)  # the archive compares its checksum when it comes to the end
        if self._swapped() and storage.dtype.itemsize > 1:
            raw = raw.view(-1, storage.dtype.itemsize).flip(1).flatten()
        return raw

    @abstractmethod
    def _bytes_of(self, storage: Storage) -> AbstractContextManager[tuple[Any, int]]:
        """Open the bytes of a storage, and say how many the file holds."""

    def _swapped(self) -> bool:
        return False


class _Archive(TorchFile):
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.archive = zipfile.ZipFile(file)
        self.entries = {entry.filename: entry for entry in self.archive.infolist()}
        pickled = next((name for name in self.entries if name.endswith("/data.pkl") or name == "data.pkl"), None)
        if pickled is None:
            of_numpy = bool(self.entries) and all(name.endswith(".npy") for name in self.entries)
            raise CheckpointError(
                f"{path} is {'an archive of numpy arrays, as JAX programs write' if of_numpy else 'a zip archive'}, "
                "not a checkpoint",
                fix="give the PyTorch or safetensors file of the same model"
                if of_numpy
                else "unpack it and give the file inside",
                code="checkpoint-not-weights",
            )
        self.folder = pickled.removesuffix("data.pkl")
        if f"{self.folder}constants.pkl" in self.entries:
            raise CheckpointError(
                f"{path} is a TorchScript program, not a checkpoint",
                fix="give the weights it was exported from",
                code="checkpoint-not-weights",
            )
        for name, entry in self.entries.items():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise damaged(path, f"{name} is compressed, which PyTorch never does")
        if self.entries[pickled].file_size > MAX_BYTES:
            raise damaged(path, f"its list of tensors has {self.entries[pickled].file_size:,} bytes")
        order = f"{self.folder}byteorder"
        self.order = self.archive.read(order)[:8].decode("ascii", "replace") if order in self.entries else "little"
        data = self.archive.read(pickled)
        content = read_pickle(PickleSource(io.BytesIO(data), len(data)))
        super().__init__(path, content)

    @contextmanager
    def _bytes_of(self, storage: Storage) -> Iterator[tuple[Any, int]]:
        entry = self.entries.get(f"{self.folder}data/{storage.key}")
        if entry is None:
            raise damaged(self.path, f"the record {show(storage.key)} is missing")
        with self.archive.open(entry) as file:
            yield file, entry.file_size

    def _swapped(self) -> bool:
        return self.order != sys.byteorder


class _Older(TorchFile):
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.file = file
        first = self._pickle(size)
        if first != MAGIC_NUMBER:
            super().__init__(path, first)
            if isinstance(
                first, Placeholder
            ):  # an object of a class, of which more is said by whoever looks for tensors
                return
            raise CheckpointError(
                f"{path} is a pickle that torch.save has not written",
                fix="in the program that wrote it, save the tensors alone: torch.save(model.state_dict(), path)",
                code="checkpoint-pickle",
            )
        if self._pickle(size) != PROTOCOL:
            raise ValueError("unknown version of PyTorch's older form")
        self._pickle(size)  # about the machine
        references: list[PersistentId] = []
        content = self._pickle(size, references)
        super().__init__(path, content)
        self.places = self._find_storages(self._pickle(size), references, size)

    def _pickle(self, size: int, references: list[PersistentId] | None = None) -> Any:
        return read_pickle(PickleSource(self.file, size - self.file.tell()), references)

    def _find_storages(self, keys: object, references: list[PersistentId], size: int) -> dict[str, tuple[int, int]]:
        """Where the numbers of every storage begin, and their bytes: each has its count in front."""
        storages = {s.key: s for s in map(_storage, references) if s is not None}
        places: dict[str, tuple[int, int]] = {}
        for key in keys if isinstance(keys, list) else []:
            if str(key) not in storages:
                raise ValueError(f"nobody knows the type of its storage {str(key)[:50]}")
            count = int.from_bytes(self.file.read(8), "little", signed=True)
            nbytes = count * storages[str(key)].dtype.itemsize
            if not 0 <= nbytes <= size - self.file.tell():
                raise ValueError("it ends inside a tensor")
            places[str(key)] = self.file.tell(), nbytes
            self.file.seek(nbytes, 1)
        return places

    @contextmanager
    def _bytes_of(self, storage: Storage) -> Iterator[tuple[Any, int]]:
        if storage.key not in self.places:
            raise damaged(self.path, f"the storage {show(storage.key)} is missing")
        start, count = self.places[storage.key]
        self.file.seek(start)
        yield self.file, count


@contextmanager
def open_torch_file(path: Path, size: int) -> Iterator[TorchFile]:
    """Open a file that begins like one of PyTorch's; whatever fails while it is open is its damage.

    Raises:
        CheckpointError: it is damaged, holds no checkpoint, or names what runs programs.
    """
    try:
        with open(path, "rb") as file:
            is_archive = file.read(4) == b"PK\3\4"
            file.seek(0)
            yield _Archive(path, file) if is_archive else _Older(path, file, size)
    except CheckpointError:
        raise
    except ProgramInPickle as error:
        raise CheckpointError(
            f"{path} asks Python to run {printable(str(error))[:200]} while it is read, and was not read",
            fix="do not use this file, in another program least of all: weights have no reason to run anything",
            code="checkpoint-pickle",
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        if isinstance(error, zipfile.BadZipFile) and "CRC" in str(error):
            raise CheckpointError(
                f"{path} is damaged: {said_by(error, 200)}",
                fix="copy or download it again",
                code="checkpoint-checksum",
            ) from error
        raise damaged(path, str(error)[:200] or type(error).__name__) from error


def as_tensor(value: object) -> StoredTensor | None:
    """What a value of a pickle says of a tensor; None where it is something else."""
    try:
        return _tensor(value) if isinstance(value, Placeholder) else None
    except ValueError as error:
        return StoredTensor((), why_not=str(error))


def _tensor(value: Placeholder) -> StoredTensor | None:
    path, args = value.path, value.args
    if path == "torch._tensor._rebuild_from_type_v2" and len(args) == 4 and isinstance(args[0], Global):
        return _tensor(Placeholder(args[0].path, args[2])) if isinstance(args[2], tuple) else None
    if path in AROUND:
        return as_tensor(args[0]) if args else None
    if path in STRIDED and len(args) >= STRIDED[path]:
        return _strided(args[0], args[1], args[2], args[3], args[6] if path.endswith("_v3") else None, args[6:])
    if path.startswith("torch._utils._rebuild_"):
        shape = next((arg for arg in args if isinstance(arg, tuple) and _whole(arg)), ())
        what = path.removeprefix("torch._utils._rebuild_").partition("_tensor")[0]
        return StoredTensor(shape, why_not={"meta": "meta", "q": "quantised"}.get(what, what))
    return None


def _strided(reference: Any, offset: Any, size: Any, stride: Any, dtype: Any, rest: tuple[Any, ...]) -> StoredTensor:
    storage = _storage(reference)
    shape, steps = (v.args[0] if isinstance(v, Placeholder) and v.args else v for v in (size, stride))
    if storage is None or not _whole((offset,)) or not _whole(shape) or not _whole(steps) or len(shape) != len(steps):
        raise ValueError("without a shape")
    offset += _view_offset(reference)
    kind = storage.dtype if dtype is None else DTYPES.get(dtype.path if isinstance(dtype, Global) else "")
    if kind is None:
        raise ValueError("of a type that no network here computes with")
    if any(isinstance(item, dict) and any(item.values()) for item in rest):
        return StoredTensor(shape, why_not="a conjugate")
    held = storage.count * storage.dtype.itemsize // kind.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if 0 not in shape and (last >= held or math.prod(shape) > held):
        return StoredTensor(shape, why_not="strided")
    return StoredTensor(shape, steps, offset, kind, storage)


def _storage(reference: object) -> Storage | None:
    """Read ``("storage", class, key, device, count, view of it)``."""
    value = reference.value if isinstance(reference, PersistentId) else None
    if not isinstance(value, tuple) or len(value) < 5 or value[0] not in ("storage", b"storage"):
        return None
    kind, key, count = value[1], value[2], value[4]
    dtype = STORAGES.get(kind.path.rpartition(".")[2]) if isinstance(kind, Global) else None
    if dtype is None or not isinstance(key, (str, int)) or not _whole((count,)):
        raise ValueError("of a type that no network here computes with")
    return Storage(str(key), dtype, count)


def _view_offset(reference: PersistentId) -> int:
    view = reference.value[5] if len(reference.value) > 5 else None  # type: ignore[arg-type, index]
    if view is None:
        return 0
    if not isinstance(view, tuple) or len(view) != 3 or not _whole(view[1:]):
        raise ValueError("without a shape")
    return int(view[1])


def _whole(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: {printable(' '.join(how.split()))}",
        fix="copy or download it again",
        code="checkpoint-damaged",
    )
