"""What labelme2voc writes: Pascal VOC's folders without lists, and the classes in ``class_names.txt``.

``JPEGImages``, and index masks in ``SegmentationClass`` or, from older versions, ``SegmentationClassPNG``. A line of
``class_names.txt`` is a class, by index, ``_background_`` first. 255 is labelme's ``__ignore__``. Where there are no
lists in ``ImageSets/Segmentation``, all photos are one split called ``all``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import holds_images
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.layouts.voc import LISTS, list_names_of, usual_or_all, voc_pairs
from terrazzo.data.pairing import Listing, list_entries, pair_folders
from terrazzo.data.problems import class_names_of
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec

__all__ = ["CLASS_NAMES", "NAME", "SHAPE", "find"]

NAME = "masks of labelme2voc"
SHAPE = "class_names.txt, JPEGImages, SegmentationClass"
CLASS_NAMES = "class_names.txt"
MASKS = ("SegmentationClassPNG", "SegmentationClass")


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``class_names.txt`` beside a folder of masks."""
    there = tuple(name for name in MASKS if (root / name).is_dir())
    if not (root / CLASS_NAMES).is_file() or not there:
        return None
    masks = next((name for name in there if holds_images(root / name)), None)
    if masks is None or not (root / "JPEGImages").is_dir():
        missing = "JPEGImages" if masks else f"a PNG in {there[0]}/"
        return NearMiss(NAME, f"it has {CLASS_NAMES}, and {missing} is missing", "run labelme2voc.py again")
    lists = list_names_of(root / LISTS)
    pairs = partial(voc_pairs, root, LISTS, (masks,)) if lists else partial(_all_pairs, root, masks)
    splits, labels = usual_or_all(lists) or (ALL,), partial(_labels, root)
    return Layout(NAME, root, root / CLASS_NAMES, splits, pairs, labels, others=lists)


def _all_pairs(root: Path, masks: str, _: str) -> Pairs:
    return pair_folders(Listing.of(root / "JPEGImages"), Listing.of(root / masks))


def _labels(root: Path) -> LabelSpec:
    path = root / CLASS_NAMES
    entries = [entry for _, entry in list_entries(path) if entry != "__ignore__"]
    names = ["background" if entry.casefold() in BACKGROUND_NAMES else entry for entry in entries]
    with class_names_of(path):
        return LabelSpec.from_names(names)
