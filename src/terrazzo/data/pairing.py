"""Pairing of photos with masks by their names; each folder is listed once, and no file is opened."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from terrazzo.config import read_lines
from terrazzo.data.dataset import Sample
from terrazzo.data.folders import visible_entries
from terrazzo.data.layout import Pairs
from terrazzo.data.name_affixes import Affixes, find_affixes, same_name
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.imaging.find_images import IMAGE_SUFFIXES
from terrazzo.text import show, shown_path

__all__ = [
    "Listing",
    "Listings",
    "list_entries",
    "listed_pairs",
    "pair",
    "pair_folders",
    "split_pair",
]

QUOTED_PAIR = re.compile(r""" *["']([^"']+)["'] *[\t,; ] *["']([^"']+)["'] *""")


@dataclass
class Listing:
    """The image files that lie directly in a folder, and everything else there.

    Attributes:
        folder: which.
        by_stem: files by name without ending, letters with accents in one piece.
        others: what is not an image file.
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
        for entry in visible_entries(folder):
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in IMAGE_SUFFIXES:
                what = "a folder" if entry.is_folder else "not an image by its name"
                fix = f"photos and masks lie directly in {folder.name}/, as {', '.join(IMAGE_SUFFIXES)}"
                listing.others.append(Problem("warning", "file-ignored", entry.path, f"{what}, left out", fix))
            elif not entry.is_file:
                what = "a link to nothing" if entry.path.is_symlink() else "a folder, pipe or device"
                fix = "put the file itself there, or take the name away"
                listing.others.append(Problem("error", "not-a-file", entry.path, f"{what}, not a file", fix))
            elif stem.endswith(ending):
                listing.by_stem[same_name(stem.removesuffix(ending))].append(entry.path)
        return listing

    def named(self, name: str) -> list[Path]:
        """Return the files that a name means, which may or may not have its suffix."""
        name = same_name(name)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in IMAGE_SUFFIXES:
            return self.by_stem.get(name, [])
        return [path for path in self.by_stem.get(stem, []) if same_name(path.name) == name]

    @property
    def errors(self) -> list[Problem]:
        """Names of image files that are not files."""
        return [problem for problem in self.others if problem.severity == "error"]


class Listings:
    """Folders that are listed when they are first asked for; one that is not there is empty."""

    def __init__(self) -> None:
        self._known: dict[Path, Listing] = {}
        self._affixes: dict[tuple[Path, Path], tuple[Affixes | None, list[Problem]]] = {}

    def __call__(self, folder: Path) -> Listing:
        if folder not in self._known:
            self._known[folder] = Listing.of(folder) if os.path.isdir(folder) else Listing(folder)
        return self._known[folder]

    def affixes(self, images: Listing, masks: Listing) -> tuple[Affixes | None, list[Problem]]:
        """What the masks of a folder have more in their names than the photos of another."""
        places = images.folder, masks.folder
        if places not in self._affixes:
            self._affixes[places] = _affixes(images, masks)
        return self._affixes[places]


def pair_folders(images: Listing, masks: Listing) -> Pairs:
    """Pair all photos with all masks, by name: the same but for the ending, or but for what all masks have more."""
    samples: list[Sample] = []
    problems = images.errors + masks.errors
    affixes, told = _affixes(images, masks)
    problems += told
    left = dict(masks.by_stem)
    for stem in sorted(images.by_stem):
        found = pair(images.by_stem[stem], left.pop(_mask_stem(stem, affixes), []))
        if isinstance(found, Sample):
            samples.append(found)
        else:
            problems.append(found)
    problems += [found for stem in sorted(left) if isinstance(found := pair([], left[stem]), Problem)]
    return samples, problems


def _affixes(images: Listing, masks: Listing) -> tuple[Affixes | None, list[Problem]]:
    """What masks' names have more than photos', where no photo has a mask of exactly its name."""
    if not images.by_stem or not masks.by_stem or images.by_stem.keys() & masks.by_stem.keys():
        return None, []
    ways = find_affixes(images.by_stem.keys(), masks.by_stem.keys())
    if len(ways) > 1:
        shown = " and ".join(shown_path("NAME".join(way.mask)) for way in ways)
        message, fix = f"photos have several masks each: {shown}", "leave those that hold the classes in this folder"
        return None, [Problem("error", "mask-several", masks.folder, message, fix)]
    if not ways:
        return None, []
    message, fix = f"photos and masks are paired as {shown_path(str(ways[0]))}", "nothing to do if that is right"
    return ways[0], [Problem("note", "mask-names", masks.folder, message, fix)]


def _mask_stem(stem: str, affixes: Affixes | None) -> str:
    return stem if affixes is None else affixes.mask_of(stem) or stem


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


