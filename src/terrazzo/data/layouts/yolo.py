"""YOLO polygons: a ``data.yaml`` that names the classes and the photos' folders, and a text file for each photo.

``images`` in a photo's path becomes ``labels``, and its ending ``.txt``. A line is a class number and the corners of
one object, x and y as shares of the photo's width and height: ``0 0.1 0.2 0.3 0.2 0.3 0.4``. The classes are the
background and those of ``names``, one up. A photo without a text file, or with an empty one, is background all over.
`terrazzo.data.outlines` says which pixels are inside, and what lies on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.data.dataset import Sample
from terrazzo.data.folders import files_of
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.masks import StoredMask, WholeFile
from terrazzo.data.name_affixes import same_name
from terrazzo.data.outlines import IGNORED, Region, object_labels, paint, region_of
from terrazzo.data.pairing import Listings, list_entries
from terrazzo.data.problems import Problem, class_names_of, file_error
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.data.yolo_document import DataYaml, class_names, read_data_yaml
from terrazzo.errors import DatasetError, ImageError, LabelError
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import list_names, show

__all__ = ["NAME", "SHAPE", "PolygonFile", "find"]

NAME = "YOLO polygons"
SHAPE = "data.yaml, images/train, labels/train"
NO_LABELS = frozenset({"classes", "labels", "notes", "readme", "predefined_classes", "train", "val", "test"})


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``data.yaml``."""
    document = read_data_yaml(root, NAME)
    if document is None and (root / "images").is_dir() and (root / "labels").is_dir():
        fix = "write data.yaml with `names:`, `train: images/train` and `val: images/val`"
        return NearMiss(NAME, "it has images/ and labels/, and data.yaml is missing", fix)
    if not isinstance(document, DataYaml):
        return document
    if document.masks_dir is not None:  # Ultralytics' semantic masks
        return None
    labels = partial(_labels, document.file, document.names)
    return Layout(NAME, root, document.file, document.splits, partial(_pairs, document), labels)


@dataclass(frozen=True, slots=True)
class PolygonFile(WholeFile):
    """The mask of one photo: its text file, or None where it has no objects. Painted at the photo's size when read."""

    image: Path
    text_file: Path | None

    @property
    def file(self) -> Path:
        return self.text_file or self.image

    def read(self) -> StoredMask:
        """Paint it.

        Raises:
            DatasetError: a line is not a polygon, or the photo has no size.
        """
        try:
            height, width = ImageFile(self.image).size
        except ImageError as error:
            raise DatasetError(error.message, fix=error.fix, code="mask-damaged") from error
        entries = [] if self.text_file is None else list(list_entries(self.text_file))
        objects = [self._object(number, entry, height, width) for number, entry in entries]
        empty = sum(not region.inside_hw.any() for _, region in objects)
        return StoredMask(paint(objects, height, width), empty=empty)

    def _object(self, number: int, entry: str, height: int, width: int) -> tuple[int, Region]:
        words = entry.split()
        if len(words) == 5:
            message, fix = (
                f"line {number} is a box, not the corners of an outline",
                "export outlines: boxes are not masks",
            )
            raise file_error(self.file, message, fix=fix, code="outline-missing")
        try:
            value, corners_N2 = int(words[0]) + 1, np.array(words[1:], np.float64).reshape(-1, 2)
        except ValueError:
            value, corners_N2 = 0, np.empty((0, 2))
        if not 0 < value < IGNORED or len(corners_N2) < 3 or not np.isfinite(corners_N2).all():
            fix = "write a class number and at least three corners: 0 0.1 0.2 0.3 0.2 0.3 0.4"
            message = f"line {number} is not an outline: {show(entry[:40])}"
            raise file_error(self.file, message, fix=fix, code="outline-damaged")
        if corners_N2.min() < -1 or corners_N2.max() > 2:
            message = f"line {number} has corners in pixels, not in shares of the photo"
            fix = "divide x by the photo's width and y by its height"
            raise file_error(self.file, message, fix=fix, code="outline-damaged")
        try:
            return value, region_of([corners_N2 * (width, height)], height, width)
        except ValueError as error:
            message, fix = f"line {number}: {error}", "draw it with fewer corners"
            raise file_error(self.file, message, fix=fix, code="outline-damaged") from error


def _labels(path: Path, names: Any) -> LabelSpec:
    """The background, and the names in order."""
    with class_names_of(path):
        names = class_names(names, IGNORED - 1)
        spec = object_labels(names)
        if spec.num_classes != len(names) + 1:
            raise LabelError("`names` has a name twice, or a background", fix="rename it", code="labels-names")
        return spec


def _pairs(document: DataYaml, split: str) -> Pairs:
    images, problems = document.images(split)
    samples: list[Sample] = []
    labels: dict[Path, dict[str, Path]] = {}
    image_folders: dict[Path, Path] = {}
    for image in images:
        folder = document.beside(image.parent, "labels") or image.parent
        if folder not in labels:
            labels[folder] = {same_name(path.stem): path for path in files_of(folder, ".txt")}
            image_folders[folder] = image.parent
        samples.append(Sample(ImageFile(image), PolygonFile(image, labels[folder].get(same_name(image.stem)))))
    listings = Listings()
    for folder, image_folder in image_folders.items():
        alone = labels[folder].keys() - listings(image_folder).by_stem.keys() - NO_LABELS
        if alone:
            message = f"text files without a photo of their name in {image_folder.name}/: {list_names(sorted(alone))}"
            fix = "name photo and text file alike: a photo without a text file is read as background all over"
            problems.append(Problem("warning", "photo-missing", folder, message, fix))
    if samples and all(sample.mask.file == sample.image.file for sample in samples):
        message, fix = f"no photo of {split} has a text file in labels/", "put the labels beside the images folder"
        masks = document.beside(images[0].parent, "masks")
        if masks is not None and masks.is_dir():
            fix = f"write `masks_dir: masks` into {document.file.name} if masks/ holds index masks"
        problems.append(Problem("error", "mask-missing", document.file, message, fix))
    return samples, problems
