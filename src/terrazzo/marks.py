"""The marks that this program's results carry: one line of text with a checksum of the file around it.

A result that somebody has corrected by hand no longer fits its checksum, and is theirs:

    terrazzo 0.1.0: predict, checksum 1a2b3c4d

    format             where the mark is                    what the checksum covers
    PNG                a text chunk before the pixels       the chunks' own CRCs
    TIFF               the tag Software                     all bytes, with zeros for the checksum
    NPZ, PT2           the archive's comment                the entries' names and own CRCs
    JSON               the field ``written_by``             all bytes, with zeros for the checksum; likewise below
    YAML               the first line, a comment
    XML                the last line, a comment
    ONNX               an entry of its ``metadata_props``
    MP4, MKV           the comment among its metadata
    GeoPackage         the description of its layer

Formats without room for it (CSV, TXT, Markdown, BIN) are known by the marked file beside them, which has their
checksums behind its own.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import terrazzo
from terrazzo.tiff_tags import checksum_with, first_directory, is_tiff

__all__ = ["MARK", "UNMARKED", "Kind", "blank_mark", "blank_png_mark", "checksums", "is_result", "mark_files", "marked"]

MARK = re.compile(rb"terrazzo [^\s:]+: ([a-z-]+), checksum((?: [0-9a-f]{8})+)")
PNG = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = len(PNG) + 25  # with IHDR, behind which the mark stands
ZIP = b"PK\x03\x04"
SOFTWARE = 305  # the TIFF tag
Kind = Literal[
    "predict", "evaluate", "explain", "ablate", "benchmark", "check-data", "compare", "export", "train", "suggest",
    "check-labels",
]  # fmt: skip
"""The command whose result a file is."""

IN_PLACE = (".mp4", ".mkv", ".gpkg")
UNMARKED = (".csv", ".txt", ".md", ".bin")
"""Files without room for a mark."""


def mark_files(paths: Sequence[Path], kind: Kind) -> None:
    """Mark files that some other writer has just written; those without room for it are known by the last one.

    A PNG with a `blank_png_mark` and a TIFF with a `blank_mark` are not read into memory.
    """
    beside = [zlib.crc32(path.read_bytes()) for path in paths if path.suffix in UNMARKED]
    for path in paths:
        start, blank = _start(path), blank_png_mark(kind)
        if start.startswith(ZIP):
            _mark_archive(path, kind)
        elif start.startswith(PNG) and start[PNG_HEADER:].startswith(blank):
            with open(path, "r+b") as file:
                mark = _png_mark(kind, _png_checksum(file))
                file.seek(PNG_HEADER)
                file.write(mark)
        elif is_tiff(start):
            _mark_tiff(path, kind)
        elif path.suffix.lower() in IN_PLACE:
            _fill_in_mark(path)
        elif path.suffix not in UNMARKED:
            path.write_bytes(marked(path.read_bytes(), path.suffix, kind, beside))


def marked(data: bytes, suffix: str, kind: Kind, beside: Iterable[int] = ()) -> bytes:
    """A file's content with its mark."""
    if data.startswith(PNG):
        return data[:PNG_HEADER] + _png_mark(kind, _png_checksum(io.BytesIO(data))) + data[PNG_HEADER:]
    if data.startswith(ZIP):
        file = io.BytesIO(data)
        _mark_archive(file, kind)
        return file.getvalue()
    blank = _line(kind, [0, *beside])
    if data.startswith(b"{"):
        data = b'{\n  "written_by": "' + blank + b'",' + data[1:]
    elif suffix == ".yaml":
        data = b"# " + blank + b"\n" + data
    elif suffix == ".xml":
        data += b"\n<!-- " + blank + b" -->\n"
    elif suffix == ".onnx":
        # An entry of ModelProto.metadata_props: in Protocol Buffers, entries may be appended.
        data += _field(14, _field(1, b"written_by") + _field(2, blank))
    return data.replace(blank, _line(kind, [zlib.crc32(data), *beside]))


def blank_png_mark(kind: Kind) -> bytes:
    """The chunk that `mark_files` fills in, for a PNG that is written in parts: to stand behind its header."""
    return _png_mark(kind, 0)


def blank_mark(kind: Kind) -> str:
    """The text that `mark_files` fills in: for a TIFF's tag Software, and the comment of a video."""
    return _line(kind, [0]).decode()


def is_result(path: Path) -> bool:
    """Whether an image file is a result of this program's, changed since or not, and so no photo."""
    try:
        start = _start(path) if path.is_file() else b""
        if is_tiff(start):
            return _tiff_mark(path) is not None
    except OSError:
        return False
    return start.startswith(PNG) and MARK.search(start) is not None


