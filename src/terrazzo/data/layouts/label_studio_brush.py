"""Label Studio's brush masks: one PNG for each brushed layer, told apart by the JSON export that lies beside them.

The export "Brush labels to PNG" writes ``task-1-annotation-2-by-3-tag-Leaf-0.png`` and neither photos nor the names of
photos, so the JSON export of the same project has to be there too, and the photos in ``images``, as Label Studio names
them (see `label_studio`). The classes are the background and the labels by name. A pixel belongs to a layer from half
of full strength on; later layers lie over earlier ones. All photos are one split called ``all``. Where a photo has been
annotated more than once the last annotation counts, and tasks without one are left out; both are counted in warnings.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from terrazzo.data.dataset import Sample
from terrazzo.data.file_tree import shown_name
from terrazzo.data.folders import files_of, subfolders, visible_entries
from terrazzo.data.json_files import file_version, mentions, read_json, whole_number
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.layouts.label_studio import UploadedImages
from terrazzo.data.masks import StoredMask, read_stored_mask
from terrazzo.data.outlines import Region, object_labels, stack
from terrazzo.data.problems import Problem, class_names_of, file_error, left_out
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.errors import DatasetError, ImageError
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import list_names, shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Label Studio brush masks"
SHAPE = "task-1-annotation-2-by-3-tag-leaf-0.png, project.json, images"
LAYER = re.compile(r"task-(?P<task>[0-9]+)-annotation-(?P<annotation>[0-9]+)-by-.*\.png")
LOOKED_AT = 50  # names of a folder, to tell whether it holds layers
HALF = 128


class Task(NamedTuple):
    """One task of the JSON export: its photo, and (annotation, ending of the PNG's name, label) of each layer."""

    id_: int
    image: str
    annotations: tuple[int, ...]
    layers: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """The mask of one photo: its layers, painted when they are read."""

    file: Path
    image: Path
    layers: tuple[tuple[int, Path], ...]

    @property
    def part(self) -> str:
        return f"{self.image.name}: "

    def read(self) -> StoredMask:
        """Paint them.

        Raises:
            DatasetError: a PNG cannot be read, or has another size than the photo.
        """
        try:
            height, width = ImageFile(self.image).size
        except ImageError as error:
            raise DatasetError(error.message, fix=error.fix, code="mask-damaged") from error
        regions = [(value, Region(0, 0, self._inside(png, height, width))) for value, png in self.layers]
        return StoredMask(stack(regions, height, width))

    def _inside(self, png: Path, height: int, width: int) -> Any:
        values = read_stored_mask(png).values
        if values.shape != (height, width):
            what = "in colour" if values.ndim == 3 else f"{values.shape[1]} x {values.shape[0]}"
            message = f"it is {what}, and its photo {shown_path(self.image.name)} {width} x {height}"
            raise file_error(png, message, fix="export the masks again from Label Studio", code="mask-size")
        return np.asarray(values >= HALF)


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by the names of the PNGs."""
    folder = next((folder for folder in (root, *subfolders(root)) if _layer_names(folder, LOOKED_AT)), None)
    if folder is None:
        return _without_layers(root)
    documents = [path for path in files_of(root, ".json") if mentions(path, "brushlabels")]
    if len(documents) != 1:
        missing = "the JSON export that names their photos is missing" if not documents else "several JSON exports"
        message = f"it has brush layers (task-...-annotation-...png), and {missing}"
        fix = "export the project as JSON too, put this one file beside the PNGs, and the photos into images/"
        return NearMiss(NAME, message, fix)
    pairs = partial(_pairs, root, folder, documents[0])
    return Layout(NAME, root, documents[0], (ALL,), pairs, partial(_labels, documents[0]))


def _without_layers(root: Path) -> NearMiss | None:
    """Say what to export where there is Label Studio's own JSON and nothing else."""
    kinds = (("brushlabels", "as `Brush labels to PNG` too"), ("polygonlabels", "as COCO, with images, instead"))
    for kind, fix in kinds:
        if any(mentions(path, kind, "from_name") for path in files_of(root, ".json")):
            message = "it has Label Studio's own JSON, which does not say every pixel's class"
            return NearMiss("an export of Label Studio", message, f"export the project {fix}")
    return None


def _layer_names(folder: Path, most: int | None = None) -> list[str]:
    return [entry.name for entry in visible_entries(folder)[:most] if LAYER.fullmatch(entry.name)]


@lru_cache(maxsize=4)
def _tasks(path: Path, *version: int) -> tuple[Task, ...]:
    fix = "export the project again as JSON (not JSON-MIN)"
    document = read_json(path, fix=fix)
    tasks = [_task(item) for item in document] if isinstance(document, list) else [None]
    wrong = next((number for number, task in enumerate(tasks, 1) if task is None), None)
    if wrong is not None:
        raise file_error(path, f"task {wrong} has no number, photo or annotations", fix=fix)
    return tuple(task for task in tasks if task is not None)


def _task(item: Any) -> Task | None:
    given = item if isinstance(item, dict) else {}
    id_, data, annotations = whole_number(given.get("id")), given.get("data"), given.get("annotations")
    if id_ is None or not isinstance(data, dict) or not isinstance(annotations, list):
        return None
    image = next((value for value in (data.get("image"), given.get("file_upload"), *data.values()) if value), None)
    if not isinstance(image, str):
        return None
    numbers: list[int] = []
    layers: list[tuple[int, str, str]] = []
    for annotation in annotations:
        known = annotation if isinstance(annotation, dict) else {}
        number, results = whole_number(known.get("id")), known.get("result")
        if number is None or not isinstance(results, list):
            return None
        if not known.get("was_cancelled"):
            numbers.append(number)
            layers += [(number, *layer) for layer in _layers(results)]
    return Task(id_, image, tuple(numbers), tuple(layers))


def _layers(results: list[Any]) -> list[tuple[str, str]]:
    """The ending of each brushed layer's file name, and its label."""
    found: list[tuple[str, str]] = []
    counted: Counter[str] = Counter()
    for result in results:
        known = result if isinstance(result, dict) else {}
        value = known.get("value")
        labels = value.get("brushlabels") if isinstance(value, dict) else None
        if isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels):
            name = f"{known.get('from_name')}-{'-'.join(labels)}"
            ending = f"{name}-{counted[name]}".replace("/", "-").replace("\\", "-")
            counted[name] += 1
            found.append((f"-{ending}.png", labels[0].strip()))
    return found


