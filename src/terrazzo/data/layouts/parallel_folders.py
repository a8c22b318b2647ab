"""Photos in one folder, masks in another, both with the same splits below, as mmsegmentation has custom data.

``img_dir/{train,val}`` and ``ann_dir/{train,val}``; or ``images`` with ``annotations``, ``masks`` or ``labels``. The
classes are those of ``labels.yaml``, or guessed from the masks. Lists of photos beside the folders come first. The data
sets that are published in such folders, ADE20K and COCO-Stuff, are told by their names and have files of their own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import holds_images, shows_names, split_folders
from terrazzo.data.layout import Layout, NearMiss
from terrazzo.data.layouts import listed
from terrazzo.data.layouts.folder import folder_pairs
from terrazzo.data.yolo_document import names_masks

__all__ = ["NAME", "SHAPE", "find"]

NAME = "photos and masks in two folders that are split alike"
SHAPE = "img_dir/train, ann_dir/train; or images/train with annotations/train or masks/train"
FOLDERS = {"img_dir": ("ann_dir",), "images": ("ann_dir", "annotations", "masks", "labels"), "imgs": ("masks",)}


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by two folders with the same splits, both with image files in them."""
    if names_masks(root) or isinstance(listed.find(root), Layout):
        return None
    for images, kinds in FOLDERS.items():
        found = {split: folder for split, folder in split_folders(root / images).items() if holds_images(folder)}
        if not found or any(shows_names(folder, ("ADE_",)) for folder in found.values()):
            continue
        for masks in kinds:
            below = split_folders(root / masks)
            there = {split: (folder, below[split]) for split, folder in found.items() if split in below}
            there = {split: pair for split, pair in there.items() if holds_images(pair[1])}
            if there:
                name = f"{NAME} ({images}/ and {masks}/)"
                return Layout(name, root, root / masks, tuple(there), partial(folder_pairs, there))
    if (root / "img_dir").is_dir() or (root / "ann_dir").is_dir():
        missing = next((f"{kind}/train" for kind in ("img_dir", "ann_dir") if not (root / kind).is_dir()), "")
        message = f"{missing or 'a split that both img_dir and ann_dir have, with images in it,'} is missing"
        return NearMiss(
            "mmsegmentation folders", message, "make img_dir/train, ann_dir/train, img_dir/val, ann_dir/val"
        )
    return None
