"""COCO JSON: objects with outlines or run lengths, painted into masks when they are read.

One document for each split, as ``annotations/instances_train2017.json``, ``annotations/train.json``, ``train.json`` or
``train/_annotations.coco.json`` (val, valid and test alike). The classes are the background and the categories, by id,
joined over all documents; categories of one name are one class. A photo without objects is background all over. Crowds
(``iscrowd: 1``) are outlined coarsely, with whatever is between the objects, and are ignored where no single object
lies. `terrazzo.data.outlines` says which pixels are inside, and what lies on top.

A document is parsed once for as long as it does not change; photos and outlines are decoded when a pair is read.
"""

from __future__ import annotations

import mmap
import os
import re
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from terrazzo.data.coco_document import Document, Figure, OutlinedMask, parse_categories, parse_document
from terrazzo.data.dataset import Sample
from terrazzo.data.layout import USUAL_SPLITS, Layout, NearMiss, Pairs, no_such_split
from terrazzo.data.outlines import IGNORED, object_labels
from terrazzo.data.pairing import folder_entries
from terrazzo.data.photos import PhotoFile
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels import BACKGROUND_NAMES, LabelSpec
from terrazzo.regular_files import open_regular
from terrazzo.text import shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "COCO JSON"
SHAPE = "annotations/instances_train.json; or train/_annotations.coco.json"
DOCUMENT = re.compile(r"(?P<instances>instances_)?(?P<split>train|val|valid|test)(?P<year>20[0-9]{2})?\.json")
IN_SPLIT_FOLDER = "_annotations.coco.json"


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by the names of JSON files."""
    documents = _documents(root)
    if not documents:
        others = sorted(path.name for path in (root / "annotations").glob("*.json"))
        if not others:
            return None
        fix = "name them annotations/instances_train.json and annotations/instances_val.json"
        return NearMiss(NAME, f"no file in annotations/ is named after a split: {', '.join(others[:4])}", fix)
    splits = tuple(split for split in USUAL_SPLITS if split in documents)
    labels = partial(_labels, tuple(documents[split] for split in splits))
    pairs = partial(_pairs, root, documents, splits)
    return Layout(NAME, root, documents[splits[0]], splits, pairs, labels)


def _documents(root: Path) -> dict[str, Path]:
    """Find one document for each split; those called instances_... go first."""
    found: dict[str, Path] = {}
    places = [*sorted((root / "annotations").glob("*.json")), *sorted(root.glob("*.json"))]
    matches = [(DOCUMENT.fullmatch(path.name), path) for path in places]
    for match, path in sorted(matches, key=lambda item: item[0] is None or item[0]["instances"] is None):
        if match is not None and (match["instances"] or _is_coco(path)):
            found.setdefault("val" if match["split"] == "valid" else match["split"], path)
    for folder in (*USUAL_SPLITS, "valid"):
        path = root / folder / IN_SPLIT_FOLDER
        if path.is_file():
            found.setdefault("val" if folder == "valid" else folder, path)
    return found


def _is_coco(path: Path) -> bool:
    """Whether a JSON file of a common name speaks of images and annotations."""
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(b'"images"') >= 0 and text.find(b'"annotations"') >= 0
    except ValueError:  # an empty file
        return False
    except OSError:  # it is said when the document is read
        return os.path.isfile(path)


def _labels(documents: tuple[Path, ...]) -> LabelSpec:
    names = [name for path in documents for name in _categories(*_version(path)).values()]
    try:
        return object_labels(names)
    except LabelError as error:
        raise DatasetError(
            f"{shown_path(documents[0])}: its categories: {error.message}", fix=error.fix, code="dataset-annotations"
        ) from error


def _pairs(root: Path, documents: dict[str, Path], splits: tuple[str, ...], split: str) -> Pairs:
    if split not in splits:
        raise no_such_split(NAME, root, split, splits)
    path = documents[split]
    document = _document(*_version(path))
    names = _labels(tuple(documents[split] for split in splits)).names
    value_of = {id_: _class_of(name, names) for id_, name in document.categories.items()}
    folder = _photo_folder(root, path, split, document)
    there: dict[Path, set[str]] = {}
    samples: dict[str, Sample] = {}
    problems = list(document.problems)
    for photo in document.photos:
        parts = PurePosixPath(photo.name)
        place = folder / parts.parent
        if place not in there:
            there[place] = {entry.name for entry in folder_entries(place)} if os.path.isdir(place) else set()
        shown = shown_path(photo.name)
        if parts.is_absolute() or ".." in parts.parts:
            fix = "write file names relative to the photos' folder"
            problems.append(Problem("error", "list-entry", path, f"{shown} leads elsewhere", fix))
        elif parts.name not in there[place]:
            where = shown_path(folder.relative_to(root))
            fix = "add it, or take it out of the document"
            problems.append(Problem("error", "photo-missing", path, f"lists {shown}, which is not in {where}/", fix))
        elif photo.name in samples:
            fix = "give each photo one entry"
            problems.append(Problem("error", "name-shared", path, f"lists {shown} twice", fix))
        else:
            figures = tuple(_painted(figure, value_of) for figure in photo.figures)
            mask = OutlinedMask(path, f"{shown}: ", photo.height, photo.width, figures)
            samples[photo.name] = Sample(PhotoFile(folder / photo.name), mask)
    if not samples and not problems:
        fix = "export it anew, with its images"
        problems.append(Problem("error", "dataset-empty", path, "this split holds no photos", fix))
    return [samples[name] for name in sorted(samples)], problems


def _class_of(name: str, names: tuple[str, ...]) -> int:
    return 0 if name.strip().casefold() in BACKGROUND_NAMES else names.index(name.strip())


def _painted(figure: Figure, value_of: dict[int, int]) -> Figure:
    return figure._replace(value=IGNORED if figure.is_crowd else value_of[figure.value])


def _photo_folder(root: Path, document: Path, split: str, content: Document) -> Path:
    """Find the folder that has the first photo."""
    match = DOCUMENT.fullmatch(document.name)
    names = [match["split"] + (match["year"] or ""), match["split"]] if match else []
    beside = document.parent.parent
    tried = [document.parent] if match is None else []
    tried += [base / place / name for base in (root, beside) for place in ("", "images") for name in (*names, split)]
    tried += [base / place for base in (root, beside) for place in ("images", "data", "")]
    for folder in tried:
        if any(os.path.isfile(folder / photo.name) for photo in content.photos[:5]):
            return folder
    return tried[0]


def _version(path: Path) -> tuple[Path, int, int]:
    """A path with what changes when somebody writes to the file."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _document(path: Path, *version: int) -> Document:
    try:
        return parse_document(path)
    except OSError as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=16)
def _categories(path: Path, *version: int) -> dict[int, str]:
    """Read the categories alone, where that is certain to give what the whole document would."""
    try:
        found = parse_categories(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _document(path, *version).categories if found is None else found


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{shown_path(path)}: cannot be read: {error.strerror}",
        fix="check its permissions",
        code="dataset-annotations",
    )
