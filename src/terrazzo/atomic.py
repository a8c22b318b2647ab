"""Atomic writes: a reader sees the old file or the new one, and never half of either.

Everything is written beside its destination, flushed to the disk and then put in place by one atomic rename. When
anything fails on the way, the old file stays and nothing is left behind, and errors name the destination. Only a
process killed outright can leave a hidden file or folder whose name begins with `PARTIAL_PREFIX`; `clear_stale` removes
it. Each is locked for as long as its process lives, which also holds across containers, where process numbers repeat.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from terrazzo.errors import OutputError, TerrazzoError

__all__ = [
    "PARTIAL_PREFIX",
    "clear_stale",
    "discard_partials",
    "make_folder",
    "refuse_irregular",
    "refuse_unwritable",
    "replacing",
    "replacing_folder",
    "replacing_together",
    "temporary_folder",
    "write_atomic",
]

PARTIAL_PREFIX = ".terrazzo-partial-"
ASIDE_PREFIX = f"{PARTIAL_PREFIX}old-"  # a folder that is just being replaced: may be the only copy
_live: set[Path] = set()  # half-written files and folders of this process


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically.

    Raises:
        OutputError: the folder cannot be created or written to, `path` is not a regular file, or the disk is full.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` when the block ends without an exception.

    The path yielded is an empty file in the same folder, which is created if it is missing, and has the same suffix,
    for writers that go by the suffix. A symbolic link at `path` is followed, and the permissions of a file already
    there are kept.

    Raises:
        OutputError: the folder cannot be created or written to, `path` is not a regular file, or the disk is full. Any
            other exception from the block passes through unchanged.
    """
    target = Path(os.path.realpath(path))
    make_folder(target.parent)
    try:
        refuse_irregular(target)
        with _claimed(target.parent, target.suffix) as partial, _naming(partial, path):
            try:
                yield partial
                _flush(partial)
                with suppress(FileNotFoundError):
                    os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
                os.replace(partial, target)
            except BaseException:
                _discard(partial)
                raise
    except OSError as error:
        if not _is_about(error, target):
            raise
        raise _output_error(path, error) from error
    _flush_folder(target.parent)


