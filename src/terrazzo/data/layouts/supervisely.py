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
from terrazzo.data.folders import by_split, files_of, subfolders, visible_entries
from terrazzo.data.json_files import (
    file_version,
    mentions,
    picture_size,
    points_of,
    read_json,
    read_lists,
    whole_number,
)
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.masks import StoredMask, WholeFile
from terrazzo.data.outlines import IGNORED, Region, bitmap_region, draw, object_labels, rectangle, region_of, stack
from terrazzo.data.problems import Problem, class_names_of, file_error, left_out
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import show, shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Supervisely"
SHAPE = "meta.json, NAME/img/x.jpg, NAME/ann/x.jpg.json"
META = "meta.json"
EXPORT_AGAIN = "export the project again from Supervisely"
MOST_DEPTH = 4  # of data sets within data sets
WITHOUT_AREA = ("point", "line", "graph", "cuboid", "cuboid_2d", "polyline")


@dataclass(frozen=True, slots=True)
class Objects(WholeFile):
    """The mask of one photo: the objects of its JSON file, painted when they are read."""

    file: Path
    value_of: dict[str, int]

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
            message = "it says no sensible `size` of the photo"
            raise file_error(self.file, message, fix=EXPORT_AGAIN, code="outline-damaged")

        def region(item: Any) -> tuple[int, Region] | None:
            title = item.get("classTitle") if isinstance(item, dict) else None
            if not isinstance(title, str) or title.strip() not in self.value_of:
                raise ValueError(f"its class {show(title)} is not in {META}")
            region = _region(item, *height_width)
            return None if region is None else (self.value_of[title.strip()], region)

        return StoredMask(
            stack(draw(self.file, "object", document["objects"], region, fix=EXPORT_AGAIN), *height_width)
        )


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
    named = {folder.relative_to(root).as_posix().replace("/datasets/", "/"): folder for folder in folders}
    splits = {split: named[name] for split, name in by_split(named).items()}
    return Layout(NAME, root, root / META, tuple(splits), partial(_pairs, root, splits), partial(_labels, root))


def _dataset_folders(folder: Path, depth: int) -> list[Path]:
    found = []
    for below in subfolders(folder):
        if (below / "ann").is_dir() and (below / "img").is_dir():
            found.append(below)
        if depth < MOST_DEPTH and (below / "datasets").is_dir():
            found += _dataset_folders(below / "datasets", depth + 1)
    return found


def _labels(root: Path) -> LabelSpec:
    meta = root / META
    document = read_json(meta, fix=EXPORT_AGAIN)
    classes = document.get("classes") if isinstance(document, dict) else None
    items = classes if isinstance(classes, list) else [None]
    given = [item.get("title") if isinstance(item, dict) else None for item in items]
    titles = [title for title in given if isinstance(title, str)]
    with class_names_of(meta):
        if len(titles) < len(given):
            raise LabelError("`classes` is not a list with titles", fix="export it again", code="labels-names")
        if len(titles) >= IGNORED:
            raise LabelError(f"{len(titles)} classes are too many", fix="merge some", code="labels-names")
        return object_labels(titles)


def _document(path: Path) -> dict[str, Any]:
    return read_lists(path, "a file of Supervisely", "objects", fix=EXPORT_AGAIN)


@lru_cache(maxsize=1 << 16)
def _without_area(path: Path, *version: int) -> Counter[str]:
    """Count the objects of a file that have no area, by kind."""
    items = [item for item in _document(path)["objects"] if isinstance(item, dict)]
    thin = sum(map(_is_thin, items))
    kinds = (item.get("geometryType") for item in items)
    return Counter(kind for kind in kinds if kind in WITHOUT_AREA) + Counter({"polygon of fewer than 3 points": thin})


def _pairs(root: Path, folders: dict[str, Path], split: str) -> Pairs:
    labels = _labels(root)
    value_of = {name: value for value, name in enumerate(labels.names)}
    document = read_json(root / META, fix=EXPORT_AGAIN)
    titles = [item["title"].strip() for item in document["classes"]]
    value_of |= {title: 0 for title in titles if title.casefold() in BACKGROUND_NAMES}
    tree, folder = FileTree(root), folders[split]
    samples: list[Sample] = []
    problems: list[Problem] = []
    dropped: Counter[str] = Counter()
    taken: set[Path] = set()
    for path in files_of(folder / "ann", ".json"):
        stem = path.stem
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
    alone = [entry.name for entry in visible_entries(folder / "img") if entry.path not in taken]
    problems += left_out(
        folder, "files in img/ have no file in ann/, and are left out", alone, fix="label them in Supervisely"
    )
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