def checksums(path: Path, kind: Kind) -> list[int]:
    """The checksums in a file's mark, its own first; none where it has no mark of this kind or was changed since."""
    start = _start(path)
    if start.startswith(ZIP):
        with zipfile.ZipFile(path) as archive:
            marks = {archive.comment: _archive_checksum(archive)}
    elif start.startswith(PNG):
        with open(path, "rb") as file:
            marks = {start: _png_checksum(file)} if MARK.search(start) else {}
    elif is_tiff(start):
        found_mark = _tiff_mark(path)
        marks = {} if found_mark is None else {found_mark[1]: _tiff_checksum(path, *found_mark)}
    else:
        marks = _marks_within(path)
    for text, checksum in marks.items():
        if (match := MARK.search(text)) is not None and match[1] == kind.encode():
            found = [int(number, 16) for number in match[2].split()]
            if found[0] == checksum:
                return found
    return []


def _marks_within(path: Path) -> dict[bytes, int]:
    """The marks in a file of any size, which is not read into memory, each with the checksum that it should have."""
    if not path.stat().st_size:
        return {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        places = [(match.span(), match[0], _line_of(match, 0)) for match in MARK.finditer(data)]
        with memoryview(data) as view:
            return {
                text: zlib.crc32(view[stop:], zlib.crc32(blank, zlib.crc32(view[:start])))
                for (start, stop), text, blank in places
            }


def _fill_in_mark(path: Path) -> None:
    """Put the checksum of a file into its blank mark."""
    for text, checksum in _marks_within(path).items():
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            data[(start := data.find(text)) : start + len(text)] = re.sub(b"0{8}$", b"%08x" % checksum, text)


def _start(path: Path) -> bytes:
    """As much of a file as tells its format, and holds the mark of a PNG."""
    with open(path, "rb") as file:
        return file.read(PNG_HEADER + 200)


def _line(kind: Kind, checksums: Iterable[int]) -> bytes:
    numbers = " ".join(f"{number:08x}" for number in checksums)
    return f"terrazzo {terrazzo.__version__}: {kind}, checksum {numbers}".encode()


def _line_of(match: re.Match[bytes], checksum: int) -> bytes:
    """The text of a mark with another checksum of its file."""
    start = match.start(2) - match.start()
    return match[0][: start + 1] + b"%08x" % checksum + match[0][start + 9 :]


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes in the encoding of Protocol Buffers."""
    return bytes([number << 3 | 2]) + bytes([len(value) & 0x7F | 0x80, len(value) >> 7]) + value


def _mark_archive(file: str | os.PathLike[str] | BinaryIO, kind: Kind) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = _line(kind, [_archive_checksum(archive)])


def _archive_checksum(archive: zipfile.ZipFile) -> int:
    return zlib.crc32(repr([(entry.filename, entry.CRC) for entry in archive.infolist()]).encode())


def _png_mark(kind: Kind, checksum: int) -> bytes:
    body = b"tEXtComment\0" + _line(kind, [checksum])
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _png_checksum(file: BinaryIO) -> int:
    """The CRC of the CRCs of all chunks but the mark."""
    checksums = b"".join(crc for kind, head, crc in _png_chunks(file) if not (kind == b"tEXt" and MARK.search(head)))
    return zlib.crc32(checksums)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield each chunk's kind, the beginning of a text chunk's content, and its CRC, without reading the pixels."""
    file.seek(len(PNG))
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        head = file.read(min(length, 200)) if kind == b"tEXt" else b""
        file.seek(length - len(head), os.SEEK_CUR)
        yield kind, head, file.read(4)


def _mark_tiff(path: Path, kind: Kind) -> None:
    """Fill in the blank mark of a TIFF, if it has one."""
    mark = _tiff_mark(path)
    if mark is not None:
        line = _line(kind, [_tiff_checksum(path, *mark)])
        with open(path, "r+b") as file:
            file.seek(mark[0])
            file.write(line)


def _tiff_mark(path: Path) -> tuple[int, bytes] | None:
    """Where in a TIFF its mark stands, and its text."""
    with open(path, "rb") as file:
        tag = first_directory(file).get(SOFTWARE)
        if tag is None:
            return None
        file.seek(tag.offset)
        match = MARK.match(file.read(min(tag.length, 200)))
    return None if match is None else (tag.offset, match[0])


def _tiff_checksum(path: Path, offset: int, mark: bytes) -> int:
    """The CRC of a file whose mark has zeros for its checksum."""
    match = MARK.match(mark)
    assert match is not None
    return checksum_with(path, offset, _line_of(match, 0))
