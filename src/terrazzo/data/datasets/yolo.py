"""YOLO polygons: a ``data.yaml`` that names the classes and the photos' folders, and a text file for each photo.

``images`` in a photo's path becomes ``labels``, and its ending ``.txt``. A line is a class number and the corners of
one object, x and y as shares of the photo's width and height: ``0 0.1 0.2 0.3 0.2 0.3 0.4``. The classes are the
background and those of ``names``, one up. A photo without a text file, or with an empty one, is background all over.
`terrazzo.data.outlines` says which pixels are inside, and what lies on top.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.config import read_yaml
from terrazzo.data.dataset import Sample
from terrazzo.data.layout import Layout, NearMiss, Pairs, no_such_split
from terrazzo.data.masks import StoredMask
from terrazzo.data.outlines import IGNORED, Region, object_labels, paint, region_of
from terrazzo.data.pairing import Listing, folder_entries, list_entries
from terrazzo.data.photos import PhotoFile, photo_size
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError, ImageError, LabelError
from terrazzo.labels import LabelSpec
from terrazzo.text import show, shown_path

__all__ = ["NAME", "SHAPE", "PolygonFile", "find"]

NAME = "YOLO polygons"
SHAPE = "data.yaml, images/train, labels/train"
USUAL_DOCUMENTS = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
KEYS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``data.yaml``."""
    path = next((root / name for name in USUAL_DOCUMENTS if (root / name).is_file()), None)
    if path is None:
        if (root / "images").is_dir() and (root / "labels").is_dir():
            fix = "write data.yaml with `names:`, `train: images/train` and `val: images/val`"
            return NearMiss(NAME, "it has images/ and labels/, and data.yaml is missing", fix)
        return None
    try:
        document = read_yaml(path, error=DatasetError)
    except DatasetError as error:
        return NearMiss(NAME, error.message, error.fix)
    given = document if isinstance(document, dict) else {}
    places = {split: [given[key] for key in keys if given.get(key)] for split, keys in KEYS.items()}
    base = root / given["path"] if isinstance(given.get("path"), str) else root
    if places["test"] and _place(path, base, places["test"][0]) is None:
        places["test"] = []  # exporters name a test folder whether or not there is one
    splits = tuple(split for split, found in places.items() if found)
    if not splits or "names" not in given:
        fix = "write `names:`, `train: images/train` and `val: images/val`"
        return NearMiss(NAME, f"{path.name} lacks {'names' if splits else 'train and val'}", fix)
    pairs = partial(_pairs, path, base, {split: places[split][0] for split in splits})
    return Layout(NAME, root, path, splits, pairs, partial(_labels, path, given["names"]))


@dataclass(frozen=True, slots=True)
class PolygonFile:
    """The mask of one photo: its text file, or None where it has no objects. Painted at the photo's size when read."""

    photo: Path
    text_file: Path | None

    @property
    def file(self) -> Path:
        return self.text_file or self.photo

    @property
    def part(self) -> str:
        return ""

    def read(self) -> StoredMask:
        """Paint it.

        Raises:
            DatasetError: a line is no polygon, or the photo has no size.
        """
        try:
            height, width = photo_size(PhotoFile(self.photo))
        except ImageError as error:
            raise DatasetError(error.message, fix=error.fix, code="mask-damaged") from error
        entries = [] if self.text_file is None else list(list_entries(self.text_file))
        objects = [self._object(number, entry, height, width) for number, entry in entries]
        return StoredMask(paint(objects, height, width), False)

    def _object(self, number: int, entry: str, height: int, width: int) -> tuple[int, Region]:
        words = entry.split()
        where = f"{shown_path(self.file)}: line {number}"
        if len(words) == 5:
            raise DatasetError(
                f"{where} is a box, not the corners of an outline",
                fix="export outlines: boxes are no masks",
                code="outline-missing",
            )
        try:
            value, corners_N2 = int(words[0]) + 1, np.array(words[1:], np.float64).reshape(-1, 2)
        except ValueError:
            value, corners_N2 = 0, np.empty((0, 2))
        if not 0 < value < IGNORED or len(corners_N2) < 3 or not np.isfinite(corners_N2).all():
            raise DatasetError(
                f"{where} is no outline: {show(entry[:40])}",
                fix="write a class number and at least three corners: 0 0.1 0.2 0.3 0.2 0.3 0.4",
                code="outline-damaged",
            )
        if corners_N2.min() < -1 or corners_N2.max() > 2:
            raise DatasetError(
                f"{where} has corners in pixels, not in shares of the photo",
                fix="divide x by the photo's width and y by its height",
                code="outline-damaged",
            )
        return value, region_of([corners_N2 * (width, height)], height, width)


