"""Finding files by the names that documents give them, without ever leaving the data set's folder.

Names come from other systems: backslashes between folders, composed or decomposed accents, absolute paths of somebody's
machine, thousands of characters. Each folder is listed once, and a name is looked up in these lists; the system is
never asked for a name that a document made up.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import deque
from pathlib import Path
from typing import NamedTuple

from terrazzo.data.folders import folder_entries
from terrazzo.errors import DatasetError
from terrazzo.text import printable

__all__ = ["FileTree", "base_name", "leads_elsewhere", "shown_name"]

MOST_FOLDERS = 2000  # looked through for a file by its name alone
MOST_DEPTH = 5
LONGEST = 100  # characters of a name in a message


def leads_elsewhere(name: str) -> bool:
    """Whether a name is an address or an absolute path, or goes up and out of the folder it is relative to."""
    return _parts(name) is None


def base_name(name: str) -> str:
    """The last part of a path or address, whatever the system that wrote it."""
    return re.split(r"[/\\]", re.split(r"[?#]", name)[0] if "://" in name else name)[-1]


def shown_name(name: str) -> str:
    """Write a document's name for a file in a message: its end, where it is long."""
    return printable(name if len(name) <= LONGEST else f"...{name[-LONGEST:]}")


class Names(NamedTuple):
    """What lies in a folder, by name: each as it is on disk, and in composed form too."""

    files: dict[str, str]
    folders: dict[str, str]
    images: dict[str, str]  # by name without ending


class FileTree:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, Names] = {}

    def find(self, name: str, base: Path | None = None) -> Path | None:
        """Find a file by a name relative to `base`, a folder in the tree; by default the root.

        Returns:
            The file as it is called on disk, or None where there is none or the name leads out of the root.
        """
        above = [] if base is None else list(base.relative_to(self.root).parts)
        parts = _parts(name, above)
        if not parts:
            return None
        folder = self.root
        for part in parts[:-1]:
            below = _named(self._names(folder).folders, part)
            if below is None:
                return None
            folder /= below
        file = _named(self._names(folder).files, parts[-1])
        return None if file is None else folder / file

    def find_image(self, stem: str, folder: Path) -> Path | None:
        """Find the image file of a name without ending that lies directly in a folder."""
        name = _named(self._names(folder).images, stem)
        return None if name is None else folder / name

    def folder_with(self, name: str) -> Path | None:
        """Find the folder that has a file of this name or relative path, the nearest to the root first."""
        queue, seen = deque([self.root]), 0
        while queue and seen < MOST_FOLDERS:
            folder = queue.popleft()
            seen += 1
            if self.find(name, folder) is not None:
                return folder
            if len(folder.relative_to(self.root).parts) < MOST_DEPTH:
                below = (folder / entry for entry in sorted(set(self._names(folder).folders.values())))
                queue.extend(path for path in below if path.name[0] != "." and not path.is_symlink())
        return None

    def _names(self, folder: Path) -> Names:
        if folder not in self._known:
            try:
                entries = folder_entries(folder)
            except DatasetError:  # a folder that is not there, or closed to us, has nothing for us
                entries = []
            names = self._known[folder] = Names({}, {}, {})
            for entry in entries:
                if entry.is_folder:
                    _add(names.folders, entry.name, entry.name)
                elif entry.is_file:
                    _add(names.files, entry.name, entry.name)
                    if entry.is_image:
                        _add(names.images, os.path.splitext(entry.name)[0], entry.name)
        return self._known[folder]


def _add(names: dict[str, str], key: str, name: str) -> None:
    names[key] = name
    names.setdefault(unicodedata.normalize("NFC", key), name)


def _named(names: dict[str, str], name: str) -> str | None:
    return names.get(name) or names.get(unicodedata.normalize("NFC", name))


def _parts(name: str, above: list[str] | None = None) -> list[str] | None:
    """Split a name at slashes and backslashes and resolve what goes up; None where it leads out."""
    text = name.replace("\\", "/")
    if text.startswith("/") or re.match(r"[A-Za-z]:/|[A-Za-z][A-Za-z0-9+.-]*://", text):
        return None
    parts = list(above or [])
    for part in text.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return parts
