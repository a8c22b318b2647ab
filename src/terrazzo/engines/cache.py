"""The cache folder: converted and compiled models, which can be made again at any time.

The environment variable ``TERRAZZO_CACHE`` sets its place; the default is the system's usual one. It is created with
the first entry, and deleting it costs nothing but time.

The name of an entry's file holds a hash of what it was made from and a checksum of its content. So one rename puts it
in place, two processes that make the same entry at once do not disturb each other, and a damaged file does not match
its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from terrazzo.atomic import write_atomic
from terrazzo.regular_files import open_regular, others_can_write

__all__ = ["cache_folder", "cached", "keep"]


def cache_folder() -> Path:
    """Return where entries are kept; the folder need not exist yet."""
    if chosen := os.environ.get("TERRAZZO_CACHE"):
        return Path(chosen)
    home = os.path.expanduser("~")  # where the home folder is unknown, a relative path
    variable, usual = {
        "win32": ("LOCALAPPDATA", os.path.join(home, "AppData", "Local")),
        "darwin": ("", os.path.join(home, "Library", "Caches")),
    }.get(sys.platform, ("XDG_CACHE_HOME", os.path.join(home, ".cache")))
    base = os.environ.get(variable, "")
    return Path(base if os.path.isabs(base) else usual) / "terrazzo"  # the XDG standard ignores relative paths


def cached(key: Mapping[str, Any], suffix: str) -> Path | None:
    """Return an entry's file, or None if this user has none; damaged files are removed.

    Args:
        key: everything that decides what the entry holds. Plain JSON values.
        suffix: of the file.
    """
    digest = _digest(key)
    for path in sorted(cache_folder().glob(f"{digest}-*{suffix}")):
        with suppress(OSError):
            with open_regular(path) as file:
                if others_can_write(os.fstat(file.fileno())):  # compiled networks run without a further check
                    continue
                content = file.read()
            if path.name == _name(digest, content, suffix):
                return path
            path.unlink()
    return None


def keep(key: Mapping[str, Any], suffix: str, content: bytes) -> Path:
    """Write an entry and return its file.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    path = cache_folder() / _name(_digest(key), content, suffix)
    write_atomic(path, content)
    with suppress(OSError):  # some file systems have no permissions
        path.chmod(path.stat().st_mode & ~0o022)  # `cached` skips what others can write to
    return path


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _name(digest: str, content: bytes, suffix: str) -> str:
    # A checksum detects damage, not tampering, and is ten times as fast as a cryptographic hash.
    return f"{digest}-{len(content):x}-{zlib.crc32(content):08x}{suffix}"
