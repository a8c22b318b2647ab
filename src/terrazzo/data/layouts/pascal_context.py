"""Pascal Context: 59 classes, or 60 with the background (Mottaghi et al. 2014), on the photos of VOC 2010.

``JPEGImages``, ``SegmentationClassContext`` and ``ImageSets/SegmentationContext/{train,val}.txt``, which the converter
of mmsegmentation writes. Both class lists read the same masks: in the 60 of SETR's paper a stored 0 is the class
background; with ``pascal_context_59`` it is ignored and a stored k is class k - 1. The 60 are what is taken unless that
list is asked for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.layout import Layout, NearMiss
from terrazzo.data.layouts.voc import list_names_of, usual_or_all, voc_pairs
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Pascal Context"
SHAPE = "JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext"
LISTS = "ImageSets/SegmentationContext"
MASKS = ("SegmentationClassContext",)


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``SegmentationClassContext`` and its lists."""
    if not (root / MASKS[0]).is_dir():
        if (root / "trainval_merged.json").is_file():
            fix = "convert the annotations to masks first, as mmsegmentation's tools/dataset_converters do"
            return NearMiss(NAME, "it has trainval_merged.json, and SegmentationClassContext is missing", fix)
        return None
    lists = list_names_of(root / LISTS)
    if not lists or not (root / "JPEGImages").is_dir():
        missing = f"{LISTS}/train.txt" if (root / "JPEGImages").is_dir() else "JPEGImages"
        fix = f"give the folder that holds JPEGImages, {MASKS[0]} and {LISTS}, such as VOCdevkit/VOC2010"
        return NearMiss(NAME, f"it has {MASKS[0]}/, and {missing} is missing", fix)
    pairs, labels = partial(voc_pairs, root, LISTS, MASKS), partial(LabelSpec.bundled, "pascal_context")
    return Layout(NAME, root, root / MASKS[0], usual_or_all(lists), pairs, labels, others=lists)