def _labels(path: Path, names: Any) -> LabelSpec:
    """The background, and the names in order; YAML may number them."""
    if isinstance(names, dict):
        names = [names.get(number) for number in range(len(names))]  # None where the numbers leave one out
    try:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LabelError("`names` is no list of texts", fix="write `names: [leaf, flower]`", code="labels-names")
        if len(names) >= IGNORED:
            raise LabelError(
                f"`names` has {len(names)} names, and a mask tells {IGNORED - 1} apart",
                fix="merge some of them",
                code="labels-names",
            )
        spec = object_labels(names)
        if spec.num_classes != len(names) + 1:
            raise LabelError("`names` has a name twice, or a background", fix="rename it", code="labels-names")
        return spec
    except LabelError as error:
        raise DatasetError(f"{shown_path(path)}: {error.message}", fix=error.fix, code="dataset-annotations") from error


def _pairs(document: Path, base: Path, places: dict[str, Any], split: str) -> Pairs:
    if split not in places:
        raise no_such_split(NAME, document.parent, split, tuple(places))
    samples: list[Sample] = []
    problems: list[Problem] = []
    given = places[split] if isinstance(places[split], list) else [places[split]]
    for name in given:
        place = _place(document, base, name)
        if place is None:
            raise DatasetError(
                f"{shown_path(document)}: it names {show(name)} for {split}, which is not there",
                fix="write the photos' folder, as seen from the document",
                code="dataset-annotations",
            )
        photos, wrong = _listed(place, base) if place.suffix == ".txt" else _in_folder(place)
        problems += wrong
        labels: dict[Path, set[str]] = {}
        for photo in photos:
            folder = _labels_folder(photo.parent)
            if folder not in labels:
                labels[folder] = {entry.name for entry in folder_entries(folder)} if folder.is_dir() else set()
            text_file = f"{photo.stem}.txt"
            there = text_file in labels[folder]
            samples.append(Sample(PhotoFile(photo), PolygonFile(photo, folder / text_file if there else None)))
    if not samples and not any(problem.severity == "error" for problem in problems):
        message, fix = f"{split} holds no photos", f"check what {document.name} says about {split}"
        problems.append(Problem("error", "dataset-empty", document, message, fix))
    elif samples and all(sample.mask.file == sample.image.file for sample in samples):
        message, fix = f"no photo of {split} has a text file in labels/", "put the labels beside the images folder"
        problems.append(Problem("error", "mask-missing", document, message, fix))
    return samples, problems


def _place(document: Path, base: Path, name: Any) -> Path | None:
    """Find what the document names: exporters write paths from ``path``, from the document, or one folder too high."""
    if not isinstance(name, str) or not name:
        return None
    tried = (base / name, document.parent / name, document.parent / name.removeprefix("../"))
    return next((place for place in tried if os.path.exists(place)), None)


def _in_folder(folder: Path) -> tuple[list[Path], list[Problem]]:
    listing = Listing.of(folder)
    photos: list[Path] = []
    problems = listing.errors
    for files in listing.by_stem.values():
        photos.append(files[0])
        if len(files) > 1:
            fix = "rename or remove all but one: photo and labels find each other by name"
            problems.append(Problem("error", "name-shared", files[0], f"shares its name with {files[1].name}", fix))
    return photos, problems


def _listed(text_file: Path, base: Path) -> tuple[list[Path], list[Problem]]:
    photos: list[Path] = []
    problems: list[Problem] = []
    for number, entry in list_entries(text_file):
        photo = next((p for p in (base / entry, text_file.parent / entry) if os.path.isfile(p)), None)
        if photo is None:
            message, fix = f"line {number} names {show(entry)}, which is not there", "add it, or remove the line"
            problems.append(Problem("error", "photo-missing", text_file, message, fix))
        else:
            photos.append(photo)
    return photos, problems


def _labels_folder(images: Path) -> Path:
    """Replace the last folder called images by labels; without one, labels lie beside the photos."""
    parts = list(images.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :])
    return images
