"""Photos in one folder, masks in another, both with the same splits below, as mmsegmentation has custom data.

``img_dir/{train,val}`` and ``ann_dir/{train,val}``; or other usual names, such as ``images`` with ``masks``. The
classes are those of ``labels.yaml``, or guessed from the masks. Lists of photos beside the folders come first. The data
sets that are published in such folders, ADE20K and COCO-Stuff, are told by their names and have files of their own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import holds_images, shows_names, split_folders, subfolders
from terrazzo.data.layout import Layout, NearMiss
from terrazzo.data.layouts import listed
from terrazzo.data.layouts.folder import IMAGE_FOLDERS, MASK_FOLDERS, folder_pairs
from terrazzo.data.yolo_document import names_masks

__all__ = ["NAME", "SHAPE", "find"]

NAME = "photos and masks in two folders that are split alike"
SHAPE = "img_dir/train, ann_dir/train; or images/train with annotations/train or masks/train"
IMAGES, MASKS = ("img_dir", *IMAGE_FOLDERS), ("ann_dir", *MASK_FOLDERS)


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by two folders with the same splits, both with image files in them."""
    if names_masks(root) or isinstance(listed.find(root), Layout):
        return None
    by_name = {folder.name.casefold(): folder for folder in subfolders(root)}
    for images in (by_name[name] for name in IMAGES if name in by_name):
        found = {split: folder for split, folder in split_folders(images).items() if holds_images(folder)}
        if any(shows_names(folder, ("ADE_",)) for folder in found.values()):
            continue
        for masks in (by_name[name] for name in MASKS if name in by_name):
            below = {split: folder for split, folder in split_folders(masks).items() if holds_images(folder)}
            there = {split: (folder, below[split]) for split, folder in found.items() if split in below}
            if there:
                name = f"{NAME} ({images.name}/ and {masks.name}/)"
                return Layout(name, root, masks, tuple(there), partial(folder_pairs, there))
    if (root / "img_dir").is_dir() or (root / "ann_dir").is_dir():
        missing = next((f"{kind}/train" for kind in ("img_dir", "ann_dir") if not (root / kind).is_dir()), "")
        message = f"{missing or 'a split that both img_dir and ann_dir have, with images in it,'} is missing"
        return NearMiss(
            "mmsegmentation folders", message, "make img_dir/train, ann_dir/train, img_dir/val, ann_dir/val"
        )
    return None
