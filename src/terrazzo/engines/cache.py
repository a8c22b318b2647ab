"""A folder of the user's for what can always be made again: converted and compiled models.

``TERRAZZO_CACHE`` names it; otherwise it is where the system keeps such things. Nothing is made before the first entry,
and deleting the folder at any time costs no more than time.

An entry's file is named after what it was made of and after its own content. So it is put in place by one rename, two
processes that make the same entry at once cannot spoil each other's, and a damaged one is told from its name.
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
    home = os.path.expanduser("~")  # where nobody knows the user's home, a folder of the working one
    variable, usual = {
        "win32": ("LOCALAPPDATA", os.path.join(home, "AppData", "Local")),
        "darwin": ("", os.path.join(home, "Library", "Caches")),
    }.get(sys.platform, ("XDG_CACHE_HOME", os.path.join(home, ".cache")))
    base = os.environ.get(variable, "")
    return Path(base if os.path.isabs(base) else usual) / "terrazzo"  # XDG has relative paths ignored


def cached(key: Mapping[str, Any], suffix: str) -> Path | None:
    """Return an entry's file, or None where this user has none; damaged files are removed.

    Args:
        key: everything that decides what the entry holds. Plain JSON values.
        suffix: of the file.
    """
    digest = _digest(key)
    for path in sorted(cache_folder().glob(f"{digest}-*{suffix}")):
        with suppress(OSError):
            with open_regular(path) as file:
                if others_can_write(os.fstat(file.fileno())):  # a compiled network is not looked at before it runs
                    continue
                content = file.read()
            if path.name == _name(digest, content, suffix):
                return path
            path.unlink()
    return None


def keep(key: Mapping[str, Any], suffix: str, content: bytes) -> Path:
    """Make an entry and return its file.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    path = cache_folder() / _name(_digest(key), content, suffix)
    write_atomic(path, content)
    with suppress(OSError):  # such a folder has no permissions
        path.chmod(path.stat().st_mode & ~0o022)  # or `cached` would not believe it
    return path


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _name(digest: str, content: bytes, suffix: str) -> str:
    # A checksum against damage, not against malice, and ten times as fast as a hash that would be.
    return f"{digest}-{len(content):x}-{zlib.crc32(content):08x}{suffix}"
