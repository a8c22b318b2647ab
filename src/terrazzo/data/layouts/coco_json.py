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
from typing import TypeAlias

from terrazzo.data.coco_document import Document, Figure, OutlinedMask, parse_categories, parse_document
from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import FileTree, leads_elsewhere, shown_name
from terrazzo.data.folders import by_split, files_of, split_folders, split_of_year
from terrazzo.data.json_files import file_version, mentions
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.outlines import IGNORED, object_labels
from terrazzo.data.problems import Problem, Severity, class_names_of
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import first_few, list_names, show, shown_path

__all__ = [
    "NAME",
    "SHAPE",
    "Finder",
    "coco_documents",
    "coco_layout",
    "find",
    "is_label_studios",
]

NAME = "COCO JSON"
SHAPE = "annotations/instances_train.json; or train/_annotations.coco.json"
DOCUMENT = re.compile(r"(?P<instances>instances_)?(?P<split>(train|val|valid|test)(20[0-9]{2})?)\.json")
IN_SPLIT_FOLDER = "_annotations.coco.json"


Finder: TypeAlias = tuple[Callable[[str], Path | None], str]
"""What finds the file of a ``file_name``, and where that looks, for messages."""


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by the names of JSON files."""
    documents = coco_documents(root, is_meant=lambda path: not is_label_studios(path))
    if not documents:
        others = [path.name for path in files_of(root / "annotations", ".json")]
        if not others:
            return None
        fix = "name them annotations/instances_train.json and annotations/instances_val.json"
        return NearMiss(NAME, f"no file in annotations/ is named after a split: {list_names(others)}", fix)
    return coco_layout(NAME, root, documents, _image_finder)


def coco_layout(
    name: str, root: Path, documents: dict[str, Path], image_finder: Callable[[Path, Path, str, Document], Finder]
) -> Layout:
    """Make a layout of one document for each split."""
    paths = tuple(documents.values())
    pairs, as_objects = (partial(_pairs, root, documents, image_finder, crowds) for crowds in (False, True))
    return Layout(name, root, paths[0], tuple(documents), pairs, partial(_labels, paths), as_objects)


def coco_documents(root: Path, is_meant: Callable[[Path], bool]) -> dict[str, Path]:
    """Find one document for each split; those called instances_... go first, and others count where there are none."""
    found: dict[str, Path] = {}
    places = [*files_of(root / "annotations", ".json"), *files_of(root, ".json")]
    named = [(match, path) for path in reversed(places) if (match := DOCUMENT.fullmatch(path.name)) and is_meant(path)]
    instances = {match["split"]: path for match, path in named if match["instances"]}
    others = {match["split"]: path for match, path in named if not match["instances"] and _is_coco(path)}
    in_folders = {split: folder / IN_SPLIT_FOLDER for split, folder in split_folders(root).items()}
    in_folders = {split: path for split, path in in_folders.items() if path.is_file() and is_meant(path)}
    for documents in (instances, others, in_folders):
        for split, name in by_split(documents, split_of_year).items():
            found.setdefault(split, documents[name])
    if found:
        return {split: found[split] for split in by_split(found)}
    unnamed = [path for path in places if _is_coco(path) and is_meant(path)]
    if all(path.name.startswith("instances_") for path in unnamed):  # of CVAT: instances_default.json
        documents = {path.stem.removeprefix("instances_") or ALL: path for path in unnamed}
        return {split: documents[name] for split, name in by_split(documents).items()}
    return {ALL: unnamed[0]} if len(unnamed) == 1 else {}


def is_label_studios(path: Path) -> bool:
    """Whether a document says that Label Studio wrote it."""
    return mentions(path, "Label Studio")


def _is_coco(path: Path) -> bool:
    """Whether a JSON file speaks of images and annotations, and not of COCO's panoptic segments."""
    return mentions(path, "images", "annotations", "categories") and not mentions(path, "segments_info")


def _labels(documents: tuple[Path, ...]) -> LabelSpec:
    names = [name for path in documents for name in _categories(*file_version(path)).values()]
    with class_names_of(documents[0], "its categories: "):
        return object_labels(names)


