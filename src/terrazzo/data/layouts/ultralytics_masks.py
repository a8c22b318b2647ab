"""Ultralytics' semantic masks: a ``data.yaml`` with ``masks_dir``, photos in ``images/``, index masks in ``masks/``.

``masks_dir`` takes the place of ``images`` in a photo's path, and the mask has the photo's name. A stored value is the
place of its class in ``names``, without a background of its own, and 255 is ignored.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import leads_elsewhere
from terrazzo.data.layout import Layout, Pairs
from terrazzo.data.name_affixes import same_name
from terrazzo.data.pairing import Listings, pair
from terrazzo.data.problems import Problem, class_names_of, file_error
from terrazzo.data.yolo_document import DataYaml, class_names, read_data_yaml
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Ultralytics semantic masks"
SHAPE = "data.yaml with masks_dir, images/train, masks/train"
MOST_CLASSES = 255


def find(root: Path) -> Layout | None:
    """Recognise it by ``masks_dir`` in ``data.yaml``."""
    document = read_data_yaml(root, NAME)
    if not isinstance(document, DataYaml) or document.masks_dir is None:
        return None  # YOLO's own file says what is wrong with the document
    labels = partial(_labels, document.file, document.names)
    return Layout(NAME, root, document.file, document.splits, partial(_pairs, document), labels)


def _labels(path: Path, names: Any) -> LabelSpec:
    with class_names_of(path):
        return LabelSpec.from_names(class_names(names, MOST_CLASSES))


def _masks_dir(document: DataYaml) -> str:
    name = document.masks_dir
    if not isinstance(name, str) or not name.strip() or leads_elsewhere(name):
        fix = "write the name that takes the place of `images`, as in `masks_dir: masks`"
        raise file_error(document.file, "`masks_dir` is not the name of a folder in the data set", fix=fix)
    return PurePosixPath(name.strip().replace("\\", "/")).as_posix()


def _pairs(document: DataYaml, split: str) -> Pairs:
    images, problems = document.images(split)
    masks_dir = _masks_dir(document)
    samples: list[Sample] = []
    listings = Listings()
    folders: dict[Path, Path] = {}
    for image in images:
        folder = document.beside(image.parent, masks_dir)
        masks = [] if folder is None else listings(folder).by_stem.get(same_name(image.stem), [])
        found = pair([image], masks)
        folders |= {folder: image.parent} if folder is not None and masks else {}
        if isinstance(found, Sample):
            samples.append(found)
        else:
            problems.append(found)
    for folder, image_folder in folders.items():
        alone = listings(folder).by_stem.keys() - listings(image_folder).by_stem.keys()
        orphans = (pair([], listings(folder).by_stem[stem]) for stem in sorted(alone))
        problems += [problem for problem in orphans if isinstance(problem, Problem)]
    return samples, problems