def listed_pairs(
    text_file: Path, root: Path, image_folder: str, masks: tuple[str, ...], *, pairs: bool = False
) -> Pairs:
    """Pair what a text file lists, in its order.

    Args:
        text_file: a name a line, as ``street_01``, ``street_01.jpg`` or ``images/street_01.jpg``; empty lines and lines
            that begin with # are skipped.
        root: the data set's folder.
        image_folder: the folder of the photos in it.
        masks: the folders of the masks; the first that has a mask of that name counts.
        pairs: a line may also hold a photo and its mask, as paths from `root` with a tab, comma or space between.

    Raises:
        DatasetError: a file or folder cannot be read.
    """
    listings = Listings()
    samples: dict[Path, Sample] = {}
    problems: list[Problem] = []
    for number, entry in list_entries(text_file):
        images, found, told = _by_name(root, entry, image_folder, masks, listings)
        problems += [problem for problem in told if problem not in problems]
        two = split_pair(entry, lambda part: bool(_by_path(root, part, listings))) if pairs and not images else None
        if two is not None:
            images, found = (_by_path(root, part, listings) for part in two)
        if any(_leads_elsewhere(part) for part in two or (entry,)):
            fix = "write names relative to the data set's folder"
            problems.append(
                Problem("error", "list-entry", text_file, f"line {number} leads elsewhere: {show(entry)}", fix)
            )
            continue
        if not images:
            where = "the data set" if two is not None else f"{image_folder}/"
            message, fix = (
                f"line {number} names {show(entry)}, and {where} has no such photo",
                "add it, or remove the line",
            )
            problems.append(Problem("error", "photo-missing", text_file, message, fix))
            continue
        sample = pair(images, found)
        if isinstance(sample, Problem):
            problems.append(sample)
        elif images[0] in samples:
            message = f"line {number} names {show(entry)} again"
            problems.append(Problem("warning", "list-entry", text_file, message, "remove the line"))
        else:
            samples[images[0]] = sample
    if not samples and not problems:
        problems.append(Problem("error", "dataset-empty", text_file, "it names no photo", "name one photo a line"))
    return list(samples.values()), problems


def split_pair(entry: str, is_there: Callable[[str], bool]) -> tuple[str, str] | None:
    """Split a line that holds two paths, which may be quoted, at a tab, comma, semicolon or space.

    Names may hold spaces and commas: of the places where it can be split, the one with two files counts.
    """
    if (quoted := QUOTED_PAIR.fullmatch(entry)) is not None:
        return quoted[1], quoted[2]
    places = [(separator, i) for separator in "\t,; " for i, letter in enumerate(entry) if letter == separator]
    cuts = [(entry[:i].strip(), entry[i + 1 :].strip()) for _, i in places]
    cuts = [(left, right) for left, right in cuts if left and right]
    both = next((cut for cut in cuts if is_there(cut[0]) and is_there(cut[1])), None)
    either = next((cut for cut in cuts if is_there(cut[0]) or is_there(cut[1])), None)
    return both or either or (cuts[0] if len(cuts) == 1 else None)


def list_entries(text_file: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and entries; file names may be in any encoding."""
    for number, line in enumerate(read_lines(text_file, error=DatasetError, code="dataset-list"), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield number, entry


def _by_name(
    root: Path, entry: str, image_folder: str, masks: tuple[str, ...], listings: Listings
) -> tuple[list[Path], list[Path], list[Problem]]:
    """Find the photos and masks of a name that is relative to the photos' folder, and say how they were paired."""
    path = _relative(entry)
    if _leads_elsewhere(entry) or not path.name:
        return [], [], []
    if path.parts[0] == image_folder and len(path.parts) > 1:
        path = path.relative_to(image_folder)
    place = listings(root / image_folder / path.parent)
    images = place.named(path.name)
    stem = same_name(images[0].stem if images else path.name)
    for folder in masks:
        beside = listings(root / folder / path.parent)
        affixes, told = listings.affixes(place, beside)
        if files := beside.by_stem.get(_mask_stem(stem, affixes), []):
            return images, files, told
    return images, [], []


def _by_path(root: Path, entry: str, listings: Listings) -> list[Path]:
    path = _relative(entry)
    return [] if _leads_elsewhere(entry) else listings(root / path.parent).named(path.name)


def _relative(entry: str) -> PurePosixPath:
    """Read a path as it is written here, or on Windows."""
    return PurePosixPath(entry.replace("\\", "/").removeprefix("./"))


def _leads_elsewhere(entry: str) -> bool:
    path = _relative(entry)
    return path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(entry).drive)
