"""COCO JSON documents, parsed and checked: photos, the outlines of their objects, and what is wrong with them.

Wrong entries are counted by kind, so that a hundred thousand boxes make one problem and not as many.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.json_files import is_set, key_of, names_by_id, picture_size, read_lists, whole_number
from terrazzo.data.masks import StoredMask
from terrazzo.data.outlines import Points, Region, decode_runs, paint, region_of, unpack_runs
from terrazzo.data.problems import Problem, file_error
from terrazzo.regular_files import open_regular
from terrazzo.text import first_few, show

__all__ = ["Document", "Figure", "OutlinedMask", "parse_categories", "parse_document"]

MOST_CATEGORY_BYTES = 4 << 20
FARTHEST = 1e30  # that a point may lie from the corner of its photo
EXPORT_AGAIN = "export the annotations again, as COCO instances"
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
    "twice": Problem("error", "name-shared", None, "photos with the id of another", "give each photo its own id"),
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
            fix = "export the document again"
            raise file_error(self.file, f"{self.part}{error}", fix=fix, code="outline-damaged") from error
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
    lists = ("images", "annotations", "categories")
    content = read_lists(path, "a COCO document", *lists, fix=EXPORT_AGAIN)
    categories = names_by_id(content["categories"])
    if categories is None:
        raise file_error(path, "its categories are not a list of ids and names", fix=EXPORT_AGAIN)
    wrong: dict[str, list[object]] = defaultdict(list)
    images: dict[object, Entry] = {}
    for record in content["images"]:
        key = key_of(record.get("id")) if isinstance(record, dict) else None
        entry = None if key is None else _entry(record)
        if entry is None or key in images:
            wrong["entry" if entry is None else "twice"].append(key)
        else:
            images[key] = entry
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
    with suppress(OSError, ValueError, RecursionError), open_regular(path) as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            places = [match.end() for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', text)]
            if len(places) != 1:
                return None
            tail = text[places[0] : places[0] + MOST_CATEGORY_BYTES]
        return names_by_id(json.JSONDecoder().raw_decode(tail.decode("utf-8", "replace"))[0])
    return None


def _entry(image: dict[str, Any]) -> Entry | None:
    name, size = image.get("file_name"), picture_size(image.get("height"), image.get("width"))
    return Entry(name, *size) if isinstance(name, str) and name and size is not None else None


def _add_figure(annotation: Any, images: dict[object, Entry], categories: dict[int, str]) -> str | None:
    """Add an annotation to its photo; say what is wrong with it, if anything is."""
    if not isinstance(annotation, dict):
        return "damaged"
    image, shape = images.get(key_of(annotation.get("image_id"))), annotation.get("segmentation")
    if image is None:
        return "photo"
    category = whole_number(annotation.get("category_id"))
    if category is None or category not in categories:
        return "category"
    is_crowd = is_set(annotation.get("iscrowd"))
    if not shape:
        return "box"
    if isinstance(shape, dict):
        size, counts = shape.get("size"), shape.get("counts")
        if size != [image.height, image.width]:
            return "damaged"
        if isinstance(counts, list):
            if any(whole_number(count) is None for count in counts):
                return "damaged"
            counts = np.array(list(map(whole_number, counts)), np.int64)
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


def _problem(path: Path, kind: str, ids: list[object]) -> Problem:
    shown = first_few(map(show, ids), 3)
    return replace(PROBLEMS[kind], file=path, message=f"{PROBLEMS[kind].message}: {len(ids)}, id {shown}")
