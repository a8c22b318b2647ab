"""Writing files so that a reader sees the old one or the new one, and never half of either.

Everything is written beside its destination, flushed to the disk and then put in place by one atomic rename. When
anything fails on the way, the old file stays and nothing is left behind; only a process killed outright can leave a
hidden file whose name begins with `PARTIAL_PREFIX`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from terrazzo.errors import OutputError

__all__ = ["PARTIAL_PREFIX", "make_folder", "replacing", "replacing_folder", "replacing_together", "write_atomic"]

PARTIAL_PREFIX = ".terrazzo-partial-"


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path`, atomically.

    Raises:
        OutputError: the folder is missing or not writable, `path` is not a regular file, or the disk is full.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` when the block ends without an exception.

    The path yielded is an empty file in the same folder and has the same suffix, for writers that go by the suffix.
    A symbolic link at `path` is followed, and the permissions of a file already there are kept.

    Raises:
        OutputError: the folder is missing or not writable, `path` is not a regular file, or the disk is full. Any
            other exception from the block passes through unchanged.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}{target.suffix}")
    try:
        _refuse_irregular(target)
        # Mode 0o666 less the umask, as open() would give; O_EXCL so that nobody else's file is ever taken over.
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield partial
        _flush(partial)
        with suppress(FileNotFoundError):
            os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
        os.replace(partial, target)
    except OSError as error:
        _discard(partial)
        # The block may have failed to read some other file, and that is not this destination's fault.
        if error.filename in (None, str(partial), partial, str(target), target):
            raise _output_error(path, error) from error
        raise
    except BaseException:
        _discard(partial)
        raise
    _flush_folder(target.parent)


@contextmanager
def replacing_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield as many paths, of the same names in a hidden folder, that take the places of `paths` when the block ends.

    Nothing is moved before all of the block has succeeded, so it may look at what it wrote and refuse it.

    Args:
        paths: files of one folder, the one that makes the others usable last.

    Raises:
        OutputError: the folder is missing or not writable, one of `paths` is not a regular file, or the disk is full.
            Any other exception from the block passes through unchanged.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]
    hidden = targets[0].with_name(f"{PARTIAL_PREFIX}{uuid4().hex}")
    try:
        for target in targets:
            _refuse_irregular(target)
        hidden.mkdir()
        partials = [hidden / path.name for path in paths]
        yield partials
        for partial in partials:
            _flush(partial)
        for partial, target in zip(partials, targets, strict=True):
            os.replace(partial, target)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(hidden):
            raise
        raise _output_error(paths[-1], error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    _flush_folder(targets[0].parent)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes the place of `path` when the block ends without an exception.

    Its parents are created. A folder already there is replaced only once the new one is complete.

    Raises:
        OutputError: the place cannot be written.
    """
    folder = Path(path)
    make_folder(folder.parent)
    partial = folder.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}")
    old = folder.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}")
    try:
        yield make_folder(partial)
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(partial, folder)
        except OSError as error:
            if old.exists():
                os.rename(old, folder)
            raise _output_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make sure that the folder `path` exists, its parents too, and return it.

    Raises:
        OutputError: it cannot be created, or something that is no folder has its name.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"{folder} is a file, and a folder is needed", fix="name another folder", code="output-not-a-folder"
        ) from error
    except OSError as error:
        raise _output_error(folder, error) from error
    return folder


def _refuse_irregular(target: Path) -> None:
    """A rename would replace a device such as /dev/null, and fails on a folder only after the work is done."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"{target} is a folder", fix="name a file in it", code="output-is-a-folder")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{target} is not a regular file", fix="name another file", code="output-not-a-file")


def _discard(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can; the new file is already in place."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    where = os.fspath(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{where} could not be written: the disk is full", fix="free some space", code="output-disk-full"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{where} could not be written: {error.strerror}",
            fix="choose a folder you may write to",
            code="output-not-writable",
        )
    if error.errno == errno.ENOENT:
        return OutputError(
            f"{where} could not be written: its folder does not exist",
            fix="create the folder first",
            code="output-no-folder",
        )
    return OutputError(f"{where} could not be written: {error.strerror or error}", fix="choose another place")
