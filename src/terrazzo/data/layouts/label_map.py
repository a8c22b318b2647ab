"""Segmentation masks of CVAT and Datumaro: Pascal VOC's folders with a ``labelmap.txt`` of the classes and colours.

``JPEGImages``, ``SegmentationClass`` and one list for each subset in ``ImageSets/Segmentation``, such as the
``default.txt`` of a task or the ``Train.txt`` and ``Validation.txt`` of a project. A line of ``labelmap.txt`` is
``leaf:0,158,115::``. Masks are in these colours, or hold the place of the class in the list.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import by_split
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.layouts.voc import LISTS, list_names_of, usual_or_all, voc_pairs
from terrazzo.data.pairing import list_entries
from terrazzo.data.problems import class_names_of, file_error
from terrazzo.labels.spec import LabelSpec

__all__ = ["LABEL_MAP", "NAME", "SHAPE", "find"]

NAME = "Pascal VOC layout with labelmap.txt"
SHAPE = "labelmap.txt, JPEGImages, SegmentationClass, ImageSets/Segmentation/default.txt"
LABEL_MAP = "labelmap.txt"
XML = "annotations.xml"
MASKS = ("SegmentationClass",)


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``labelmap.txt`` beside ``SegmentationClass``."""
    if not (root / LABEL_MAP).is_file() or not (root / "SegmentationClass").is_dir():
        if not (root / XML).is_file():
            return None
        fix = "export as `Segmentation mask 1.1` or `COCO 1.0`, with `Save images`"
        return NearMiss("an export of CVAT", f"{XML} is CVAT's own format, which is not read here", fix)
    lists = by_split(list_names_of(root / LISTS))
    if not lists or not (root / "JPEGImages").is_dir():
        missing = f"{LISTS}/default.txt" if (root / "JPEGImages").is_dir() else "JPEGImages"
        fix = "export from CVAT with `Save images`, or put the photos into JPEGImages"
        return NearMiss(NAME, f"it has {LABEL_MAP} and SegmentationClass/, and {missing} is missing", fix)
    splits, others = usual_or_all(tuple(lists)), tuple(lists)
    pairs, labels = partial(_pairs, root, lists), partial(_labels, root)
    return Layout(NAME, root, root / LABEL_MAP, splits, pairs, labels, others=others)


def _pairs(root: Path, lists: dict[str, str], split: str) -> Pairs:
    return voc_pairs(root, LISTS, MASKS, lists[split])


def _labels(root: Path) -> LabelSpec:
    """Read ``name:red,green,blue:parts:actions`` lines; a class's index is its place."""
    path = root / LABEL_MAP
    names: list[str] = []
    colors: list[tuple[int, ...]] = []
    for number, entry in list_entries(path):
        name, _, rest = entry.partition(":")
        color = rest.partition(":")[0].split(",")
        if not all(channel.strip().isdecimal() and len(channel.strip()) <= 3 for channel in color):
            message, fix = f"line {number} is not a name and a colour", "write lines like `leaf:0,158,115::`"
            raise file_error(path, message, fix=fix)
        names.append(name)
        colors.append(tuple(int(channel) for channel in color))
    with class_names_of(path):
        return LabelSpec.from_dict({"names": names, "palette": colors, "colors": colors})
