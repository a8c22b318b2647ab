"""Which files are this program's own: the mark that every result carries, and the check that nothing else is replaced.

The mark is one line of text with a checksum of the file around it, so a result that somebody has corrected by hand is
theirs and no longer ours:

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

Formats without room for it (CSV, TXT, Markdown, BIN) are known by the marked file beside them, which has their
checksums behind its own.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, Literal

import terrazzo
from terrazzo.atomic import clear_stale, refuse_irregular, refuse_unwritable, replacing, replacing_together
from terrazzo.errors import ImageError, OutputError
from terrazzo.notes import note
from terrazzo.text import shown_path
from terrazzo.tiff_tags import checksum_with, first_directory, is_tiff

__all__ = [
    "MARK",
    "Kind",
    "blank_mark",
    "blank_png_mark",
    "check_outputs",
    "is_result",
    "is_unchanged",
    "leave_out_results",
    "mark_files",
    "put_aside",
    "refuse_foreign",
    "set_aside",
    "write_result",
    "write_results",
]

MARK = re.compile(rb"terrazzo [^\s:]+: ([a-z-]+), checksum((?: [0-9a-f]{8})+)")
PNG = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = len(PNG) + 25  # with IHDR, behind which the mark stands
ZIP = b"PK\x03\x04"
ANYBODY_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
SOFTWARE = 305  # the TIFF tag
SHOWN = 10  # files listed in one message
Kind = Literal["predict", "evaluate", "explain", "ablate", "benchmark", "check-data", "compare", "export", "train"]
"""The command whose result a file is."""

VIDEOS = (".mp4", ".mkv")
UNMARKED = (".csv", ".txt", ".md", ".bin")


def check_outputs(
    paths: Iterable[Path], kind: Kind, *, inputs: Iterable[Path] = (), overwrite: bool = False, option: str = "--output"
) -> None:
    """Check, before any work is done, that files can be written and replace nothing but earlier results.

    Also removes what killed processes left half written in the folders concerned.

    Args:
        paths: the files that will be written.
        kind: the command that writes them: results of another one are not replaced either.
        inputs: files and folders that are read; none of them is ever replaced, whatever its name.
        overwrite: replace what is there, inputs excepted.
        option: names the place, for the advice.

    Raises:
        OutputError: as `refuse_foreign`, or nothing can be written there.
    """
    paths = list(dict.fromkeys(paths))
    for folder in dict.fromkeys(path.parent for path in paths):
        refuse_unwritable(folder)
        clear_stale(folder)
    refuse_foreign(paths, kind, inputs=inputs, overwrite=overwrite, option=option)


def refuse_foreign(
    paths: Iterable[Path], kind: Kind, *, inputs: Iterable[Path] = (), overwrite: bool = False, option: str = "--output"
) -> None:
    """Refuse to replace what is not an earlier result of the same command; `check_outputs` does this and more.

    Raises:
        OutputError: a path is an input (code "output-is-input"), a file that is not ours ("output-not-ours"), or no
            regular file.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        return
    inputs = list(inputs)
    for path in there:
        refuse_irregular(path)
    weights = [path.with_suffix(".bin") for path in inputs if path.suffix == ".xml"]  # OpenVINO's lie beside it
    read = {_identity(path): path for path in [*inputs, *weights]}
    folders = [Path(os.path.realpath(path)) for path in read.values() if path.is_dir()]
    for path in there:
        identity, real = _identity(path), Path(os.path.realpath(path))
        inside = any(real.is_relative_to(folder) for folder in folders) and not _is_own(path, kind, there)
        if inside or (identity is not None and identity in read):
            known = read.get(identity, path)
            source = "" if known == path else f": it is {shown_path(known)}"
            raise OutputError(
                f"{shown_path(path)} would be replaced, which is an input of this run{source}",
                fix=f"choose another {option}",
                code="output-is-input",
            )
    foreign = [] if overwrite else [path for path in there if not _is_own(path, kind, there)]
    if foreign:
        listed = ", ".join(map(_with_target, foreign[:SHOWN]))
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        wrote = "it is not as" if len(foreign) == 1 else "they are not as"
        it = "it" if len(foreign) == 1 else "them"
        raise OutputError(
            f"{listed}{more} would be replaced, and {wrote} `terrazzo {kind}` wrote {it}",
            fix=f"choose another {option}, or add --overwrite (in Python overwrite=True); results of earlier versions "
            "need it too, for they carry no mark",
            code="output-not-ours",
        )


def set_aside(paths: Iterable[Path], kind: Kind) -> None:
    """Rename files that are not as a command wrote them, such as a recipe with somebody's remarks, and say so.

    A command that goes on with earlier work does this, where it is too late to refuse.
    """
    there = [path for path in paths if os.path.lexists(path)]
    for path in [path for path in there if not _is_own(path, kind, there)]:
        note(put_aside(path))


def put_aside(path: Path) -> str:
    """Rename a file that is not as this program wrote it, and return what to say about it."""
    names = (f"{path.stem}.earlier{number}{path.suffix}" for number in chain([""], count(2)))
    free = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    os.rename(path, free)
    return f"{shown_path(path)} was not as this program wrote it, and is now {shown_path(free)}"


