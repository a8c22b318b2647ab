"""Metadata in other programs' checkpoints: class names, mask values, palettes and preprocessing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terrazzo import config
from terrazzo.errors import CheckpointError, LabelError
from terrazzo.labels.spec import LabelSpec
from terrazzo.labels.validation import MAX_STORED, Target
from terrazzo.preprocess import Preprocess
from terrazzo.text import printable, shown_path
from terrazzo.weights.noted_classes import CLASS_NAMES, choose_names

__all__ = [
    "ONE_LABEL",
    "labels_from_meta",
    "labels_from_names",
    "names_are_guessed",
    "paper_preprocess",
    "read_json",
    "reduces_labels",
    "stored_values",
    "with_background",
]

if TYPE_CHECKING:  # which would import torch
    from terrazzo.models.spec import ModelSpec

LISTS = ("ade20k", "cityscapes", "coco_stuff", "pascal_context", "pascal_context_59", "voc", "camvid")
GUESSED = "taken to be"
ONE_LABEL = "one label"
"""Where the record says that the classifier had one row, so that it can be written so again."""
PAPERS_DATA = {150: "ade20k", 19: "cityscapes", 171: "coco_stuff", 60: "pascal_context", 59: "pascal_context_59"}
"""The two papers' data sets by their number of classes, for checkpoints of the papers' code that name no classes."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of moderate size.

    Raises:
        CheckpointError: the file cannot be read, is too large, or is something else.
    """
    document = config.read_json(path, error=CheckpointError)
    if not isinstance(document, dict):
        raise CheckpointError(f"{shown_path(path)} does not hold a JSON object", fix="copy the folder again")
    return document


# -- labels -----------------------------------------------------------------------------------------------------------


def labels_from_names(
    names: object,
    num_classes: int,
    where: str,
    palette: object = None,
    *,
    stored: Mapping[int, Target] | None = None,
    says_stored: bool = False,
) -> LabelSpec:
    """Return the labels that a file's names stand for.

    Names equal to those of a bundled class list bring its palette and the meaning of its masks with them. Names that
    occur twice get a number.

    Args:
        names: a list, a mapping from index to name, or None, for which the classes are numbered.
        num_classes: K of the network.
        where: the file, for messages.
        palette: the file's own colours, or None.
        stored: what the values mean that masks store, as `stored_values` tells it.
        says_stored: the file says so, so that it holds although a bundled class list has it otherwise.

    Raises:
        CheckpointError: they are not K names, or cannot be names.
    """
    if isinstance(names, Mapping):
        by_index = {str(key): name for key, name in names.items()}
        listed: Any = [by_index.get(str(k)) for k in range(len(by_index))]
    else:
        listed = [f"class {k}" for k in range(num_classes)] if names is None else names
    if isinstance(listed, str) or not isinstance(listed, Sequence) or len(listed) != num_classes:
        count = len(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else "no"
        raise CheckpointError(
            f"{where} names {count} classes, and its network tells {num_classes} apart",
            fix="correct the class names to be as many as the classifier has rows",
            code="checkpoint-labels",
        )
    for known in map(LabelSpec.bundled, LISTS):
        if known.num_classes == num_classes and _same_classes(listed, known):
            return replace(known, id_map=None if stored is None else tuple(stored.items())) if says_stored else known
    try:
        return LabelSpec.from_names(_told_apart(listed), palette, id_map=stored)  # type: ignore[arg-type]
    except LabelError as error:
        raise CheckpointError(f"{where}: {error.message}", fix=error.fix, code="checkpoint-labels") from error


def with_background(names: object) -> list[str]:
    """Return the names of two classes for a classifier of one label: the rest, and that label."""
    named = list(names.values()) if isinstance(names, Mapping) else names
    label = str(named[0]).strip() if isinstance(named, (list, tuple)) and named else ""
    return ["background", label if label and label.casefold() != "background" else "object"]


def labels_from_meta(
    meta: Mapping[str, Any], num_classes: int, where: str, one_label: bool = False
) -> tuple[LabelSpec, str]:
    """Return the labels that mmsegmentation and its descendants note in a checkpoint, and where they come from.

    Args:
        meta: what is noted.
        num_classes: K of the network.
        where: the file, for messages.
        one_label: the classifier tells one label from the rest.

    Raises:
        CheckpointError: as `labels_from_names`.
    """
    noted = meta["dataset_meta"] if isinstance(meta.get("dataset_meta"), Mapping) else meta
    names = noted.get("CLASSES", noted.get("classes"))
    names = None if isinstance(names, int) else names  # their number alone
    palette = noted.get("PALETTE", noted.get("palette"))
    reduced, label_map = noted.get("reduce_zero_label"), noted.get("label_map")
    config = meta.get("config", meta.get("cfg"))  # the program text of the run; version 0 says it there alone
    if reduced is None and isinstance(config, str) and re.search(r"reduce_zero_label['\"]?\s*[=:]\s*[Tt]rue", config):
        reduced = True
    says_stored = isinstance(reduced, bool) or isinstance(label_map, Mapping)
    stored = stored_values(num_classes, where, reduced=bool(reduced), label_map=label_map)
    source = "the file's own"
    for count in {1 if one_label else num_classes, num_classes}:
        if names is None:
            names, way = choose_names(meta.get(CLASS_NAMES), count)
            source = source if names is None else f"{source}, {printable(way)}"
    if one_label and (names is None or (isinstance(names, (list, Mapping)) and len(names) == 1)):
        names = with_background(names)
    if names is not None:
        spec = labels_from_names(names, num_classes, where, palette, stored=stored, says_stored=says_stored)
        return spec, source
    if num_classes in PAPERS_DATA:
        name = PAPERS_DATA[num_classes]
        return LabelSpec.bundled(name), f"{GUESSED} {name}, for there are {num_classes} and the file names none"
    return labels_from_names(None, num_classes, where, stored=stored), "numbered, for the file names none"


def stored_values(
    num_classes: int, where: str, *, reduced: bool = False, label_map: object = None, ignore: object = 255
) -> dict[int, Target] | None:
    """Return what the values of masks mean, as the training programs of others read them.

    Args:
        num_classes: K.
        where: the file, for messages.
        reduced: one is taken off each value first, and 0 is ignored (``reduce_zero_label``, ``do_reduce_labels``).
        label_map: mmsegmentation's: a value so far to what then takes its place.
        ignore: the value, at the end, that the loss passes over; anything but a mask's value passes over nothing.

    Returns:
        Class indices and "ignore" by stored value; None where masks store class indices and our own ignore value.

    Raises:
        CheckpointError: the map is not one of numbers.
    """
    try:
        replaced = {int(old): int(new) for old, new in label_map.items()} if isinstance(label_map, Mapping) else {}
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{where} has a label_map that does not map numbers to numbers",
            fix="correct dataset_meta in the checkpoint",
            code="checkpoint-labels",
        ) from error
    ignore = ignore if isinstance(ignore, int) else None
    ignored = {ignore, -1, 255} if replaced else {ignore}  # mmsegmentation writes -1 or 255 for classes left out
    meaning: dict[int, Target] = {}
    for stored in range(256 if num_classes <= 255 else MAX_STORED + 1):
        value = stored
        if reduced:
            value = 255 if stored in (0, 255) else stored - 1
        value = replaced.get(value, value)
        if value in ignored:
            meaning[stored] = "ignore"
        elif 0 <= value < num_classes:
            meaning[stored] = value
    own = {k: k for k in range(num_classes)} | {255 if num_classes <= 255 else MAX_STORED: "ignore"}
    return None if meaning == own or (num_classes > 255 and not reduced and not replaced and ignore == 255) else meaning


def names_are_guessed(record: Mapping[str, Any]) -> bool:
    """Whether a model's record says that its class names were guessed from their number."""
    return str(record.get("labels from", "")).startswith(GUESSED)


