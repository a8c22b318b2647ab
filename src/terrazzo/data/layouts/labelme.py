"""labelme: one JSON file for each photo, with polygons, rectangles, circles and bitmaps, painted when it is read.

The files lie beside their photos or in a folder of their own, in ``train``, ``val`` and ``test`` or all in one place,
which makes a single split called ``all``. A photo is the file that ``imagePath`` names, one of the same name beside the
JSON file or in ``images``, or the copy inside of it (``imageData``). The classes are the background (``_background_``,
and what no shape covers) and the labels by name, or in the order of ``labels.txt`` where labelme was started with one;
``__ignore__`` is ignored. Later shapes lie over earlier ones, as in labelme. Points and lines have no area and are left
out, with a warning that counts them.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from terrazzo.data.bitmaps import bitmap, unpack_base64
from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import FileTree, base_name, shown_name
from terrazzo.data.folders import files_of, split_folders, subfolders, visible_entries
from terrazzo.data.json_files import file_version, mentions, picture_size, points_of, read_lists
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.masks import StoredMask, WholeFile
from terrazzo.data.name_affixes import same_name
from terrazzo.data.outlines import (
    IGNORED,
    Region,
    bitmap_region,
    disc,
    draw,
    object_labels,
    rectangle,
    region_of,
    stack,
)
from terrazzo.data.pairing import list_entries
from terrazzo.data.problems import Problem, class_names_of, left_out
from terrazzo.data.sources.encoded import EncodedImage
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.errors import DatasetError, ImageError
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import show, shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "labelme JSON"
SHAPE = "photo.jpg, photo.json; or train/photo.jpg, train/photo.json"
LABELS = "labels.txt"
IGNORE = "__ignore__"
IMAGE_FOLDERS = ("images", "JPEGImages", "photos", "img")
LINES = ("point", "points", "line", "linestrip")
MOST_BYTES = 256 << 20  # of one photo's file
LOOKED_AT = 3  # JSON files of a folder, to tell whether they are labelme's


@dataclass(frozen=True, slots=True)
class EmbeddedImage(EncodedImage):
    """An image inside of its JSON file, as base64 text."""

    @property
    def part(self) -> str:
        return "imageData: "

    def encoded(self) -> bytes:
        try:
            return unpack_base64(_document(self.file).get("imageData"))
        except ValueError as error:
            message = f"{shown_path(self.file)}: imageData is not an image as base64 text"
            raise ImageError(message, fix="save the file again in labelme", code="image-corrupt") from error


@dataclass(frozen=True, slots=True)
class Shapes(WholeFile):
    """The mask of one photo: the shapes of its JSON file, painted at the photo's size when they are read."""

    file: Path
    image: EncodedImage
    value_of: dict[str, int]

    def read(self) -> StoredMask:
        """Paint them.

        Raises:
            DatasetError: a shape cannot be read, or the photo has no size.
        """
        document = _document(self.file)
        size = picture_size(document.get("imageHeight"), document.get("imageWidth"))
        try:
            height, width = self.image.size if size is None else size
        except ImageError as error:
            raise DatasetError(error.message, fix=error.fix, code="mask-damaged") from error

        def region(shape: Any) -> tuple[int, Region] | None:
            if (label := _label(shape)) is None:
                raise ValueError("it has no label")
            if (region := _region(shape, height, width)) is None:
                return None
            if label.casefold() in BACKGROUND_NAMES:
                return 0, region
            if label not in self.value_of:
                raise ValueError(f"its label {show(label)} is not in {LABELS}; add it there, or correct the label")
            return self.value_of[label], region

        shapes = draw(self.file, "shape", document["shapes"], region, fix="correct it in labelme, or delete it")
        return StoredMask(stack(shapes, height, width))


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by JSON files with ``shapes`` and ``imagePath``."""
    found: dict[str, Path] = {}
    for folder in (root, *subfolders(root)):
        found = found or {
            split: place for split, part in split_folders(folder).items() if (place := _place(part)) is not None
        }
    if not found:
        place = _place(root)
        if place is None:
            return None
        found = {ALL: place}
    marker = files_of(next(iter(found.values())), ".json")[0]
    return Layout(NAME, root, marker, tuple(found), partial(_pairs, root, found), partial(_labels, root, found))


def _place(folder: Path) -> Path | None:
    """Find the JSON files of a split: in its folder, or in a folder in that."""
    return next((place for place in (folder, *subfolders(folder)) if _is_labelme(place)), None)


def _is_labelme(folder: Path) -> bool:
    looked_at = (
        path for path in files_of(folder, ".json")[:LOOKED_AT] if path.is_file() and path.stat().st_size < MOST_BYTES
    )
    return any(mentions(path, "shapes", "imagePath") for path in looked_at)


def _document(path: Path) -> dict[str, Any]:
    fix = "take it away, or save it again in labelme"
    return read_lists(path, "a file of labelme", "shapes", fix=fix)


class Summary(NamedTuple):
    """What listing the pairs needs of a file: the rest is read when a pair is."""

    image_path: str
    has_data: bool
    labels: frozenset[str]
    without_area: Counter[str]


@lru_cache(maxsize=1 << 16)
def _summary(path: Path, *version: int) -> Summary:
    document = _document(path)
    image_path = document.get("imagePath")
    labels: set[str] = set()
    dropped: Counter[str] = Counter()
    for shape in document["shapes"]:
        kind = _kind(shape)
        if kind in LINES or _is_thin(shape):
            dropped[kind] += 1
        elif (label := _label(shape)) is not None:
            labels.add(label)
    return Summary(
        image_path if isinstance(image_path, str) else "", bool(document.get("imageData")), frozenset(labels), dropped
    )


def _labels(root: Path, folders: dict[str, Path]) -> LabelSpec:
    """The labels in the order of ``labels.txt``, or else by name; files that cannot be read are listed as such."""
    paths = [path for folder in folders.values() for path in files_of(folder, ".json")]
    first = next(iter(folders.values()))
    text_file = next((path for path in (root / LABELS, first / LABELS) if path.is_file()), None)
    if text_file is not None:
        names = [same_name(entry) for _, entry in list_entries(text_file)]
    else:
        found: set[str] = set()
        for path in paths:
            with suppress(DatasetError):
                found |= _summary(*file_version(path)).labels
        names = sorted(found)
    with class_names_of(text_file or paths[0], "its labels: "):
        return object_labels(name for name in names if name != IGNORE)


def _pairs(root: Path, folders: dict[str, Path], split: str) -> Pairs:
    names = _labels(root, folders).names
    value_of = {name: value for value, name in enumerate(names)} | {IGNORE: IGNORED}
    tree, folder = FileTree(root), folders[split]
    samples: list[Sample] = []
    problems: list[Problem] = []
    taken: dict[Path, Path] = {}
    dropped: Counter[str] = Counter()
    for path in files_of(folder, ".json"):
        try:
            summary = _summary(*file_version(path))
        except DatasetError as error:
            problems.append(Problem.from_error(error, path))
            continue
        image = _image(tree, path, summary)
        if image is None:
            message = f"its photo {shown_name(summary.image_path) or 'without a name'} is not there, nor a copy in it"
            problems.append(Problem("error", "photo-missing", path, message, "put the photo beside the JSON file"))
        elif image.file in taken:
            message = f"shows {shown_path(image.name)}, as {shown_path(taken[image.file].name)} does"
            problems.append(Problem("error", "name-shared", path, message, "keep one JSON file for each photo"))
        else:
            taken[image.file] = path
            samples.append(Sample(image, Shapes(path, image, value_of)))
            dropped += summary.without_area
    places = {folder} | ({image.parent for image in taken} if split == ALL else set())
    problems += _left_out(folder, places, set(taken), dropped)
    return samples, problems


def _image(tree: FileTree, path: Path, summary: Summary) -> EncodedImage | None:
    folder, name = path.parent, base_name(summary.image_path)
    bases = [folder, *([folder.parent] if folder != tree.root else [])]
    beside = [base / images for images in IMAGE_FOLDERS for base in bases]
    split_alike = [tree.root / images / folder.name for images in IMAGE_FOLDERS]
    file = tree.find(summary.image_path, folder) if name else None
    for place in (folder, *beside, *split_alike):
        file = file or (tree.find(name, place) if name else None) or tree.find_image(path.stem, place)
    if file is not None:
        return ImageFile(file)
    return EmbeddedImage(path) if summary.has_data else None


def _left_out(folder: Path, places: set[Path], taken: set[Path], dropped: Counter[str]) -> list[Problem]:
    """Count the shapes without an area, and the photos that nobody has labelled."""
    problems = []
    if dropped:
        counted = ", ".join(f"{count} {show(kind)}" for kind, count in sorted(dropped.items()))
        message = f"shapes without an area, left out: {counted}"
        problems.append(Problem("warning", "outline-empty", folder, message, "draw them as polygons if they matter"))
    images = [entry for place in places for entry in visible_entries(place) if entry.is_file and entry.is_image]
    alone = sorted(entry.name for entry in images if entry.path not in taken)
    fix = "label them in labelme; where there is nothing to label, save the file without shapes"
    return problems + left_out(folder, "photos have no JSON file, and are left out", alone, fix=fix)


def _label(shape: Any) -> str | None:
    label = shape.get("label") if isinstance(shape, dict) else None
    return same_name(label.strip()) if isinstance(label, str) and label.strip() else None


def _kind(shape: Any) -> str:
    kind = shape.get("shape_type") if isinstance(shape, dict) else None
    return kind if isinstance(kind, str) else "polygon"  # files of labelme 3 do not say


def _is_thin(shape: Any) -> bool:
    points = shape.get("points") if isinstance(shape, dict) else None
    return _kind(shape) == "polygon" and isinstance(points, list) and len(points) < 3


def _region(shape: Any, height: int, width: int) -> Region | None:
    """Fill one shape; None where it has no area.

    Raises:
        ValueError: it is damaged.
    """
    kind = _kind(shape)
    if kind in LINES or _is_thin(shape):
        return None
    points_N2 = points_of(shape.get("points"))
    if kind == "rectangle" and len(points_N2) in (2, 4):
        return rectangle(points_N2, height, width)
    if kind in ("rectangle", "circle", "mask") and len(points_N2) != 2:
        raise ValueError(f"a {kind} has two points, not {len(points_N2)}")
    if kind == "circle":
        center, on_it = points_N2
        return disc(center, float(np.hypot(*(on_it - center))), height, width)
    if kind == "mask":
        inside_hw = bitmap(unpack_base64(shape.get("mask")))
        left, top = np.floor(points_N2[0]).astype(int).tolist()
        return bitmap_region(inside_hw, top, left, height, width)
    if kind not in ("polygon", "oriented_rectangle", "rotation"):
        raise ValueError(f"its kind {show(kind)} is not known")
    if len(points_N2) < 3:
        raise ValueError(f"it has {len(points_N2)} points")
    return region_of([points_N2], height, width)