def leave_out_results(
    found: Sequence[Path],
    arguments: Sequence[str | os.PathLike[str]],
    is_ours: Callable[[Path], bool] | None = None,
) -> tuple[list[Path], list[Path]]:
    """Separate photos from the results of earlier runs among them, with a note that says how many are left out.

    Results that are named one by one, and nothing else is, are photos too: somebody wants just them.

    Args:
        found: images.
        arguments: the files, folders and patterns they were found by.
        is_ours: tells results from other files; by default that of images.

    Raises:
        ImageError: nothing but results is there (code "image-none-found").
    """
    told = "images there are results of earlier runs"
    told = told if is_ours is None else told.replace("images", "videos")
    is_ours = is_ours or (lambda path: is_result(path) or _belongs_to_run(path))
    results = [path for path in found if is_ours(path)]
    if not results:
        return list(found), []
    if len(results) < len(found):
        taken, count = set(results), "1 result" if len(results) == 1 else f"{len(results)} results"
        note(f"left out {count} of earlier runs, such as {shown_path(results[0])}")
        return [path for path in found if path not in taken], results
    if all(os.path.isfile(argument) for argument in arguments):
        note(f"taken although it is a result of an earlier run, for nothing else was named: {shown_path(results[0])}")
        return results, []
    raise ImageError(
        f"{', '.join(map(shown_path, arguments))}: all {len(results)} {told}",
        fix="name a folder of photos; to take a result for a photo, name its file",
        code="image-none-found",
    )


def is_result(path: Path) -> bool:
    """Whether an image file is a result of this program's, changed since or not, and so no photo."""
    try:
        start = _start(path) if path.is_file() else b""
        if is_tiff(start):
            return _tiff_mark(path) is not None
    except OSError:
        return False
    return start.startswith(PNG) and MARK.search(start) is not None


def is_unchanged(path: Path, kind: Kind) -> bool:
    """Whether a file that can carry a mark is there as a command wrote it."""
    return _is_own(path, kind, [])


def write_results(files: Mapping[Path, bytes], kind: Kind) -> None:
    """Write files of one folder, with marks, and put them in place together, the last one last.

    A JSON file among them has the checksums of those that carry no mark themselves.

    Raises:
        OutputError: the place cannot be written.
    """
    beside = [zlib.crc32(data) for path, data in files.items() if path.suffix in UNMARKED]
    with replacing_together(list(files)) as partials:
        for partial, (path, data) in zip(partials, files.items(), strict=True):
            partial.write_bytes(_marked(data, path.suffix, kind, beside if path.suffix == ".json" else ()))


def write_result(path: Path, data: bytes, kind: Kind) -> None:
    """Write one file with a mark, atomically.

    Raises:
        OutputError: the place cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(_marked(data, path.suffix, kind))


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
        elif path.suffix.lower() in VIDEOS:
            _fill_in_mark(path)
        elif path.suffix not in UNMARKED:
            path.write_bytes(_marked(path.read_bytes(), path.suffix, kind, beside))


def blank_png_mark(kind: Kind) -> bytes:
    """The chunk that `mark_files` fills in, for a PNG that is written in parts: to stand behind its header."""
    return _png_mark(kind, 0)


def blank_mark(kind: Kind) -> str:
    """The text that `mark_files` fills in: for a TIFF's tag Software, and the comment of a video."""
    return _line(kind, [0]).decode()


def _belongs_to_run(path: Path) -> bool:
    """Whether an image is a picture of a training run, of earlier versions too, whose pictures carry no mark."""
    in_report = path.parent.name == "report"
    run = path.parent.parent if in_report else path.parent
    is_picture = in_report or path.name in ("curves.png", "predictions.png")
    return is_picture and (run / "recipe.yaml").is_file() and (run / "log.csv").is_file()


def _is_own(path: Path, kind: Kind, there: Sequence[Path]) -> bool:
    """Whether a file is as a command wrote it, and is not write-protected: a cache of versions may hold it."""
    try:
        if not path.stat().st_mode & ANYBODY_WRITES:
            return False
        if _checksums(path, kind):
            return True
        if path.suffix not in UNMARKED:
            return False
        checksum = zlib.crc32(path.read_bytes())
        neighbours = (other for other in there if other.parent == path.parent and other.suffix not in UNMARKED)
        return any(checksum in _checksums(other, kind)[1:] for other in neighbours)
    except (OSError, zipfile.BadZipFile):
        return False


def _checksums(path: Path, kind: Kind) -> list[int]:
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
    """Put the checksum of a video into its blank mark."""
    for text, checksum in _marks_within(path).items():
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            data[(start := data.find(text)) : start + len(text)] = re.sub(b"0{8}$", b"%08x" % checksum, text)


def _marked(data: bytes, suffix: str, kind: Kind, beside: Iterable[int] = ()) -> bytes:
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


def _with_target(path: Path) -> str:
    """A path as messages have it, and the file that a link at it stands for: that is what would be replaced."""
    target = f" (a link to {shown_path(os.path.realpath(path))})" if path.is_symlink() else ""
    return shown_path(path) + target


def _identity(path: Path) -> tuple[int, int] | None:
    """What file a path leads to, whatever its spelling and through links; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
