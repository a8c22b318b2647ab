"""The ``data.yaml`` of Ultralytics' tools: where the photos of each split are, and what the classes are called."""

from __future__ import annotations

import os  # whose tests of paths take names of any length, unlike those of pathlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.config import read_yaml
from terrazzo.data.file_tree import FileTree
from terrazzo.data.layout import NearMiss
from terrazzo.data.pairing import Listing, list_entries
from terrazzo.data.problems import Problem, file_error
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.schema import names_in_order
from terrazzo.text import show

__all__ = ["DataYaml", "class_names", "names_masks", "read_data_yaml"]

USUAL_DOCUMENTS = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
KEYS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class DataYaml:
    """A document that has been read.

    Attributes:
        file: the document.
        base: the folder that its paths are relative to.
        places: for each split what the document says: one path, or a list of them.
        names: what it says about classes, unchecked.
        masks_dir: the folder of the masks, in place of ``images``; None where there are outlines.
    """

    file: Path
    base: Path
    places: dict[str, Any]
    names: Any
    masks_dir: Any

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.places)

    def images(self, split: str) -> tuple[list[Path], list[Problem]]:
        """List the photos of a split, and what is wrong with others.

        Raises:
            DatasetError: the document names something that is not there.
        """
        images: list[Path] = []
        problems: list[Problem] = []
        given = self.places[split] if isinstance(self.places[split], list) else [self.places[split]]
        for name in given:
            place = _place(self.file, self.base, name)
            if place is None:
                message = f"it names {show(name)} for {split}, which is not there"
                raise file_error(self.file, message, fix="write the photos' folder, as seen from the document")
            found, wrong = _listed(place, self.base) if place.suffix == ".txt" else _in_folder(place)
            images += found
            problems += wrong
        return images, problems

    def beside(self, images: Path, name: str) -> Path | None:
        """Replace the last folder called images by another; None where there is none.

        Above the document, a folder of this name may have nothing to do with it, and counts where the other is there.
        """
        parts, root = images.parts, self.file.parent
        for place in reversed([place for place, part in enumerate(parts) if part == "images"]):
            other = Path(*parts[:place], name, *parts[place + 1 :])
            if place >= len(root.parts) or not images.is_relative_to(root) or other.is_dir():
                return other
        return None


def read_data_yaml(root: Path, name: str) -> DataYaml | NearMiss | None:
    """Read the document of a folder, if it has one.

    Args:
        root: the folder.
        name: of the layout that asks, for the message.
    """
    path = _document(root)
    if path is None:
        return None
    try:
        document = read_yaml(path, error=DatasetError)
    except DatasetError as error:
        return NearMiss(name, error.message, error.fix)
    given = document if isinstance(document, dict) else {}
    places = {split: [given[key] for key in keys if given.get(key)] for split, keys in KEYS.items()}
    base = root / given["path"] if isinstance(given.get("path"), str) else root
    if places["test"] and _place(path, base, places["test"][0]) is None:
        places["test"] = []  # exporters name a test folder whether or not there is one
    splits = tuple(split for split, found in places.items() if found)
    if not splits or "names" not in given:
        fix = "write `names:`, `train: images/train` and `val: images/val`"
        return NearMiss(name, f"{path.name} lacks {'names' if splits else 'train and val'}", fix)
    first = {split: places[split][0] for split in splits}
    return DataYaml(path, base, first, given["names"], given.get("masks_dir"))


def names_masks(root: Path) -> bool:
    """Whether a folder has a document that speaks of masks rather than outlines."""
    document = read_data_yaml(root, "")
    return isinstance(document, DataYaml) and document.masks_dir is not None


def class_names(names: Any, most: int) -> list[str]:
    """Read the names in order; YAML may number them.

    Raises:
        LabelError: they are not texts, or too many.
    """
    names = names_in_order(names)
    if not isinstance(names, list):
        raise LabelError("`names` is not a list of texts", fix="write `names: [leaf, flower]`", code="labels-names")
    if (odd := next((name for name in names if not isinstance(name, str)), None)) is not None or None in names:
        fix = 'put it in quotes, as in "no"'
        raise LabelError(f"`names` has {show(odd)}, which is not text", fix=fix, code="labels-names")
    if len(names) > most:
        message = f"`names` has {len(names)} names, and a mask tells {most} apart"
        raise LabelError(message, fix="merge some of them", code="labels-names")
    return names


def _document(root: Path) -> Path | None:
    return next((root / name for name in USUAL_DOCUMENTS if os.path.isfile(root / name)), None)


def _place(document: Path, base: Path, name: Any) -> Path | None:
    """Find what the document names: exporters write paths from ``path``, from the document, or one folder too high."""
    if not isinstance(name, str) or not name:
        return None
    tried = (base / name, document.parent / name, document.parent / name.removeprefix("../"))
    return next((place for place in tried if os.path.exists(place)), None)


def _in_folder(folder: Path) -> tuple[list[Path], list[Problem]]:
    listing = Listing.of(folder)
    images: list[Path] = []
    problems = listing.errors
    for files in listing.by_stem.values():
        images.append(files[0])
        if len(files) > 1:
            fix = "rename or remove all but one: photo and labels find each other by name"
            problems.append(Problem("error", "name-shared", files[0], f"shares its name with {files[1].name}", fix))
    return images, problems


def _listed(text_file: Path, base: Path) -> tuple[list[Path], list[Problem]]:
    images: list[Path] = []
    problems: list[Problem] = []
    trees = FileTree(base), FileTree(text_file.parent)
    for number, entry in list_entries(text_file):
        image = Path(entry) if os.path.isabs(entry) and os.path.isfile(entry) else None
        image = image or next((file for tree in trees if (file := tree.find(entry)) is not None), None)
        if image is None:
            message, fix = f"line {number} names {show(entry)}, which is not there", "add it, or remove the line"
            problems.append(Problem("error", "photo-missing", text_file, message, fix))
        else:
            images.append(image)
    return images, problems
