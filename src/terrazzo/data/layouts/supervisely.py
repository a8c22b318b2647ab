"""Supervisely's project format: ``meta.json``, and data sets with photos in ``img`` and one JSON file each in ``ann``.

``project/meta.json``, ``project/NAME/img/x.jpg`` and ``project/NAME/ann/x.jpg.json``; data sets within data sets too.
A data set called train, val or test is that split, and any other a split of its own name. The classes are the
background and those of ``meta.json`` in its order. Bitmaps, polygons with holes and rectangles are painted when a photo
is read, later objects over earlier ones, as in the tool. Points, lines and graphs have no area and are left out, with a
warning that counts them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.data.bitmaps import bitmap, inflate, unpack_base64
from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import FileTree
from terrazzo.data.json_files import file_version, mentions, picture_size, points_of, read_json, whole_number
from terrazzo.data.layout import Layout, NearMiss, Pairs, no_such_split, split_of, splits_in_order
from terrazzo.data.masks import StoredMask
from terrazzo.data.outlines import IGNORED, Region, bitmap_region, object_labels, rectangle, region_of, stack
from terrazzo.data.pairing import folder_entries
from terrazzo.data.problems import Problem
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import list_names, show, shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Supervisely"
SHAPE = "meta.json, NAME/img/x.jpg, NAME/ann/x.jpg.json"
META = "meta.json"
MOST_DEPTH = 4  # of data sets within data sets
WITHOUT_AREA = ("point", "line", "graph", "cuboid", "cuboid_2d", "polyline")


@dataclass(frozen=True, slots=True)
class Objects:
    """The mask of one photo: the objects of its JSON file, painted when they are read."""

    file: Path
    value_of: dict[str, int]

    @property
    def part(self) -> str:
        return ""

    def read(self) -> StoredMask:
        """Paint them.

        Raises:
            DatasetError: an object cannot be read, or the file says no size.
        """
        document = _document(self.file)
        size = document.get("size")
        given = size if isinstance(size, dict) else {}
        height_width = picture_size(given.get("height"), given.get("width"))
        if height_width is None:
            raise DatasetError(
                f"{shown_path(self.file)}: it says no sensible `size` of the photo",
                fix="export the project again from Supervisely",
                code="outline-damaged",
            )
        painted = [self._painted(number, item, height_width) for number, item in enumerate(document["objects"], 1)]
        return StoredMask(stack([item for item in painted if item is not None], *height_width), False)

    def _painted(self, number: int, item: Any, size: tuple[int, int]) -> tuple[int, Region] | None:
        try:
            if not isinstance(item, dict):
                raise ValueError("it is not an object")
            title = item.get("classTitle")
            if not isinstance(title, str) or title.strip() not in self.value_of:
                raise ValueError(f"its class {show(title)} is not in {META}")
            region = _region(item, *size)
        except ValueError as error:
            raise DatasetError(
                f"{shown_path(self.file)}: object {number} cannot be read: {error}",
                fix="export the project again from Supervisely",
                code="outline-damaged",
            ) from error
        return None if region is None else (self.value_of[title.strip()], region)


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``meta.json`` and folders with ``ann`` in them."""
    if (root / "ann").is_dir() and (root / "img").is_dir() and (root.parent / META).is_file():
        fix = f"give the folder above, {shown_path(root.parent)}, which has the classes"
        return NearMiss(NAME, f"it is one data set of a project, and {META} is in the folder above", fix)
    folders = _dataset_folders(root, 0)
    if not (root / META).is_file() or not mentions(root / META, "classes"):
        if not folders:
            return None
        where = shown_path(folders[0].relative_to(root))
        return NearMiss(NAME, f"{where}/ has ann/ and img/, and {META} is missing", "export the whole project")
    if not folders:
        return NearMiss(NAME, f"it has {META}, and no folder with img/ and ann/ in it", "export it with its images")
    names = {folder: folder.relative_to(root).as_posix().replace("/datasets/", "/") for folder in folders}
    splits = {split_of(name): folder for folder, name in names.items()}
    ordered = splits_in_order(splits)
    return Layout(NAME, root, root / META, ordered, partial(_pairs, root, splits, ordered), partial(_labels, root))


def _dataset_folders(folder: Path, depth: int) -> list[Path]:
    found = []
    for entry in sorted(folder_entries(folder), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name[0] != ".":
            below = Path(entry.path)
            if (below / "ann").is_dir() and (below / "img").is_dir():
                found.append(below)
            if depth < MOST_DEPTH and (below / "datasets").is_dir():
                found += _dataset_folders(below / "datasets", depth + 1)
    return found


def _labels(root: Path) -> LabelSpec:
    meta = root / META
    document = read_json(meta, NAME)
    classes = document.get("classes") if isinstance(document, dict) else None
    items = classes if isinstance(classes, list) else [None]
    given = [item.get("title") if isinstance(item, dict) else None for item in items]
    titles = [title for title in given if isinstance(title, str)]
    try:
        if len(titles) < len(given):
            raise LabelError("`classes` is not a list with titles", fix="export it again", code="labels-names")
        if len(titles) >= IGNORED:
            raise LabelError(f"{len(titles)} classes are too many", fix="merge some", code="labels-names")
        return object_labels(titles)
    except LabelError as error:
        raise DatasetError(f"{shown_path(meta)}: {error.message}", fix=error.fix, code="dataset-annotations") from error


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path, NAME)
    if not isinstance(document, dict) or not isinstance(document.get("objects"), list):
        raise DatasetError(
            f"{shown_path(path)}: it is a JSON file, but not Supervisely's: `objects` is missing",
            fix="take it away, or export the project again",
            code="dataset-annotations",
        )
    return document


