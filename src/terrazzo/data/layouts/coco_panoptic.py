"""COCO panoptic: a JSON document for each split, and PNGs whose colours are the numbers of segments.

``annotations/panoptic_train2017.json`` beside ``annotations/panoptic_train2017/*.png``, with photos in ``train2017``;
documents of other names, such as ``export_coco-panoptic_....json``, are taken where there is one. A pixel's number is
red + 256 green + 65536 blue, and the document says which category it has: things and stuff alike become classes, by id.
Pixels of number 0 belong to no segment. They are ignored, as in COCO; where all categories are things they are the
background, since there would be nothing else to tell the objects from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import FileTree, base_name, leads_elsewhere, shown_name
from terrazzo.data.folders import by_split, files_of, split_of_year
from terrazzo.data.json_files import file_version, key_of, mentions, read_lists, whole_number
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.problems import Problem, file_error
from terrazzo.data.segments import Categories, read_categories
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import show, shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "COCO panoptic"
SHAPE = "annotations/panoptic_train2017.json, annotations/panoptic_train2017, train2017"
DOCUMENT = re.compile(r"panoptic_(?P<split>[A-Za-z]+(20[0-9]{2})?)\.json")


class Entry(NamedTuple):
    """One annotated photo: the names of photo and PNG, and the category of each segment."""

    image: str
    png: str
    categories: dict[int, int]


@dataclass(frozen=True)
class Document:
    """A parsed document."""

    categories: Categories
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by documents that speak of ``segments_info``."""
    places = [*files_of(root / "annotations", ".json"), *files_of(root, ".json")]
    named = {match["split"]: path for path in reversed(places) if (match := DOCUMENT.fullmatch(path.name))}
    others = [path for path in places if not named and mentions(path, "segments_info", "images", "categories")]
    if not named and len(others) != 1:
        if not others:
            return None
        fix = "name them annotations/panoptic_train.json and annotations/panoptic_val.json"
        return NearMiss(NAME, f"it has {len(others)} panoptic documents that are not named after a split", fix)
    documents = {split: named[name] for split, name in by_split(named, split_of_year).items()} or {ALL: others[0]}
    paths = tuple(documents.values())
    return Layout(NAME, root, paths[0], tuple(documents), partial(_pairs, root, documents), partial(_labels, paths))


def _labels(documents: tuple[Path, ...]) -> LabelSpec:
    first = _document(*file_version(documents[0])).categories
    for path in documents[1:]:
        if _document(*file_version(path)).categories != first:
            message = f"it has other categories than {shown_path(documents[0])}"
            raise file_error(path, message, fix="use documents of one export")
    return first.labels(documents[0])


@lru_cache(maxsize=4)
def _document(path: Path, *version: int) -> Document:
    lists = ("images", "annotations", "categories")
    content = read_lists(path, "a panoptic document", *lists, fix="export it again from the tool that wrote it")
    categories = read_categories(path, content["categories"], "isthing")
    images: dict[Any, str] = {}
    wrong: dict[str, list[str]] = {}
    for image in content["images"]:
        name = image.get("file_name") if isinstance(image, dict) else None
        id_ = key_of(image.get("id")) if isinstance(image, dict) else None
        if id_ is not None and id_ not in images and isinstance(name, str) and name:
            images[id_] = name
        else:
            wrong.setdefault("photos without an id of their own or a file name", []).append(show(id_))
    entries = []
    for number, annotation in enumerate(content["annotations"], 1):
        entry = _entry(annotation, images, categories)
        if isinstance(entry, Entry):
            entries.append(entry)
        else:
            wrong.setdefault(entry, []).append(f"number {number}")
    problems = [
        Problem("error", "segments-damaged", path, f"{what}: {len(which)}, {', '.join(which[:3])}", "export it again")
        for what, which in wrong.items()
    ]
    return Document(categories, tuple(entries), tuple(problems))


def _entry(annotation: Any, images: dict[Any, str], categories: Categories) -> Entry | str:
    """Read one photo's annotation, or say what is wrong with it."""
    given = annotation if isinstance(annotation, dict) else {}
    image_id, png, segments = key_of(given.get("image_id")), given.get("file_name"), given.get("segments_info")
    if not isinstance(png, str) or not png or not isinstance(segments, list):
        return "annotations without a file name or segments"
    if image_id is None or image_id not in images:
        return "annotations of a photo that is not listed"
    found: dict[int, int] = {}
    for segment in segments:
        id_, category = (
            whole_number(segment.get(k)) if isinstance(segment, dict) else None for k in ("id", "category_id")
        )
        if id_ is None or category is None or id_ in found or not 0 < id_ < 1 << 24:
            return "annotations with a segment that lacks a number of its own, or a category"
        if category not in categories.names:
            return "annotations with a segment of a category that is not listed"
        found[id_] = category
    return Entry(images[image_id], png, found)


def _pairs(root: Path, documents: dict[str, Path], split: str) -> Pairs:
    path = documents[split]
    document = _document(*file_version(path))
    tree = FileTree(root)
    images = _folder(tree, [entry.image for entry in document.entries[:5]], _near(root, path, split))
    pngs = _folder(
        tree, [entry.png for entry in document.entries[:5]], (path.with_suffix(""), root / path.stem, path.parent)
    )
    samples: dict[Path, Sample] = {}
    problems = [*document.problems, document.categories.note(path)]
    for entry in document.entries:
        image, png = tree.find(entry.image, images), tree.find(entry.png, pngs)
        shown = shown_name(entry.image)
        missing = next((name for name, file in ((entry.image, image), (entry.png, png)) if file is None), None)
        if image is None or png is None:
            is_image = image is None
            code = "list-entry" if leads_elsewhere(missing or "") else "photo-missing" if is_image else "mask-missing"
            message = f"lists {shown_name(missing or '')}, which is not in the data set's folder"
            problems.append(Problem("error", code, path, message, "add it, or take it out of the document"))
        elif image in samples:
            fix = "give each photo one annotation"
            problems.append(Problem("error", "name-shared", path, f"annotates {shown} twice", fix))
        else:
            samples[image] = Sample(ImageFile(image), document.categories.mask(png, entry.categories))
    return [samples[image] for image in sorted(samples)], problems


def _near(root: Path, document: Path, split: str) -> tuple[Path, ...]:
    """Where the photos of a document usually are."""
    year = document.stem.rpartition("_")[2]  # train2017
    folders = [root / place / name for place in ("", "images") for name in (year, split)]
    return (*folders, root / "images", root, document.parent)


def _folder(tree: FileTree, names: list[str], places: tuple[Path, ...]) -> Path:
    """Find the folder that has the first files: one of the usual ones, or any below the root."""
    inside = [place for place in places if place.is_relative_to(tree.root)]
    for name in names:
        for folder in inside:
            if tree.find(name, folder) is not None:
                return folder
        below = None if leads_elsewhere(name) or not base_name(name) else tree.folder_with(name)
        if below is not None:
            return below
    return tree.root
