"""Pascal VOC: 21 classes with the background (Everingham et al. 2012), and other data laid out like it.

``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation/{train,val,trainval}.txt``. Masks are palette images,
255 is the border around objects. Of the augmented set, ``trainaug.txt`` lists photos whose masks are in
``SegmentationClassAug``. Masks that were saved in VOC's colours are read too.

Tools export other data in this form: a ``labelmap.txt`` with lines like ``leaf:0,158,115::`` then gives classes and
colours, and photos that are not named like VOC's have whatever classes ``labels.yaml`` or the masks say.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from terrazzo.data.layout import USUAL_SPLITS, Layout, NearMiss, Pairs, no_such_split
from terrazzo.data.pairing import list_entries, listed_pairs
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels import LabelSpec
from terrazzo.text import shown_path

__all__ = ["NAME", "SHAPE", "find", "list_files", "voc_pairs"]

NAME = "Pascal VOC"
SHAPE = "JPEGImages, SegmentationClass, ImageSets/Segmentation"
LISTS = "ImageSets/Segmentation"
MASKS = ("SegmentationClass", "SegmentationClassAug")
LABEL_MAP = "labelmap.txt"
BORDER = (224, 224, 192)  # the colour of 255 in VOC's palette
VOC_NAME = re.compile(r"([0-9]{4}_)?[0-9]{6}")  # 2007_000032, or 000032 in VOC 2007


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``SegmentationClass`` and its lists."""
    if not (root / "SegmentationClass").is_dir():
        return None
    splits = list_files(root / LISTS)
    if not splits or not (root / "JPEGImages").is_dir():
        missing = f"{LISTS}/train.txt" if (root / "JPEGImages").is_dir() else "JPEGImages"
        fix = f"give the folder that holds JPEGImages, SegmentationClass and {LISTS}, such as VOCdevkit/VOC2012"
        return NearMiss(NAME, f"it has SegmentationClass/, and {missing} is missing", fix)
    pairs = partial(voc_pairs, NAME, root, LISTS, MASKS)
    marker = root / "SegmentationClass"
    if (root / LABEL_MAP).is_file():
        return Layout(f"{NAME} layout with {LABEL_MAP}", root, marker, splits, pairs, partial(_label_map, root))
    entries = islice(list_entries(root / LISTS / f"{splits[0]}.txt"), 1)
    if all(VOC_NAME.fullmatch(entry) for _, entry in entries):
        return Layout(NAME, root, marker, splits, pairs, _labels)
    return Layout(f"{NAME} layout with other photos", root, marker, splits, pairs)


def list_files(folder: Path) -> tuple[str, ...]:
    """Name the lists of a folder: train and val where they are there, else all of them.

    VOC's trainval and trainaug repeat photos of others, and can be asked for by name.
    """
    there = sorted(path.stem for path in folder.glob("*.txt"))
    return tuple(split for split in USUAL_SPLITS if split in there) or tuple(there)


def voc_pairs(name: str, root: Path, lists: str, masks: tuple[str, ...], split: str) -> Pairs:
    """Pair the photos of a list, which Pascal Context has too.

    Raises:
        DatasetError: there is no such list.
    """
    text_file = root / lists / f"{split}.txt"
    if not os.path.isfile(text_file):
        raise no_such_split(name, root, split, sorted(path.stem for path in (root / lists).glob("*.txt")))
    samples, problems = listed_pairs(text_file, root, "JPEGImages", masks)
    if not samples and not problems:
        message, fix = "this split holds no photos", "name one photo a line"
        problems.append(Problem("error", "dataset-empty", text_file, message, fix))
    return samples, problems


def _labels() -> LabelSpec:
    spec = LabelSpec.bundled("voc")
    colors = [(color, index) for index, color in enumerate(spec.palette)]
    return replace(spec, colors=(*colors, (BORDER, "ignore")))


def _label_map(root: Path) -> LabelSpec:
    """Read ``name:red,green,blue:parts:actions`` lines; a class's index is its place."""
    path = root / LABEL_MAP
    names: list[str] = []
    colors: list[tuple[int, ...]] = []
    for number, entry in list_entries(path):
        name, _, rest = entry.partition(":")
        color = rest.partition(":")[0].split(",")
        if not all(channel.strip().isdecimal() for channel in color):
            raise DatasetError(
                f"{shown_path(path)}: line {number} is not a name and a colour",
                fix="write lines like `leaf:0,158,115::`",
                code="dataset-annotations",
            )
        names.append(name)
        colors.append(tuple(int(channel) for channel in color))
    try:
        return LabelSpec.from_dict({"names": names, "palette": colors, "colors": colors})
    except LabelError as error:
        raise DatasetError(f"{shown_path(path)}: {error.message}", fix=error.fix, code="dataset-annotations") from error
