"""What a COCO JSON document says, checked and packed: photos, their objects' outlines, and what is wrong with them.

Wrong entries are counted by kind, so that a hundred thousand boxes make one problem and not as many.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from terrazzo.config import read_json
from terrazzo.data.masks import StoredMask
from terrazzo.data.outlines import Points, Region, decode_runs, paint, region_of, unpack_runs
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.regular_files import open_regular
from terrazzo.text import show, shown_path

__all__ = ["Document", "Figure", "OutlinedMask", "parse_categories", "parse_document"]

MOST_CATEGORY_BYTES = 4 << 20
FARTHEST = 1e30  # that a point may lie from the corner of its photo
MOST_BYTES = 4 << 30  # of a document; those of LVIS have 1.2 GB
PROBLEMS = {
    "box": Problem(
        "error",
        "outline-missing",
        None,
        "annotations without an outline (`segmentation`)",
        "export outlines: boxes are not masks",
    ),
    "damaged": Problem(
        "error", "outline-damaged", None, "annotations whose outline cannot be read", "export the document again"
    ),
    "category": Problem(
        "error", "outline-damaged", None, "annotations of a category that is not listed", "export the document again"
    ),
    "photo": Problem(
        "error", "outline-damaged", None, "annotations of a photo that is not listed", "export the document again"
    ),
    "thin": Problem(
        "warning", "outline-empty", None, "annotations with a polygon of fewer than three points, left out", "remove it"
    ),
    "entry": Problem(
        "error", "outline-damaged", None, "photos without an id, a file name or a size", "export the document again"
    ),
}


class Figure(NamedTuple):
    """One object: a category or painted value, and either polygons or run lengths."""

    value: int
    is_crowd: bool
    polygons: tuple[Points, ...]
    runs: NDArray[np.int64] | str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo of a document."""

    name: str
    height: int
    width: int
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A parsed document.

    Attributes:
        categories: names by id, in the order of ids.
        images: in the document's order.
        problems: one for each kind of mistake.
        objects: outlined objects by category.
        crowds: those of them that are marked as crowds.
    """

    categories: dict[int, str]
    images: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    objects: Mapping[int, int]
    crowds: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class OutlinedMask:
    """The mask of one photo, painted when it is read."""

    file: Path
    part: str
    height: int
    width: int
    figures: tuple[Figure, ...]

    def read(self) -> StoredMask:
        """Paint it.

        Raises:
            DatasetError: run lengths that do not fit the photo.
        """
        try:
            objects = [(figure.value, self._region(figure)) for figure in self.figures]
        except ValueError as error:
            raise DatasetError(
                f"{shown_path(self.file)}: {self.part}{error}", fix="export the document again", code="outline-damaged"
            ) from error
        empty = sum(not region.inside_hw.any() for _, region in objects)
        return StoredMask(paint(objects, self.height, self.width), empty=empty)

    def _region(self, figure: Figure) -> Region:
        if figure.runs is None:
            return region_of(figure.polygons, self.height, self.width)
        runs = unpack_runs(figure.runs) if isinstance(figure.runs, str) else figure.runs
        return Region(0, 0, decode_runs(runs, self.height, self.width))


def parse_document(path: Path) -> Document:
    """Parse a whole document.

    Raises:
        DatasetError: it cannot be read, or is not a COCO document.
    """
    content = read_json(path, error=DatasetError, code="dataset-annotations", most_bytes=MOST_BYTES, lenient=True)
    if not isinstance(content, dict):
        raise _no_document(path, "it is a JSON file, but no COCO document")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise _no_document(path, f"it is a JSON file, but no COCO document: {', '.join(missing)} missing")
    categories = _by_id(content["categories"])
    if categories is None:
        raise _no_document(path, "its categories are not a list of ids and names")
    wrong: dict[str, list[object]] = defaultdict(list)
    images: dict[object, Entry] = {}
    for record in content["images"]:
        entry = _entry(record)
        if entry is None:
            wrong["entry"].append(record.get("id") if isinstance(record, dict) else record)
        else:
            images[record["id"]] = entry
    for annotation in content["annotations"]:
        kind = _add_figure(annotation, images, categories)
        if kind is not None:
            wrong[kind].append(annotation.get("id") if isinstance(annotation, dict) else annotation)
    problems = tuple(_problem(path, kind, ids) for kind, ids in wrong.items())
    figures = [figure for image in images.values() for figure in image.figures]
    objects = Counter(figure.value for figure in figures)
    crowds = Counter(figure.value for figure in figures if figure.is_crowd)
    return Document(categories, tuple(images.values()), problems, objects, crowds)


def parse_categories(path: Path) -> dict[int, str] | None:
    """Read the categories without the rest; None where the file says the word more than once, or says it oddly."""
    with open_regular(path) as file:
        if not file.seek(0, 2):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            places = [match.end() for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', text)]
            if len(places) != 1:
                return None
            tail = text[places[0] : places[0] + MOST_CATEGORY_BYTES]
    try:
        return _by_id(json.JSONDecoder().raw_decode(tail.decode("utf-8", "replace"))[0])
    except (ValueError, RecursionError):
        return None


def _by_id(categories: list[Any]) -> dict[int, str] | None:
    found: dict[int, str] = {}
    for category in categories:
        if not isinstance(category, dict) or not _is_int(category.get("id")):
            return None
        if not isinstance(category.get("name"), str) or category["id"] in found:
            return None
        found[category["id"]] = category["name"]
    return dict(sorted(found.items()))


def _entry(image: Any) -> Entry | None:
    if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)):
        return None
    name, height, width = (image.get(key) for key in ("file_name", "height", "width"))
    if not isinstance(name, str) or not name or not _is_int(height) or not _is_int(width):
        return None
    return Entry(name, height, width) if min(height, width) > 0 and height * width <= MAX_PIXELS else None


def _add_figure(annotation: Any, images: dict[object, Entry], categories: dict[int, str]) -> str | None:
    """Add an annotation to its photo; say what is wrong with it, if anything is."""
    if not isinstance(annotation, dict):
        return "damaged"
    image_id, category, shape = (annotation.get(key) for key in ("image_id", "category_id", "segmentation"))
    image = images.get(image_id) if isinstance(image_id, (int, str)) else None
    if image is None:
        return "photo"
    if not _is_int(category) or category not in categories:
        return "category"
    is_crowd = bool(annotation.get("iscrowd"))
    if not shape:
        return "box"
    if isinstance(shape, dict):
        size, counts = shape.get("size"), shape.get("counts")
        if size != [image.height, image.width]:
            return "damaged"
        if isinstance(counts, list):
            if not all(map(_is_int, counts)):
                return "damaged"
            counts = np.array(counts, np.int64)
        elif not isinstance(counts, str):
            return "damaged"
        image.figures.append(Figure(category, is_crowd, (), counts))
        return None
    polygons = [_points(polygon) for polygon in shape] if isinstance(shape, list) else [None]
    if any(polygon is None for polygon in polygons):
        return "damaged"
    solid = tuple(polygon for polygon in polygons if polygon is not None and len(polygon) >= 3)
    if solid:
        image.figures.append(Figure(category, is_crowd, solid, None))
    return None if len(solid) == len(polygons) else "thin"


def _points(polygon: Any) -> Points | None:
    """Read [x0, y0, x1, y1, ...] as (N, 2)."""
    if not isinstance(polygon, list) or not polygon or len(polygon) % 2:
        return None
    try:
        points_N2 = np.array(polygon, np.float64).reshape(-1, 2)
    except (ValueError, TypeError, OverflowError):
        return None
    return points_N2.astype(np.float32) if (np.abs(points_N2) < FARTHEST).all() else None


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _problem(path: Path, kind: str, ids: list[object]) -> Problem:
    shown = ", ".join(show(id_) for id_ in ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    return replace(PROBLEMS[kind], file=path, message=f"{PROBLEMS[kind].message}: {len(ids)}, id {shown}")


def _no_document(path: Path, message: str) -> DatasetError:
    return DatasetError(
        f"{shown_path(path)}: {message}",
        fix="export the annotations again, as COCO instances",
        code="dataset-annotations",
    )
