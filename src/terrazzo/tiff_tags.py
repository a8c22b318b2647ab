"""The first directory of a TIFF or BigTIFF: which tags it has, and where their values lie in the file."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["TiffTag", "checksum_with", "first_directory", "is_tiff"]

STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MOST_TAGS = 4096
AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class TiffTag:
    """Where the values of a tag lie.

    Attributes:
        offset: in the file, in bytes.
        length: in bytes.
    """

    offset: int
    length: int


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins so is a TIFF."""
    return start[:4] in STARTS


def first_directory(file: BinaryIO) -> dict[int, TiffTag]:
    """Return the tags of a TIFF's first directory by number; none where it is damaged or the file is no TIFF."""
    file.seek(0)
    start = file.read(16)
    if not is_tiff(start):
        return {}
    order, is_big = STARTS[start[:4]]
    count_form, entry_form = (f"{order}Q", f"{order}HHQ8s") if is_big else (f"{order}H", f"{order}HHI4s")
    place_form = f"{order}Q" if is_big else f"{order}I"
    try:
        (directory,) = struct.unpack_from(place_form, start, 8 if is_big else 4)
        file.seek(directory)
        (count,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
        size = struct.calcsize(entry_form)
        entries = file.read(min(count, MOST_TAGS) * size)
        tags = {}
        for at in range(0, len(entries) - size + 1, size):
            number, kind, values, field = struct.unpack_from(entry_form, entries, at)
            length = TYPE_BYTES.get(kind, 1) * values
            first = directory + struct.calcsize(count_form) + at
            inline = first + size - len(field)
            tags[number] = TiffTag(inline if length <= len(field) else struct.unpack(place_form, field)[0], length)
    except (struct.error, OSError, OverflowError):
        return {}
    return tags


def checksum_with(path: Path, offset: int, value: bytes) -> int:
    """Return the CRC that a file would have with other bytes in one place, without reading it into memory."""
    with open(path, "rb") as file:
        checksum, left = 0, offset
        while left and (data := file.read(min(left, AT_ONCE))):
            checksum, left = zlib.crc32(data, checksum), left - len(data)
        checksum = zlib.crc32(value, checksum)
        file.seek(offset + len(value))
        while data := file.read(AT_ONCE):
            checksum = zlib.crc32(data, checksum)
    return checksum
