"""Temporary storage of arrays: in memory up to a limit, beyond it in a temporary file.

With it, the memory of a segmentation does not grow with the image's width.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["CompressedRows", "Scratch"]

IN_MEMORY = 1 << 26  # bytes
COMPRESSED_AT_ONCE = 1 << 22  # bytes


@dataclass(frozen=True)
class _Place:
    """Where an array lies in the file, and how it is read from there."""

    start: int
    room: int  # bytes from `start` that no other array has
    shape: tuple[int, ...]  # of the array with its axes in the order that memory has them
    dtype: np.dtype[Any]
    axes: tuple[int, ...]  # that order


class Scratch:
    """Arrays by key. An array takes the place of the one that had its key before.

    Args:
        folder: where the temporary file is made, if one is needed; by default where the system has those. It has no
            name, so nothing is left of it even if the process is killed.
        in_memory: bytes to hold in memory; by default `IN_MEMORY`.
    """

    def __init__(self, folder: Path | None = None, in_memory: int | None = None) -> None:
        self._folder, self._left = folder, IN_MEMORY if in_memory is None else in_memory
        self._held: dict[Hashable, NDArray[Any]] = {}
        self._places: dict[Hashable, _Place] = {}
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the arrays and the file."""
        if self._file is not None:
            self._file.close()
        self._held.clear()

    def __setitem__(self, key: Hashable, array: NDArray[Any]) -> None:
        before = self._held.pop(key, None)
        self._left += 0 if before is None else before.nbytes
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            self._held[key] = array.copy(order="K")
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  closed by `close`
        axes = tuple(int(axis) for axis in np.argsort([-stride for stride in array.strides], kind="stable"))
        stored = np.ascontiguousarray(array.transpose(axes))
        place = self._places.get(key)
        if place is None or place.room < stored.nbytes:
            start, room = self._end, stored.nbytes
            self._end += room
        else:
            start, room = place.start, place.room
        self._places[key] = _Place(start, room, stored.shape, stored.dtype, axes)
        self._file.seek(start)
        rest = stored.reshape(-1).view(np.uint8).data
        while rest:
            rest = rest[self._file.write(rest) :]

    def __getitem__(self, key: Hashable) -> NDArray[Any]:
        if key in self._held:
            return self._held[key]
        place = self._places[key]
        stored = self._read(place.start, place.shape, place.dtype)
        return stored.transpose(tuple(np.argsort(place.axes)))

    def rows(self, key: Hashable, first: int, stop: int) -> NDArray[Any]:
        """Return some rows of an (H, W) array."""
        if key in self._held:
            return self._held[key][first:stop]
        place = self._places[key]
        if place.axes != (0, 1):
            return self[key][first:stop]
        width = place.shape[1]
        start = place.start + first * width * place.dtype.itemsize
        return self._read(start, (stop - first, width), place.dtype)

    def _read(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        assert self._file is not None
        array = np.empty(shape, dtype)
        self._file.seek(start)
        rest = array.reshape(-1).view(np.uint8).data
        while rest:
            read = self._file.readinto(rest)  # type: ignore[attr-defined]
            if not read:
                raise OSError("the temporary file is shorter than what was written to it")
            rest = rest[read:]
        return array


class CompressedRows:
    """An (H, W) array that is put aside some rows at a time, compressed, and read back in any parts.

    Args:
        folder: as of `Scratch`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._scratch = Scratch(folder)
        self._parts: list[tuple[int, int]] = []  # first row of each, and the one after its last
        self._empty: NDArray[Any] = np.empty((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._scratch.close()

    def append(self, rows_RW: NDArray[Any]) -> None:
        self._empty = rows_RW[:0]
        step = max(1, COMPRESSED_AT_ONCE // rows_RW[0].nbytes)
        for top in range(0, len(rows_RW), step):
            part = np.ascontiguousarray(rows_RW[top : top + step])
            first = self._parts[-1][1] if self._parts else 0
            self._scratch[len(self._parts)] = np.frombuffer(zlib.compress(part.data, 1), np.uint8)
            self._parts.append((first, first + len(part)))

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        parts = [self._empty]
        for number, (first, stop) in enumerate(self._parts):
            if first < rows.stop and rows.start < stop:
                part = np.frombuffer(zlib.decompress(self._scratch[number].data), self._empty.dtype)
                part = part.reshape(stop - first, self._empty.shape[1])
                parts.append(part[max(rows.start - first, 0) : rows.stop - first])
        return np.concatenate(parts)
