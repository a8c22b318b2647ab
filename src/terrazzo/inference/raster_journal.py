"""`Journal`: the bands of rows of a raster that are already segmented, in a hidden file, from which an interrupted run
goes on.

The file begins with what the bands depend on. One that was written for something else, such as other weights or a
raster that has been changed since, is written again from the start.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from terrazzo.inference.scores import Pixels

__all__ = ["Journal"]

MAGIC = b"terrazzo bands 1\n"
RECORD = struct.Struct("<QI")  # bytes, and their CRC


class Journal:
    """Bands that are decided, from the top.

    Args:
        path: the hidden file; made if it is not there. What is somebody else's is left alone, and what another process
            is writing: then nothing is kept, nor where the disk is full.
        depends_on: everything that the bands depend on. Plain JSON values.
    """

    def __init__(self, path: Path, depends_on: Mapping[str, Any]) -> None:
        self.path = path
        self._start = MAGIC + hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).digest()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError:  # there is a folder, a link or a file that is not ours to write
            return self
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return self
        file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return self
        found = file.read(len(self._start))
        if found and not found.startswith(MAGIC):
            file.close()
            return self
        self._file = file
        if found != self._start:
            file.seek(0)
            file.truncate()
            file.write(self._start)
            file.flush()
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def bands(self) -> Iterator[Pixels]:
        """Yield the bands that are there, and leave out what was being written when the process ended."""
        if self._file is None:
            return
        self._file.seek(at := len(self._start))
        while len(head := self._file.read(RECORD.size)) == RECORD.size:
            length, checksum = RECORD.unpack(head)
            data = self._file.read(length)
            if len(data) != length or zlib.crc32(data) != checksum:
                break
            at += RECORD.size + length
            with suppress(ValueError, zipfile.BadZipFile), np.load(io.BytesIO(data), allow_pickle=False) as planes:
                yield Pixels(**planes)
        self._file.seek(at)
        self._file.truncate()

    def append(self, band: Pixels) -> None:
        """Keep another band. All that are there must have been read."""
        if self._file is None:
            return
        buffer = io.BytesIO()
        planes: dict[str, Any] = band.planes()
        np.savez_compressed(buffer, **planes)
        data = buffer.getvalue()
        try:
            self._file.write(RECORD.pack(len(data), zlib.crc32(data)) + data)
            self._file.flush()
        except OSError:  # the disk is full: the results need its space more
            self.remove()
            with suppress(OSError):  # what it could not write, it tries again
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file once the result is in place."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
