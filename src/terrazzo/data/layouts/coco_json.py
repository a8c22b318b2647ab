"""COCO JSON: objects with outlines or run lengths, painted into masks when they are read.

One document for each split, as ``annotations/instances_train2017.json``, ``annotations/train.json``, ``train.json`` or
``train/_annotations.coco.json`` (val, valid and test alike). A single document of another name, such as
``instances_default.json``, is a single split. The classes are the background and the categories, by id, joined over all
documents; categories of one name are one class. A photo without objects is background all over. Crowds
(``iscrowd: 1``) are outlined coarsely, with whatever is between the objects, and are ignored where no single object
lies; where a tool has marked single objects so, they can be read as such. `terrazzo.data.outlines` says which pixels
are inside, and what lies on top.

A document is parsed once for as long as it does not change; photos and outlines are decoded when a pair is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

from terrazzo.data.coco_document import Document, Figure, OutlinedMask, parse_categories, parse_document
from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import FileTree, leads_elsewhere, shown_name
from terrazzo.data.json_files import mentions
from terrazzo.data.layout import (
    ALL,
    USUAL_SPLITS,
    Layout,
    NearMiss,
    Pairs,
    no_such_split,
    split_of,
    splits_in_order,
)
from terrazzo.data.outlines import IGNORED, object_labels
from terrazzo.data.problems import Problem, Severity
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import list_names, show, shown_path

__all__ = [
    "NAME",
    "SHAPE",
    "FolderFinder",
    "ImageFinder",
    "coco_documents",
    "coco_layout",
    "find",
    "is_label_studios",
]

NAME = "COCO JSON"
SHAPE = "annotations/instances_train.json; or train/_annotations.coco.json"
DOCUMENT = re.compile(r"(?P<instances>instances_)?(?P<split>train|val|valid|test)(?P<year>20[0-9]{2})?\.json")
IN_SPLIT_FOLDER = "_annotations.coco.json"
SHOWN = 8  # classes in one message


class ImageFinder(Protocol):
    """Where the photos of a document are; its text names the place."""

    def find(self, name: str) -> Path | None:
        """Find the file of a ``file_name``."""
        ...


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by the names of JSON files."""
    documents = coco_documents(root, is_meant=lambda path: not is_label_studios(path))
    if not documents:
        others = sorted(path.name for path in (root / "annotations").glob("*.json"))
        if not others:
            return None
        fix = "name them annotations/instances_train.json and annotations/instances_val.json"
        return NearMiss(NAME, f"no file in annotations/ is named after a split: {', '.join(others[:4])}", fix)
    return coco_layout(NAME, root, documents, _image_finder)


def coco_layout(
    name: str, root: Path, documents: dict[str, Path], image_finder: Callable[[Path, Path, str, Document], ImageFinder]
) -> Layout:
    """Make a layout of one document for each split."""
    splits = splits_in_order(documents)
    labels = partial(_labels, tuple(documents[split] for split in splits))
    pairs, as_objects = (
        partial(_pairs, name, root, documents, splits, image_finder, crowds) for crowds in (False, True)
    )
    return Layout(name, root, documents[splits[0]], splits, pairs, labels, as_objects)


def coco_documents(root: Path, is_meant: Callable[[Path], bool]) -> dict[str, Path]:
    """Find one document for each split; those called instances_... go first, and others count where there are none."""
    found: dict[str, Path] = {}
    places = [*sorted((root / "annotations").glob("*.json")), *sorted(root.glob("*.json"))]
    matches = [(DOCUMENT.fullmatch(path.name), path) for path in places]
    for match, path in sorted(matches, key=lambda item: item[0] is None or item[0]["instances"] is None):
        if match is not None and (match["instances"] or _is_coco(path)) and is_meant(path):
            found.setdefault("val" if match["split"] == "valid" else match["split"], path)
    for folder in (*USUAL_SPLITS, "valid"):
        path = root / folder / IN_SPLIT_FOLDER
        if path.is_file() and is_meant(path):
            found.setdefault("val" if folder == "valid" else folder, path)
    if found:
        return found
    others = [path for path in places if _is_coco(path) and is_meant(path)]
    if all(path.name.startswith("instances_") for path in others):  # of CVAT: instances_default.json
        return {split_of(path.stem.removeprefix("instances_")) or ALL: path for path in others}
    return {ALL: others[0]} if len(others) == 1 else {}


def is_label_studios(path: Path) -> bool:
    """Whether a document says that Label Studio wrote it."""
    return mentions(path, "Label Studio")


def _is_coco(path: Path) -> bool:
    """Whether a JSON file speaks of images and annotations, and not of COCO's panoptic segments."""
    return mentions(path, "images", "annotations", "categories") and not mentions(path, "segments_info")