@lru_cache(maxsize=1 << 16)
def _without_area(path: Path, *version: int) -> Counter[str]:
    """Count the objects of a file that have no area, by kind."""
    items = [item for item in _document(path)["objects"] if isinstance(item, dict)]
    thin = sum(map(_is_thin, items))
    kinds = (item.get("geometryType") for item in items)
    return Counter(kind for kind in kinds if kind in WITHOUT_AREA) + Counter({"polygon of fewer than 3 points": thin})


def _pairs(root: Path, folders: dict[str, Path], splits: tuple[str, ...], split: str) -> Pairs:
    if split not in splits:
        raise no_such_split(NAME, root, split, splits)
    labels = _labels(root)
    value_of = {name: value for value, name in enumerate(labels.names)}
    document = read_json(root / META, NAME)
    titles = [item["title"].strip() for item in document["classes"]]
    value_of |= {title: 0 for title in titles if title.casefold() in BACKGROUND_NAMES}
    tree, folder = FileTree(root), folders[split]
    samples: list[Sample] = []
    problems: list[Problem] = []
    dropped: Counter[str] = Counter()
    taken: set[Path] = set()
    for name in sorted(entry.name for entry in folder_entries(folder / "ann") if entry.name.endswith(".json")):
        path = folder / "ann" / name
        stem = name.removesuffix(".json")
        image = tree.find(stem, folder / "img") or tree.find_image(stem, folder / "img")  # older exports: x.json
        if image is None:
            fix = "export it with its images, or take the file away"
            problems.append(Problem("error", "photo-missing", path, "its photo is not in img/", fix))
            continue
        if image in taken:
            problems.append(Problem("error", "name-shared", path, "another file has the same photo", "keep one"))
            continue
        try:
            dropped += _without_area(*file_version(path))
        except DatasetError as error:
            problems.append(Problem.from_error(error, path))
            continue
        taken.add(image)
        samples.append(Sample(ImageFile(image), Objects(path, value_of)))
    if dropped:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(dropped.items()))
        message, fix = f"objects without an area, left out: {counted}", "draw them as masks or polygons if they matter"
        problems.append(Problem("warning", "outline-empty", folder, message, fix))
    alone = sorted(entry.name for entry in folder_entries(folder / "img") if folder / "img" / entry.name not in taken)
    if alone:
        message = f"{len(alone)} files in img/ have no file in ann/, and are left out: {list_names(alone)}"
        problems.append(Problem("warning", "mask-missing", folder, message, "label them in Supervisely"))
    if not samples and not any(problem.severity == "error" for problem in problems):
        problems.append(Problem("error", "dataset-empty", folder, "this split holds no photos", "export it again"))
    return samples, problems


def _is_thin(item: dict[str, Any]) -> bool:
    points = item.get("points")
    exterior = points.get("exterior") if isinstance(points, dict) else None
    return item.get("geometryType") == "polygon" and isinstance(exterior, list) and len(exterior) < 3


def _region(item: dict[str, Any], height: int, width: int) -> Region | None:
    """Fill one object; None where it has no area.

    Raises:
        ValueError: it is damaged.
    """
    kind = item.get("geometryType")
    if kind in WITHOUT_AREA or _is_thin(item):
        return None
    if kind == "bitmap":
        given = item.get("bitmap")
        data, origin = (given.get(key) if isinstance(given, dict) else None for key in ("data", "origin"))
        place = [whole_number(value) for value in origin] if isinstance(origin, list) else []
        if len(place) != 2 or place[0] is None or place[1] is None:
            raise ValueError("its bitmap has no origin")
        return bitmap_region(bitmap(inflate(unpack_base64(data))), place[1], place[0], height, width)
    if kind not in ("polygon", "rectangle"):
        raise ValueError(f"its kind {show(kind)} is not known")
    points = item.get("points")
    exterior = points_of(points.get("exterior") if isinstance(points, dict) else None)
    if kind == "rectangle":
        if len(exterior) != 2:
            raise ValueError(f"a rectangle has two points, not {len(exterior)}")
        corners_22 = np.stack([exterior.min(0), exterior.max(0) + 1])  # the last pixel is part of it
        return rectangle(corners_22, height, width)
    interior = points.get("interior") if isinstance(points, dict) else None
    holes = [points_of(hole) for hole in interior] if isinstance(interior, list) else []
    return region_of([exterior], height, width, holes=[hole for hole in holes if len(hole) >= 3])