def _pairs(
    root: Path,
    documents: dict[str, Path],
    image_finder: Callable[[Path, Path, str, Document], Finder],
    crowds_are_objects: bool,
    split: str,
) -> Pairs:
    path = documents[split]
    document = _document(*file_version(path))
    names = _labels(tuple(documents.values())).names
    value_of = {id_: _class_of(name, names) for id_, name in document.categories.items()}
    find_image, place = image_finder(root, path, split, document)
    samples: dict[Path, tuple[str, Sample]] = {}
    problems = [*document.problems, *(() if crowds_are_objects else _crowds(path, document))]
    for image in document.images:
        shown = shown_name(image.name)
        file = find_image(image.name)
        if file is None and leads_elsewhere(image.name):
            fix = "write file names relative to the photos' folder"
            problems.append(Problem("error", "list-entry", path, f"{shown} leads elsewhere", fix))
        elif file is None:
            fix = "add it, or take it out of the document"
            problems.append(Problem("error", "photo-missing", path, f"lists {shown}, which is not in {place}", fix))
        elif file in samples:
            fix = "give each photo one entry"
            problems.append(Problem("error", "name-shared", path, f"lists {shown} twice", fix))
        else:
            figures = tuple(_painted(figure, value_of, crowds_are_objects) for figure in image.figures)
            mask = OutlinedMask(path, f"{shown}: ", image.height, image.width, figures)
            samples[file] = image.name, Sample(ImageFile(file), mask)
    return [sample for _, sample in sorted(samples.values(), key=lambda item: item[0])], problems


def _class_of(name: str, names: tuple[str, ...]) -> int:
    return 0 if name.casefold() in BACKGROUND_NAMES else names.index(name)


def _painted(figure: Figure, value_of: dict[int, int], crowds_are_objects: bool) -> Figure:
    is_ignored = figure.is_crowd and not crowds_are_objects
    return figure._replace(value=IGNORED if is_ignored else value_of[figure.value])


def _crowds(path: Path, document: Document) -> Iterator[Problem]:
    """Say how much is ignored for being marked as a crowd; an error where a class has nothing else."""
    if not document.crowds:
        return
    counted = {document.categories[id_]: (n, document.objects[id_]) for id_, n in document.crowds.items()}
    shown = first_few((f"{n} of {of} of {show(name)}" for name, (n, of) in counted.items()), what="more classes")
    message = f"objects marked as crowds (iscrowd: 1), which are ignored where no other object lies: {shown}"
    objects = "where a tool marks every brush mask so, read them as objects: --crowds objects"
    if hidden := [name for name, (n, of) in counted.items() if n == of]:
        message = f"{message}; {list_names(hidden)} is left with nothing"
        yield Problem("error", "crowds-only", path, message, f"{objects}; or label single objects")
    else:
        severity: Severity = "warning" if any(2 * n > of for n, of in counted.values()) else "note"
        yield Problem(severity, "crowds", path, message, f"nothing to do if they are crowds; {objects}")


def _image_finder(root: Path, document: Path, split: str, content: Document) -> Finder:
    """Find the folder that has the first photo."""
    match = DOCUMENT.fullmatch(document.name)
    names = dict.fromkeys([match["split"], split_of_year(match["split"])] if match else []) | {split: None}
    bases = (root, document.parent.parent)
    tried = [document.parent] if match is None else []
    tried += [base / place / name for base in bases for place in ("", "images") for name in names]
    tried += [base / place for base in bases for place in ("images", "data", "")]
    first = [image.name for image in content.images[:5]]
    folder = next((folder for folder in tried if any(FileTree(folder).find(name) for name in first)), None)
    if folder is None:
        tree = FileTree(root)
        below = (tree.folder_with(name) for name in first if not leads_elsewhere(name))
        folder = next((folder for folder in below if folder is not None), tried[0])
    shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
    return FileTree(folder).find, f"{shown_path(shown)}/"


@lru_cache(maxsize=4)
def _document(path: Path, *version: int) -> Document:
    return parse_document(path)


@lru_cache(maxsize=16)
def _categories(path: Path, *version: int) -> dict[int, str]:
    """Read the categories alone, where that is certain to give what the whole document would."""
    found = parse_categories(path)
    return _document(path, *version).categories if found is None else found
