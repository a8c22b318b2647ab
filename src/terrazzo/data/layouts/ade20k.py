"""ADE20K as in the Scene Parsing challenge: 150 classes (Zhou et al. 2017).

``ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_train_00000001.{jpg,png}``. A stored 0 is
"unlabelled" and a stored k is class k - 1: the bundled list ``ade20k`` says so value by value.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import shows_names
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.pairing import Listing, pair_folders
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find"]

NAME = "ADE20K"
SHAPE = "images/training, annotations/training"
FOLDERS = {"train": "training", "val": "validation"}


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by its folders and by photos called ADE_..."""
    images, masks = root / "images", root / "annotations"
    there = [split for split, folder in FOLDERS.items() if (images / folder).is_dir()]
    if not there:
        return None
    splits = tuple(split for split in there if (masks / FOLDERS[split]).is_dir())
    if not splits:
        fix = "unpack the whole of ADEChallengeData2016.zip"
        return NearMiss(NAME, f"annotations/{FOLDERS[there[0]]} is missing", fix)
    if not shows_names(images / FOLDERS[splits[0]], ("ADE_",)):
        return None  # somebody else's data, whose masks may well count from 0: see `parallel_folders`
    return Layout(NAME, root, masks, splits, partial(_pairs, root), partial(LabelSpec.bundled, "ade20k"))


def _pairs(root: Path, split: str) -> Pairs:
    return pair_folders(*(Listing.of(root / kind / FOLDERS[split]) for kind in ("images", "annotations")))
