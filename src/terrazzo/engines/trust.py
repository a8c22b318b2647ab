"""The list of ``.pt2`` files that this user trusts: opening one can run any code, so only listed ones are opened.

The list holds SHA-256 sums, one per line, of the files that `terrazzo export` wrote here and of those that were given
with ``--trust-file`` or ``trust=True``. It lies in the user's configuration folder, and is refused if others can write
to it. A file is read once, and the bytes that were hashed are those that are opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.notes import note
from terrazzo.regular_files import open_regular, others_can_write, read_regular
from terrazzo.text import shown_path

__all__ = ["read_trusted", "remember", "trust_file"]

MOST_BYTES = 64 << 30
LIST = "trusted-files"


def read_trusted(path: Path, trust: bool = False) -> bytes:
    """Return the content of a file that may run code, if the user trusts it.

    Args:
        path: the file.
        trust: put the file on the list.

    Raises:
        CheckpointError: it cannot be read (code "checkpoint-missing"), or is not trusted ("model-untrusted").
        ConfigError: others can write to the list of trusted files ("trust-list").
    """
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise CheckpointError(
            f"{shown_path(path)} cannot be read: {error.strerror}", fix="check the path", code="checkpoint-missing"
        ) from error
    if trust:
        remember(content, path.name)
    elif (sha256 := hashlib.sha256(content).hexdigest()) not in _listed():
        raise CheckpointError(
            f"{shown_path(path)} can run any code when it is opened, and was not exported on this machine "
            f"(SHA-256 {sha256})",
            fix="if you trust its author, open it once with --trust-file (trust=True in Python); of others, ask for "
            ".onnx, OpenVINO or safetensors files, which cannot run code",
            code="model-untrusted",
        )
    return content


def trust_file(path: Path) -> None:
    """Put a file that the user trusts on the list, so that other processes open it.

    Raises:
        CheckpointError: it cannot be read.
    """
    read_trusted(path, trust=True)


def remember(content: bytes, name: str) -> None:
    """Put a file on the list of trusted ones; if the list cannot be written, a note says so."""
    line = f"{hashlib.sha256(content).hexdigest()}  {ascii(name)[1:-1]}\n"
    try:
        if line[:64] in _listed():
            return
        path = _list_path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One short write at the end of the file: two processes cannot spoil each other's line.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            _refuse_writable_by_others(path, os.fstat(descriptor))
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
    except (OSError, ConfigError) as error:
        reason = error.message if isinstance(error, ConfigError) else f"{error.strerror or error}"
        note(f"{shown_path(name)} could not be put on the list of trusted files: {reason}")


def _list_path() -> Path:
    """The list, in the user's configuration folder.

    Raises:
        ConfigError: the user's home folder is unknown.
    """
    home = os.path.expanduser("~")
    variable, usual = {
        "win32": ("APPDATA", os.path.join(home, "AppData", "Roaming")),
        "darwin": ("", os.path.join(home, "Library", "Application Support")),
    }.get(sys.platform, ("XDG_CONFIG_HOME", os.path.join(home, ".config")))
    base = os.environ.get(variable, "")
    folder = base if os.path.isabs(base) else usual
    if not os.path.isabs(folder):
        raise ConfigError("the user has no home folder", fix="set HOME", code="trust-list")
    return Path(folder) / "terrazzo" / LIST


def _listed() -> set[str]:
    """Read the list.

    Raises:
        ConfigError: others can write to it.
    """
    try:
        path = _list_path()
        with open_regular(path) as file:
            _refuse_writable_by_others(path, os.fstat(file.fileno()))
            lines = file.read().decode("ascii", "replace").splitlines()
    except OSError:
        return set()
    return {line[:64] for line in lines}


def _refuse_writable_by_others(path: Path, status: os.stat_result) -> None:
    """Check that nobody else can write to the list or replace it."""
    for place, found in ((path, status), *((folder, os.stat(folder)) for folder in path.parents)):
        is_sticky = place != path and found.st_mode & stat.S_ISVTX and found.st_uid in (0, os.geteuid())
        if others_can_write(found) and not is_sticky:  # in /tmp, nobody can replace another's files
            raise ConfigError(
                f"others can write to {shown_path(place)}, where the list of trusted files lies",
                fix=f"look through {shown_path(path)}, then take the right away: chmod go-w {shown_path(place)}",
                code="trust-list",
            )
