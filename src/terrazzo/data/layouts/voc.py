"""Pascal VOC: 21 classes with the background (Everingham et al. 2012), and other data laid out like it.

``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation/{train,val,trainval}.txt``. Masks are palette images,
255 is the border around objects. Of the augmented set, ``trainaug.txt`` lists photos whose masks are in
``SegmentationClassAug``. Masks that were saved in VOC's colours are read too.

Tools export other data in this form. Where a file of classes lies beside them, they have layouts of their own
(`label_map`, `labelme_voc`); else VOC's classes are taken only where something says that they are meant: photos called
as in VOC 2008 to 2012 (``2007_000032``), or, for the six digits of VOC 2007, annotations whose source is VOC; and no
annotation that names an object of another kind. All others have the classes that ``labels.yaml`` or the masks say.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from terrazzo.data.folders import USUAL_SPLITS, files_of
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.pairing import list_entries, listed_pairs
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find", "list_names_of", "usual_or_all", "voc_pairs"]

NAME = "Pascal VOC"
SHAPE = "JPEGImages, SegmentationClass, ImageSets/Segmentation"
LISTS = "ImageSets/Segmentation"
MASKS = ("SegmentationClass", "SegmentationClassAug")
CLASS_FILES = ("labelmap.txt", "class_names.txt")  # of CVAT and labelme, which have layouts of their own
BORDER = (224, 224, 192)  # the colour of 255 in VOC's palette
VOC_NAME = re.compile(r"20(07|08|09|10|11|12)_[0-9]{6}")
VOC_2007_NAME = re.compile(r"[0-9]{6}")
SIGNED = re.compile(rb"<annotation>PASCAL VOC20[0-9]{2}</annotation>")  # the source that VOC's own annotations give
LOOKED_AT = 5  # listed photos, to tell whether they are VOC's
MOST_BYTES = 1 << 20  # of one photo's annotations


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``SegmentationClass`` and its lists."""
    if not (root / "SegmentationClass").is_dir() or any((root / name).is_file() for name in CLASS_FILES):
        return None
    lists = list_names_of(root / LISTS)
    if not lists or not (root / "JPEGImages").is_dir():
        missing = f"{LISTS}/train.txt" if (root / "JPEGImages").is_dir() else "JPEGImages"
        fix = f"give the folder that holds JPEGImages, SegmentationClass and {LISTS}, such as VOCdevkit/VOC2012"
        return NearMiss(NAME, f"it has SegmentationClass/, and {missing} is missing", fix)
    pairs, splits = partial(voc_pairs, root, LISTS, MASKS), usual_or_all(lists)
    marker = root / "SegmentationClass"
    names = [entry for _, entry in islice(list_entries(root / LISTS / f"{splits[0]}.txt"), LOOKED_AT)]
    if _are_vocs(root, names):
        return Layout(NAME, root, marker, splits, pairs, _labels, others=lists)
    return Layout(f"{NAME} layout with other photos", root, marker, splits, pairs, others=lists)


def _are_vocs(root: Path, names: list[str]) -> bool:
    """Whether listed photos are VOC's own, by their names and by what their annotations say."""
    if not all(VOC_NAME.fullmatch(name) or VOC_2007_NAME.fullmatch(name) for name in names):
        return False
    texts = [_annotations(root / "Annotations" / f"{name}.xml") for name in names]
    objects = {name.strip() for text in texts for name in re.findall(rb"<object>\s*<name>([^<]*)</name>", text)}
    if not objects <= {name.encode() for name in LabelSpec.bundled("voc").names}:
        return False
    return all(VOC_NAME.fullmatch(name) or SIGNED.search(text) for name, text in zip(names, texts, strict=True))


def _annotations(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return b""


def list_names_of(folder: Path) -> tuple[str, ...]:
    """Name the lists of a folder."""
    return tuple(path.stem for path in files_of(folder, ".txt") if path.suffix == ".txt")


def usual_or_all(lists: tuple[str, ...]) -> tuple[str, ...]:
    """Choose train and val where they are there: VOC's trainval and trainaug repeat photos of others."""
    return tuple(split for split in USUAL_SPLITS if split in lists) or lists


def voc_pairs(root: Path, lists: str, masks: tuple[str, ...], split: str) -> Pairs:
    """Pair the photos of a list, which Pascal Context has too."""
    return listed_pairs(root / lists / f"{split}.txt", root, "JPEGImages", masks)


def _labels() -> LabelSpec:
    spec = LabelSpec.bundled("voc")
    colors = [(color, index) for index, color in enumerate(spec.palette)]
    return replace(spec, colors=(*colors, (BORDER, "ignore")))
