"""Which photo belongs to which mask, by their names alone: each folder is listed once, and no file is opened."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from terrazzo.config import read_lines
from terrazzo.data.dataset import Sample
from terrazzo.data.layout import Pairs
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.images import IMAGE_SUFFIXES
from terrazzo.text import show, shown_path

__all__ = [
    "Listing",
    "Listings",
    "folder_entries",
    "list_entries",
    "listed_pairs",
    "pair",
    "pair_folders",
    "shows_names",
    "split_pair",
]

LOOKED_AT = 20  # names, to tell whose photos a folder holds


@dataclass
class Listing:
    """The image files that lie directly in a folder, and everything else there.

    Attributes:
        folder: which.
        by_stem: files by name without ending.
        others: what is no image file.
    """

    folder: Path
    by_stem: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    others: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, ending: str = "") -> Listing:
        """List a folder.

        Args:
            folder: which.
            ending: what a name must have before its suffix, such as ``_labelIds``; it is not part of `by_stem`'s keys,
                and files without it are passed over.

        Raises:
            DatasetError: it cannot be listed.
        """
        listing = cls(folder)
        for entry in sorted(folder_entries(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in IMAGE_SUFFIXES:
                what = "a folder" if entry.is_dir() else "not an image by its name"
                fix = f"photos and masks lie directly in {folder.name}/, as {', '.join(IMAGE_SUFFIXES)}"
                listing.others.append(Problem("warning", "file-ignored", Path(entry.path), f"{what}, left out", fix))
            elif not entry.is_file():
                what = "a link to nothing" if entry.is_symlink() else "a folder, pipe or device"
                fix = "put the file itself there, or take the name away"
                listing.others.append(Problem("error", "not-a-file", Path(entry.path), f"{what}, not a file", fix))
            elif stem.endswith(ending):
                listing.by_stem[stem.removesuffix(ending)].append(Path(entry.path))
        return listing

    def named(self, name: str) -> list[Path]:
        """Return the files that a name means, which may or may not have its suffix."""
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in IMAGE_SUFFIXES:
            return self.by_stem.get(name, [])
        return [path for path in self.by_stem.get(stem, []) if path.name == name]

    @property
    def errors(self) -> list[Problem]:
        """Names of image files that are no files."""
        return [problem for problem in self.others if problem.severity == "error"]


class Listings:
    """Folders that are listed when they are first asked for; one that is not there is empty."""

    def __init__(self) -> None:
        self._known: dict[Path, Listing] = {}

    def __call__(self, folder: Path) -> Listing:
        if folder not in self._known:
            self._known[folder] = Listing.of(folder) if os.path.isdir(folder) else Listing(folder)
        return self._known[folder]


def pair_folders(images: Listing, masks: Listing) -> Pairs:
    """Pair all photos with all masks, by name."""
    samples: list[Sample] = []
    problems = images.errors + masks.errors
    for stem in sorted(images.by_stem.keys() | masks.by_stem.keys()):
        found = pair(images.by_stem.get(stem, []), masks.by_stem.get(stem, []))
        if isinstance(found, Sample):
            samples.append(found)
        else:
            problems.append(found)
    return samples, problems


def pair(images: list[Path], masks: list[Path]) -> Sample | Problem:
    """Make a pair of the files of one name, or say why that cannot be done."""
    if len(images) == 1 and len(masks) == 1:
        return Sample.of_files(images[0], masks[0])
    for files in (images, masks):
        if len(files) > 1:
            others = " and ".join(shown_path(path.name) for path in files[1:])
            fix = "rename or remove all but one: photo and mask find each other by name"
            return Problem("error", "name-shared", files[0], f"shares its name with {others}", fix)
    if images:
        return Problem("error", "mask-missing", images[0], "has no mask", "add the mask, or take the photo away")
    return Problem("error", "photo-missing", masks[0], "this mask has no photo", "add the photo, or take the mask away")


def listed_pairs(text_file: Path, root: Path, images: str, masks: tuple[str, ...], *, pairs: bool = False) -> Pairs:
    """Pair what a text file lists, in its order.

    Args:
        text_file: a name a line, as ``street_01``, ``street_01.jpg`` or ``images/street_01.jpg``; empty lines and lines
            that begin with # are skipped.
        root: the data set's folder.
        images: the folder of the photos in it.
        masks: the folders of the masks; the first that has a mask of that name counts.
        pairs: a line may also hold a photo and its mask, as paths from `root` with a space, tab or comma between.

    Raises:
        DatasetError: a file or folder cannot be read.
    """
    listings = Listings()
    samples: dict[Path, Sample] = {}
    problems: list[Problem] = []
    for number, entry in list_entries(text_file):
        photos, found = _by_name(root, entry, images, masks, listings)
        two = split_pair(entry) if pairs and not photos else None
        if two is not None:
            photos, found = (_by_path(root, part, listings) for part in two)
        if any(_leads_elsewhere(part) for part in two or (entry,)):
            fix = "write names relative to the data set's folder"
            problems.append(
                Problem("error", "list-entry", text_file, f"line {number} leads elsewhere: {show(entry)}", fix)
            )
            continue
        if not photos:
            where = "the data set" if two is not None else f"{images}/"
            message, fix = (
                f"line {number} names {show(entry)}, and {where} has no such photo",
                "add it, or remove the line",
            )
            problems.append(Problem("error", "photo-missing", text_file, message, fix))
            continue
        sample = pair(photos, found)
        if isinstance(sample, Problem):
            problems.append(sample)
        elif photos[0] in samples:
            message = f"line {number} names {show(entry)} again"
            problems.append(Problem("warning", "list-entry", text_file, message, "remove the line"))
        else:
            samples[photos[0]] = sample
    return list(samples.values()), problems


def split_pair(entry: str) -> tuple[str, str] | None:
    """Split a line at its only tab, comma or space, the first of these that it holds."""
    for separator in ("\t", ",", " "):
        parts = [part.strip() for part in entry.split(separator) if part.strip()]
        if len(parts) == 2:
            return parts[0], parts[1]
    return None


def list_entries(text_file: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and entries; file names may be in any encoding."""
    for number, line in enumerate(read_lines(text_file, error=DatasetError, code="dataset-list"), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield number, entry


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder.

    Raises:
        DatasetError: it is not there, or not readable.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
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


def shows_names(folder: Path, beginnings: tuple[str, ...]) -> bool:
    """Whether one of the first few names of a folder begins as a data set's own do."""
    return any(entry.name.startswith(beginnings) for entry in folder_entries(folder)[:LOOKED_AT])


def _by_name(
    root: Path, entry: str, images: str, masks: tuple[str, ...], listings: Listings
) -> tuple[list[Path], list[Path]]:
    """Find the photos and masks of a name that is relative to the photos' folder."""
    path = PurePosixPath(entry)
    if _leads_elsewhere(entry) or not path.name:
        return [], []
    if path.parts[0] == images and len(path.parts) > 1:
        path = path.relative_to(images)
    photos = listings(root / images / path.parent).named(path.name)
    stem = photos[0].stem if photos else path.name
    found = (listings(root / folder / path.parent).by_stem.get(stem, []) for folder in masks)
    return photos, next((files for files in found if files), [])


def _by_path(root: Path, entry: str, listings: Listings) -> list[Path]:
    path = PurePosixPath(entry)
    return [] if _leads_elsewhere(entry) else listings(root / path.parent).named(path.name)


def _leads_elsewhere(entry: str) -> bool:
    path = PurePosixPath(entry)
    return path.is_absolute() or ".." in path.parts
