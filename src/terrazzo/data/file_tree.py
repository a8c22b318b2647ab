"""Finding files by the names that documents give them, without ever leaving the data set's folder.

Names come from other systems: backslashes between folders, composed or decomposed accents, absolute paths of somebody's
machine, thousands of characters. Each folder is listed once, and a name is looked up in these lists; the system is
never asked for a name that a document made up.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from pathlib import Path

from terrazzo.data.layout import USUAL_SPLITS, usual_split
from terrazzo.data.pairing import folder_entries
from terrazzo.errors import DatasetError
from terrazzo.images import IMAGE_SUFFIXES

__all__ = ["FileTree", "base_name", "leads_elsewhere", "split_folders"]

MOST_FOLDERS = 2000  # looked through for a file by its name alone
MOST_DEPTH = 5


def leads_elsewhere(name: str) -> bool:
    """Whether a name is an address or an absolute path, or goes up and out of the folder it is relative to."""
    return _parts(name) is None


def base_name(name: str) -> str:
    """The last part of a path or address, whatever the system that wrote it."""
    return re.split(r"[/\\]", re.split(r"[?#]", name)[0] if "://" in name else name)[-1]


def split_folders(root: Path) -> dict[str, Path]:
    """Find the folders of train, val and test, whatever the spelling, such as ``valid`` or ``Validation``."""
    if not root.is_dir():
        return {}
    names = sorted(
        (entry.name for entry in folder_entries(root) if entry.is_dir()), key=lambda name: name in USUAL_SPLITS
    )
    return {usual_split(name): root / name for name in names if usual_split(name) in USUAL_SPLITS}


class FileTree:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[Path, dict[str, str]] = {}

    def find(self, name: str, base: Path | None = None) -> Path | None:
        """Find a file by a name relative to `base`, a folder in the tree; by default the root.

        Returns:
            The file as it is called on disk, or None where there is none or the name leads out of the root.
        """
        above = () if base is None else base.relative_to(self.root).parts
        parts = _parts(name, list(above))
        path = self.root
        for part in parts or ():
            entry = self._named(path, part)
            if entry is None:
                return None
            path /= entry
        return path if parts and path.is_file() else None

    def find_photo(self, stem: str, folder: Path) -> Path | None:
        """Find the image file of a name without ending that lies directly in a folder."""
        for name in self._listed(folder).values():
            if name.startswith(stem) and name[len(stem) :].lower() in IMAGE_SUFFIXES:
                return self.find(name, folder)
        return None

    def folder_with(self, name: str) -> Path | None:
        """Find the folder that has a file of this name or relative path, the nearest to the root first."""
        queue, seen = deque([self.root]), 0
        while queue and seen < MOST_FOLDERS:
            folder = queue.popleft()
            seen += 1
            if self.find(name, folder) is not None:
                return folder
            if len(folder.relative_to(self.root).parts) < MOST_DEPTH:
                queue.extend(folder / entry for entry in sorted(self._folders(folder)))
        return None

    def _folders(self, folder: Path) -> list[str]:
        names = set(self._listed(folder).values())
        return [
            name for name in names if name[0] != "." and (folder / name).is_dir() and not (folder / name).is_symlink()
        ]

    def _named(self, folder: Path, name: str) -> str | None:
        listed = self._listed(folder)
        return listed.get(name) or listed.get(unicodedata.normalize("NFC", name))

    def _listed(self, folder: Path) -> dict[str, str]:
        """Names on disk by themselves, and by their composed form."""
        if folder not in self._entries:
            try:
                names = sorted(entry.name for entry in folder_entries(folder)) if folder.is_dir() else []
            except DatasetError:
                names = []
            composed = {unicodedata.normalize("NFC", name): name for name in names}
            self._entries[folder] = composed | {name: name for name in names}
        return self._entries[folder]


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