@contextmanager
def replacing_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield one path for each of `paths`, of the same name in a hidden folder; they replace `paths` when the block
    ends.

    Nothing is moved before all of the block has succeeded, so it may look at what it wrote and refuse it. The folder is
    created if it is missing.

    Args:
        paths: files of one folder, the one that makes the others usable last.

    Raises:
        OutputError: the folder cannot be created or written to, one of `paths` is not a regular file, or the disk is
            full. Any other exception from the block passes through unchanged.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]
    parent = make_folder(targets[0].parent)
    try:
        for target in targets:
            refuse_irregular(target)
        with _claimed(parent, folder=True) as hidden, _naming(hidden, Path(paths[0]).parent):
            try:
                partials = [hidden / path.name for path in paths]
                yield partials
                for partial in partials:
                    _flush(partial)
                for partial, target in zip(partials, targets, strict=True):
                    os.replace(partial, target)
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        if not _is_about(error, targets[-1]):
            raise
        raise _output_error(paths[-1], error) from error
    _flush_folder(parent)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], *, keep_others: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes the place of `path` when the block ends without an exception.

    Its parents are created. A folder already there is replaced only once the new one is complete; with
    `keep_others`, what it has under other names stays in it.

    Raises:
        OutputError: the place cannot be written.
    """
    folder = Path(path)
    make_folder(folder.parent)
    old = folder.with_name(f"{ASIDE_PREFIX}{uuid4().hex}")
    try:
        with _claimed(folder.parent, folder=True) as partial, _naming(partial, folder):
            try:
                yield partial
                if keep_others:
                    _take_along(folder, partial)
                _live.discard(partial)  # from here on a signal must not take the only copy away
                if folder.exists():
                    os.rename(folder, old)
                try:
                    os.rename(partial, folder)
                except OSError:
                    if old.exists():
                        os.rename(old, folder)
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if not _is_about(error, folder):
            raise
        raise _output_error(folder, error) from error


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new, empty folder; it is removed when the block ends or a signal ends the process.

    Args:
        parent: where it is made; by default where the system has temporary files. What killed processes left there is
            removed.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    clear_stale(parent)
    with _claimed(parent, folder=True) as folder:
        os.chmod(folder, 0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make sure that the folder `path` exists, its parents too, and return it.

    Raises:
        OutputError: it cannot be created, or something that is not a folder has its name.
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


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, as far as can be told without doing it.

    Raises:
        OutputError: a part of the path is a file, or nothing may be written there.
    """
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(
            f"{nearest} is a file, and a folder is needed", fix="name another folder", code="output-not-a-folder"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _output_error(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def refuse_irregular(target: Path) -> None:
    """Refuse what a file cannot replace: a rename would take away a device such as /dev/null, and fails on a folder.

    Raises:
        OutputError: there is a folder, a pipe or a device, or a link that leads round in a circle.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _output_error(target, error) from error
    if stat.S_ISDIR(mode):
        raise OutputError(f"{target} is a folder", fix="name a file in it", code="output-is-a-folder")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{target} is not a regular file", fix="name another file", code="output-not-a-file")


def clear_stale(folder: Path) -> None:
    """Remove what killed processes left half written in a folder; what a living process writes stays."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(PARTIAL_PREFIX)]
    except OSError:
        return
    for path in (folder / name for name in names if not name.startswith(ASIDE_PREFIX)):
        with suppress(OSError):  # a living process holds the lock, or locks do not work here
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(path)
            finally:
                os.close(descriptor)


def discard_partials() -> None:
    """Remove everything that this process has half written, for when it is about to be ended."""
    for partial in list(_live):
        if partial.is_dir():  # renamed first: other threads may be writing into it
            with suppress(OSError):
                partial = partial.rename(partial.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}"))
        _discard(partial)


@contextmanager
def _claimed(parent: Path, suffix: str = "", *, folder: bool = False) -> Iterator[Path]:
    """Yield a new hidden file or folder, locked until the block ends."""
    partial, descriptor = _create(parent, suffix, folder)
    _live.add(partial)
    try:
        yield partial
    finally:
        _live.discard(partial)
        os.close(descriptor)


def _create(parent: Path, suffix: str, folder: bool) -> tuple[Path, int]:
    while True:
        partial = parent / f"{PARTIAL_PREFIX}{uuid4().hex}{suffix}"
        if folder:
            partial.mkdir()
            descriptor = os.open(partial, os.O_RDONLY)
        else:
            # Mode 0o666 less the umask, as open() would give; O_EXCL so that nobody else's file is ever taken over.
            descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with suppress(OSError):  # some network file systems have no locks, and there nothing counts as stale
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return partial, descriptor
        os.close(descriptor)  # another process took it for stale before it was locked


@contextmanager
def _naming(partial: Path, path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the destination in errors raised inside the block, in place of the hidden path."""
    try:
        yield
    except TerrazzoError as error:
        for hidden, known in ((str(partial), os.fspath(path)), (partial.name, os.path.basename(path))):
            error.message, error.fix = error.message.replace(hidden, known), error.fix.replace(hidden, known)
        error.args = (error.message,)
        raise


def _is_about(error: OSError, target: Path) -> bool:
    """Whether a failure is that of writing a destination, and not of reading some other file meanwhile."""
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return True
    path = Path(os.fsdecode(error.filename))
    return path == target or any(part.startswith(PARTIAL_PREFIX) for part in path.parts)


def _take_along(old: Path, new: Path) -> None:
    """Give a new folder what lies in the old one under names of its own, without copying where links can do."""
    for entry in os.scandir(old) if old.is_dir() else ():
        target = new / entry.name
        if os.path.lexists(target) or entry.name.startswith(PARTIAL_PREFIX):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.copytree(entry, target, symlinks=True, copy_function=_link)
        else:
            _link(entry.path, target)


def _link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _discard(partial: Path) -> None:
    with suppress(OSError):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
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
