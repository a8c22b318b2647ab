"""Segments.ai: a release as JSON, and the photos and label bitmaps that its Python package downloads.

The release, such as ``flowers-v1.0.json``, lists the samples and the categories. The bitmap of ``x.jpg`` is
``x_label_ground-truth.png`` in the same folder, usually ``segments/OWNER_flowers/v1.0``; its pixels hold the numbers of
objects, to which the release gives categories. All samples are one split called ``all``. Unlabelled pixels (0) are
ignored; where all categories are kinds of objects (``has_instances``) they are the background. Samples without a label
are left out, with a warning that counts them. Nothing is downloaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import FileTree, base_name, shown_name
from terrazzo.data.folders import files_of
from terrazzo.data.json_files import file_version, mentions, read_json, whole_number
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.problems import Problem, file_error, left_out
from terrazzo.data.segments import Categories, read_categories
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import list_names, show

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Segments.ai release"
SHAPE = "release.json, segments/OWNER_NAME/RELEASE/x_label_ground-truth.png"
DOWNLOAD_AGAIN = "download the release again from Segments.ai"
BITMAPS = ("segmentation-bitmap", "segmentation-bitmap-highres")
LABEL_SETS = ("ground-truth",)  # the usual one; else the only one there is


@dataclass(frozen=True)
class Release:
    """A parsed release.

    Attributes:
        categories: of the data set.
        label_set: the name of the set of labels that is taken.
        samples: (name, suffix of the photo, category of each object) of those that are labelled.
        unlabelled: names of the others.
    """

    categories: Categories
    label_set: str
    samples: tuple[tuple[str, str, dict[int, int]], ...]
    unlabelled: tuple[str, ...]


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by a JSON file with ``samples``, ``labelsets`` and ``task_type``."""
    found = [path for path in files_of(root, ".json") if mentions(path, "samples", "task_type", "labelsets")]
    if not found:
        return None
    if len(found) > 1:
        fix = "leave one release in the folder"
        return NearMiss(NAME, f"it has {len(found)} releases: {list_names(path.name for path in found)}", fix)
    return Layout(NAME, root, found[0], (ALL,), partial(_pairs, root, found[0]), partial(_labels, found[0]))


def _labels(document: Path) -> LabelSpec:
    return _release(*file_version(document)).categories.labels(document)


@lru_cache(maxsize=4)
def _release(path: Path, *version: int) -> Release:
    content = read_json(path, fix=DOWNLOAD_AGAIN)
    dataset = content.get("dataset") if isinstance(content, dict) else None
    given = dataset if isinstance(dataset, dict) else {}
    samples, task, sets = given.get("samples"), given.get("task_type"), given.get("labelsets")
    if not isinstance(samples, list):
        raise _damaged(path, "it has no list of samples")
    if task not in BITMAPS:
        message = f"its labels are of the kind {show(task)}, not segmentation bitmaps"
        fix = "export it with segments.utils.export_dataset as coco-instance or coco-panoptic"
        raise file_error(path, message, fix=fix)
    attributes = given.get("task_attributes")
    categories = read_categories(
        path, attributes.get("categories") if isinstance(attributes, dict) else None, "has_instances"
    )
    names = [item.get("name") if isinstance(item, dict) else None for item in sets] if isinstance(sets, list) else []
    label_set = next((name for name in LABEL_SETS if name in names), names[0] if len(names) == 1 else None)
    if not isinstance(label_set, str):
        raise _damaged(path, f"it has several sets of labels, and none is called {LABEL_SETS[0]}")
    labelled: list[tuple[str, str, dict[int, int]]] = []
    unlabelled: list[str] = []
    for number, sample in enumerate(samples, 1):
        name = sample.get("name") if isinstance(sample, dict) else None
        if not isinstance(name, str) or not name:
            raise _damaged(path, f"sample {number} has no name")
        objects = _objects(path, name, sample, label_set, categories)
        if objects is None:
            unlabelled.append(name)
        else:
            labelled.append((os.path.splitext(name)[0], _suffix(sample, name), objects))
    return Release(categories, label_set, tuple(labelled), tuple(unlabelled))


def _objects(
    path: Path, name: str, sample: dict[str, Any], label_set: str, categories: Categories
) -> dict[int, int] | None:
    """Read the category of each object of a sample; None where it has no label."""
    found: Any = sample
    for key in ("labels", label_set, "attributes"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not found.get("segmentation_bitmap"):
        return None
    annotations = found.get("annotations")
    objects: dict[int, int] = {}
    for annotation in annotations if isinstance(annotations, list) else [None]:
        known = annotation if isinstance(annotation, dict) else {}
        id_, category = whole_number(known.get("id")), whole_number(known.get("category_id"))
        if id_ is None or category is None or id_ in objects or category not in categories.names:
            raise _damaged(path, f"{shown_name(name)} has an object without a number of its own, or a category")
        objects[id_] = category
    return objects


def _suffix(sample: dict[str, Any], name: str) -> str:
    """The ending of a downloaded photo, which is that of its address."""
    attributes = sample.get("attributes")
    image = attributes.get("image") if isinstance(attributes, dict) else None
    url = image.get("url") if isinstance(image, dict) else None
    try:
        place = urlparse(url).path if isinstance(url, str) else name
    except ValueError:
        place = name
    return os.path.splitext(base_name(place))[1]


def _damaged(path: Path, message: str) -> DatasetError:
    return file_error(path, message, fix=DOWNLOAD_AGAIN)


def _pairs(root: Path, document: Path, _: str) -> Pairs:
    release = _release(*file_version(document))
    tree = FileTree(root)
    bitmaps = [f"{name}_label_{release.label_set}.png" for name, _, _ in release.samples]
    places = (tree.folder_with(name) for name in bitmaps[:5])
    folder = next((place for place in places if place is not None), root)
    samples: dict[Path, Sample] = {}
    problems = [release.categories.note(document)]
    for (name, suffix, objects), png_name in zip(release.samples, bitmaps, strict=True):
        image = tree.find(name + suffix, folder) or tree.find_image(name, folder)
        png = tree.find(png_name, folder)
        if image is None or png is None:
            missing, code = (name + suffix, "photo-missing") if image is None else (png_name, "mask-missing")
            message = f"lists {shown_name(missing)}, which is not there"
            fix = "download photos and bitmaps with segments.SegmentsDataset, or take it out of the release"
            problems.append(Problem("error", code, document, message, fix))
        elif image in samples:
            message = f"lists {shown_name(name)} twice"
            problems.append(Problem("error", "name-shared", document, message, "give samples different names"))
        else:
            samples[image] = Sample(ImageFile(image), release.categories.mask(png, objects))
    what = f"samples have no label in {release.label_set}, and are left out"
    problems += left_out(document, what, release.unlabelled, fix="label them in Segments.ai")
    return [samples[image] for image in sorted(samples)], problems
