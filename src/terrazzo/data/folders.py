"""Listing of folders, some of which hold links in a circle, are closed to us, or have files that systems leave behind.

Hidden files and folders, and those that Windows and macOS put beside the data
(``Thumbs.db``, ``__MACOSX``), are never part of a data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from terrazzo.errors import DatasetError
from terrazzo.imaging.find_images import IMAGE_SUFFIXES
from terrazzo.text import shown_path

__all__ = [
    "USUAL_SPLITS",
    "Entry",
    "by_split",
    "files_of",
    "folder_entries",
    "holds_images",
    "shows_names",
    "split_folders",
    "split_of",
    "split_of_year",
    "subfolders",
    "visible_entries",
]

USUAL_SPLITS = ("train", "val", "test")
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
YEAR = re.compile(r"20[0-9]{2}$")
LEFT_BEHIND = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin"})
LOOKED_AT = 20  # names, to tell whose images a folder holds


class Entry(NamedTuple):
    """A name in a folder. A link counts as what it leads to; one that leads nowhere is neither folder nor file."""

    name: str
    folder: Path
    is_folder: bool
    is_file: bool

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def is_visible(self) -> bool:
        """Whether people have put it there."""
        return self.name[0] != "." and self.name.casefold() not in LEFT_BEHIND

    @property
    def is_image(self) -> bool:
        """Whether it is an image file by its name."""
        return not self.is_folder and self.is_visible and self.name.lower().endswith(IMAGE_SUFFIXES)


def folder_entries(folder: Path) -> list[Entry]:
    """List a folder by name.

    Raises:
        DatasetError: it is not there, or closed to us.
    """
    return sorted(_scanned(folder))


def _scanned(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield Entry(entry.name, folder, *_kind(entry))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"{shown_path(folder)} is not a folder",
            fix="give the folder that holds train/ and val/",
            code="dataset-missing",
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{shown_path(folder)}: cannot be listed: {error.strerror}",
            fix="check its permissions",
            code="dataset-unreadable",
        ) from error


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # links in a circle
        return False, False


def visible_entries(folder: Path) -> list[Entry]:
    """List a folder without what is hidden or left behind by a system.

    Raises:
        DatasetError: as `folder_entries`.
    """
    return [entry for entry in folder_entries(folder) if entry.is_visible]


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder.

    Those that are closed to us, such as ``lost+found``, are left out unless they are named after a split: these are
    missed when they are listed.

    Raises:
        DatasetError: as `folder_entries`.
    """
    found = [entry.path for entry in visible_entries(folder) if entry.is_folder]
    return [path for path in found if split_of(path.name) in USUAL_SPLITS or _is_open(path)]


def _is_open(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a kind in a folder, whose suffix may be in capitals; none where it cannot be listed.

    Pipes and devices are among them: those who read them say what they are.
    """
    try:
        return [e.path for e in visible_entries(folder) if not e.is_folder and e.name.casefold().endswith(suffix)]
    except DatasetError:
        return []


def holds_images(folder: Path) -> bool:
    """Whether a folder has an image by its name."""
    try:
        return any(entry.is_image for entry in _scanned(folder))
    except DatasetError:
        return False


def shows_names(folder: Path, beginnings: tuple[str, ...]) -> bool:
    """Whether one of the first few names of a folder begins as a data set's own do."""
    visible = (entry for entry in _scanned(folder) if entry.is_visible)
    return any(entry.name.startswith(beginnings) for entry in islice(visible, LOOKED_AT))


def split_of(name: str) -> str:
    """Name the split that a folder or list holds: ``valid`` and ``Validation`` hold val."""
    folded = name.casefold()
    usual = OTHER_NAMES.get(folded, folded)
    return usual if usual in USUAL_SPLITS else name


def split_of_year(name: str) -> str:
    """Name the split that a document is named after, which COCO's have with a year: ``val2017``."""
    return split_of(YEAR.sub("", name))


def by_split(names: Iterable[str], split_of: Callable[[str], str] = split_of) -> dict[str, str]:
    """Return the splits of folders or lists with their own names: train, val and test first, the others by name.

    Where both ``val`` and ``validation`` are there, the second is a split of its own.
    """
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name != split_of(name), name)):
        split = split_of(name)
        found[name if split in found else split] = name
    ordered = (*(split for split in USUAL_SPLITS if split in found), *sorted(found.keys() - set(USUAL_SPLITS)))
    return {split: found[split] for split in ordered}


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of train, val and test in a folder, by split; empty if the folder does not exist."""
    names = [path.name for path in subfolders(folder)] if folder.is_dir() else []
    usual = by_split(name for name in names if split_of(name) in USUAL_SPLITS)
    return {split: folder / name for split, name in usual.items()}
