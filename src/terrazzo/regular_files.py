"""Opening files that others wrote: only regular files, because reading a pipe, a device or a socket may never end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

__all__ = ["kind_of_irregular", "named_in_text", "open_regular", "others_can_write", "read_regular"]

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Opening a pipe waits for a writer without the first; Windows has only the second, and no pipes among its files.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading bytes.

    Raises:
        OSError: it is missing, unreadable, has an impossible name, or is a folder, pipe, device or socket; `strerror`
            says which in words.
    """
    try:
        descriptor = os.open(path, FLAGS)
    except ValueError as error:  # a name with a zero byte
        raise OSError(errno.EINVAL, "no file can have that name", os.fspath(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # what opening a socket gives
            raise OSError(errno.EINVAL, "it is a socket, not a file", os.fspath(path)) from error
        raise
    try:
        if kind := kind_of_irregular(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", os.fspath(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: as `open_regular`; or it holds more than `most_bytes`, or grows meanwhile.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {most_bytes:,} bytes", os.fspath(path))
        content = file.read(size + 1)  # the memory is asked for at once
    if len(content) > size:  # as those of /proc, which say that they are empty
        raise OSError(errno.EINVAL, "it grows while it is read", os.fspath(path))
    return content


def others_can_write(status: os.stat_result) -> bool:
    """Whether somebody else than this user (with a group of the same number) and root can write to a file or folder."""
    if not hasattr(os, "geteuid"):  # Windows keeps a user's folders to the user
        return False
    is_private_group = status.st_gid == os.getegid() == os.geteuid()
    writers = stat.S_IWOTH if is_private_group else stat.S_IWOTH | stat.S_IWGRP
    return status.st_uid not in (0, os.geteuid()) or bool(status.st_mode & writers)


def kind_of_irregular(mode: int) -> str | None:
    """Name what a file's mode says that it is, where that is not a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something special")


@contextmanager
def named_in_text(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a name under which libraries that take only text can open a file whose name is other bytes."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"
        return
    yield name