def _labels(documents: tuple[Path, ...]) -> LabelSpec:
    names = [name for path in documents for name in _categories(*_version(path)).values()]
    try:
        return object_labels(names)
    except LabelError as error:
        raise DatasetError(
            f"{shown_path(documents[0])}: its categories: {error.message}", fix=error.fix, code="dataset-annotations"
        ) from error


def _pairs(
    name: str,
    root: Path,
    documents: dict[str, Path],
    splits: tuple[str, ...],
    image_finder: Callable[[Path, Path, str, Document], ImageFinder],
    crowds_are_objects: bool,
    split: str,
) -> Pairs:
    if split not in splits:
        raise no_such_split(name, root, split, splits)
    path = documents[split]
    document = _document(*_version(path))
    names = _labels(tuple(documents[split] for split in splits)).names
    value_of = {id_: _class_of(name, names) for id_, name in document.categories.items()}
    finder = image_finder(root, path, split, document)
    samples: dict[Path, tuple[str, Sample]] = {}
    problems = [*document.problems, *(() if crowds_are_objects else _crowds(path, document))]
    for image in document.images:
        shown = shown_name(image.name)
        file = finder.find(image.name)
        if file is None and leads_elsewhere(image.name):
            fix = "write file names relative to the photos' folder"
            problems.append(Problem("error", "list-entry", path, f"{shown} leads elsewhere", fix))
        elif file is None:
            fix = "add it, or take it out of the document"
            problems.append(Problem("error", "photo-missing", path, f"lists {shown}, which is not in {finder}", fix))
        elif file in samples:
            fix = "give each photo one entry"
            problems.append(Problem("error", "name-shared", path, f"lists {shown} twice", fix))
        else:
            figures = tuple(_painted(figure, value_of, crowds_are_objects) for figure in image.figures)
            mask = OutlinedMask(path, f"{shown}: ", image.height, image.width, figures)
            samples[file] = image.name, Sample(ImageFile(file), mask)
    if not samples and not problems:
        fix = "export it again, with its images"
        problems.append(Problem("error", "dataset-empty", path, "this split holds no photos", fix))
    return [sample for _, sample in sorted(samples.values(), key=lambda item: item[0])], problems


def _class_of(name: str, names: tuple[str, ...]) -> int:
    return 0 if name.strip().casefold() in BACKGROUND_NAMES else names.index(name.strip())


def _painted(figure: Figure, value_of: dict[int, int], crowds_are_objects: bool) -> Figure:
    is_ignored = figure.is_crowd and not crowds_are_objects
    return figure._replace(value=IGNORED if is_ignored else value_of[figure.value])


def _crowds(path: Path, document: Document) -> Iterator[Problem]:
    """Say how much is ignored for being marked as a crowd; an error where a class has nothing else."""
    if not document.crowds:
        return
    counted = {document.categories[id_]: (n, document.objects[id_]) for id_, n in document.crowds.items()}
    shown = ", ".join(f"{n} of {of} of {show(name)}" for name, (n, of) in list(counted.items())[:SHOWN])
    shown += f" and {len(counted) - SHOWN} more classes" if len(counted) > SHOWN else ""
    message = f"objects marked as crowds (iscrowd: 1), which are ignored where no other object lies: {shown}"
    objects = "where a tool marks every brush mask so, read them as objects: --crowds objects"
    if hidden := [name for name, (n, of) in counted.items() if n == of]:
        message = f"{message}; {list_names(hidden)} is left with nothing"
        yield Problem("error", "crowds-only", path, message, f"{objects}; or label single objects")
    else:
        severity: Severity = "warning" if any(2 * n > of for n, of in counted.values()) else "note"
        yield Problem(severity, "crowds", path, message, f"nothing to do if they are crowds; {objects}")


class FolderFinder:
    """Photos below one folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._tree = FileTree(folder)
        self._shown = f"{shown_path(folder.relative_to(root) if folder.is_relative_to(root) else folder)}/"

    def find(self, name: str) -> Path | None:
        return self._tree.find(name)

    def __str__(self) -> str:
        return self._shown


def _image_finder(root: Path, document: Path, split: str, content: Document) -> ImageFinder:
    """Find the folder that has the first photo."""
    match = DOCUMENT.fullmatch(document.name)
    names = [match["split"] + (match["year"] or ""), match["split"]] if match else []
    beside = document.parent.parent
    tried = [document.parent] if match is None else []
    tried += [base / place / name for base in (root, beside) for place in ("", "images") for name in (*names, split)]
    tried += [base / place for base in (root, beside) for place in ("images", "data", "")]
    first = [image.name for image in content.images[:5]]
    for folder in tried:
        if any(FileTree(folder).find(name) for name in first):
            return FolderFinder(root, folder)
    tree = FileTree(root)
    below = (tree.folder_with(name) for name in first if not leads_elsewhere(name))
    return FolderFinder(root, next((folder for folder in below if folder is not None), tried[0]))


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
