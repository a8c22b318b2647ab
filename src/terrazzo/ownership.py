"""Which files are this program's own, known by their marks (marks.py), so that nothing else is ever replaced."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path

from terrazzo.atomic import clear_stale, refuse_irregular, refuse_unwritable, replacing, replacing_together
from terrazzo.errors import ImageError, OutputError
from terrazzo.marks import UNMARKED, Kind, checksums, is_result, marked
from terrazzo.notes import note
from terrazzo.text import shown_path

__all__ = [
    "check_outputs",
    "is_unchanged",
    "leave_out_results",
    "put_aside",
    "refuse_foreign",
    "set_aside",
    "write_result",
    "write_results",
]

ANYBODY_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
SHOWN = 10  # files listed in one message


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
            partial.write_bytes(marked(data, path.suffix, kind, beside if path.suffix == ".json" else ()))


def write_result(path: Path, data: bytes, kind: Kind) -> None:
    """Write one file with a mark, atomically.

    Raises:
        OutputError: the place cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(marked(data, path.suffix, kind))


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
        if checksums(path, kind):
            return True
        if path.suffix not in UNMARKED:
            return False
        checksum = zlib.crc32(path.read_bytes())
        neighbours = (other for other in there if other.parent == path.parent and other.suffix not in UNMARKED)
        return any(checksum in checksums(other, kind)[1:] for other in neighbours)
    except (OSError, zipfile.BadZipFile):
        return False


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