def reduces_labels(labels: LabelSpec) -> bool:
    """Whether masks store 0 for what is ignored, and index + 1 for a class."""
    stored = dict(labels.id_map or ())
    return stored.get(0) == "ignore" and all(stored.get(k + 1) == k for k in range(labels.num_classes))


def _same_classes(names: Sequence[object], known: LabelSpec) -> bool:
    """Whether these are a bundled list's classes.

    Code of 2021 names Pascal Context's classes in another order than its masks and palette count them, those of VOC
    first; the bundled list has the right one.
    """
    if not all(isinstance(name, str) for name in names):
        return False
    given, own = ([str(name).strip().casefold() for name in some] for some in (names, known.names))
    if known.num_classes not in (59, 60) or given == own:
        return given == own
    voc = ["table" if name == "diningtable" else name for name in LabelSpec.bundled("voc").names]
    first = voc[60 - known.num_classes :]  # only the 60 have a background
    return given[: len(first)] == first and sorted(given) == sorted(own)


def _told_apart(names: Sequence[object]) -> list[object]:
    seen: dict[object, int] = {}
    apart: list[object] = []
    for name in names:
        stripped = name.strip() if isinstance(name, str) else name
        if isinstance(stripped, str):
            seen[stripped] = seen.get(stripped, 0) + 1
            stripped = stripped if seen[stripped] == 1 else f"{stripped} ({seen[stripped]})"
        apart.append(stripped)
    return apart


# -- preprocessing ----------------------------------------------------------------------------------------------------


def paper_preprocess(spec: ModelSpec, labels: LabelSpec) -> Preprocess:
    """Return how the papers' code prepares a photo of a data set for one of their networks.

    SegFormer: ADE20K is brought to a short side of 512 (B5: 640) and both sides rounded up to multiples of 32, all
    else keeps its size. SETR: every data set has a box of its own.
    """
    known = next((name for name in LISTS if LabelSpec.bundled(name).names == labels.names), None)
    if spec.encoder.name == "mit":
        short_side = 640 if spec.name == "segformer_b5" else 512
        return Preprocess(short_side, 2048, 32) if known == "ade20k" else Preprocess()
    boxes = {
        "ade20k": (512, 2048),
        "cityscapes": (1025, 2049),
        "pascal_context": (520, 520),
        "pascal_context_59": (520, 520),
    }
    return Preprocess(*boxes[known]) if known in boxes else Preprocess()