def _labels(document: Path) -> LabelSpec:
    with class_names_of(document, "its labels: "):
        return object_labels(sorted({label for task in _tasks(*file_version(document)) for _, _, label in task.layers}))


def _pairs(root: Path, folder: Path, document: Path, _: str) -> Pairs:
    names = _labels(document).names
    images = UploadedImages(root)
    by_annotation: dict[tuple[int, int], list[str]] = {}
    for name in sorted(_layer_names(folder)):
        match = LAYER.fullmatch(name)
        if match is not None:
            by_annotation.setdefault((int(match["task"]), int(match["annotation"])), []).append(name)
    samples: dict[Path, Sample] = {}
    problems: list[Problem] = []
    unlabelled: list[str] = []
    several: list[str] = []
    for task in _tasks(*file_version(document)):
        image = images.find(task.image)
        shown = shown_name(task.image)
        if not task.annotations:
            unlabelled.append(shown)
            continue
        if image is None or image in samples:
            code, what = ("photo-missing", "is not there") if image is None else ("name-shared", "has another task too")
            message = f"the photo of task {task.id_}, {shown}, {what}"
            problems.append(Problem("error", code, document, message, "put each photo into images/ once"))
            continue
        last = max(task.annotations)
        several += [shown] * (len(task.annotations) > 1)
        layers: list[tuple[int, Path]] = []
        for ending, label in (layer[1:] for layer in task.layers if layer[0] == last):
            png = next((name for name in by_annotation.get((task.id_, last), []) if name.endswith(ending)), None)
            if png is None:
                message = f"a PNG of task {task.id_} that ends in {shown_name(ending)} is not there"
                problems.append(Problem("error", "mask-missing", document, message, "export both again"))
            else:
                layers.append((0 if label.casefold() in BACKGROUND_NAMES else names.index(label), folder / png))
        samples[image] = Sample(ImageFile(image), Layers(document, image, tuple(layers)))
    problems += left_out(
        document, "tasks have no annotation, and are left out", unlabelled, fix="label them in Label Studio"
    )
    if several:
        message = f"{len(several)} photos have several annotations, of which the last counts: {list_names(several)}"
        fix = "delete those that are not meant in Label Studio"
        problems.append(Problem("warning", "mask-missing", document, message, fix))
    return [samples[image] for image in sorted(samples)], problems
