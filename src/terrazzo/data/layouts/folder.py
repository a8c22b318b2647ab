"""A folder data set split by folders: ``ROOT/{train,val,test}/{images,masks}``, with an optional ``ROOT/labels.yaml``.

A photo and its mask have the same name but for the ending, or but for what all masks have more, such as ``_mask``. Any
subfolder with photos and masks in it is a split; ``valid`` is val. ``labels``, ``annotations`` and other usual names
will do for ``masks`` where they hold images, and ``img`` and others for ``images``.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from terrazzo.data.layout import USUAL_SPLITS, Layout, NearMiss, Pairs, no_such_split, split_of, splits_in_order
from terrazzo.data.pairing import Listing, folder_entries, pair_folders
from terrazzo.data.problems import Problem
from terrazzo.imaging.find_images import IMAGE_SUFFIXES

__all__ = ["IMAGE_FOLDERS", "MASK_FOLDERS", "NAME", "SHAPE", "find", "folder_pairs", "holds_images", "pair_of_folders"]

NAME = "a folder of photos and masks"
SHAPE = "train/images, train/masks, val/images, val/masks"
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "photo", "inputs", "input", "rgb")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "ground_truth", "groundtruth",
    "gt", "segmentations", "segmentation", "targets", "target",
)  # fmt: skip


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by at least one subfolder with photos and masks in it."""
    folders = sorted(Path(entry.path) for entry in folder_entries(root) if entry.is_dir())
    found: dict[str, tuple[Path, Path]] = {}
    for folder in sorted(folders, key=lambda folder: folder.name != split_of(folder.name)):  # val before valid
        pair = pair_of_folders(folder)
        if pair is not None:
            split = split_of(folder.name)
            found[folder.name if split in found else split] = pair
    if not found:
        halves = [
            folder for folder in folders if split_of(folder.name) in USUAL_SPLITS and (folder / "images").is_dir()
        ]
        if not halves:
            return None
        half = halves[0].name
        if (halves[0] / "labels").is_dir():
            fix = "put masks there as PNG; for polygons in text files, as of YOLO, write data.yaml"
            return NearMiss(NAME, f"{half}/labels/ holds no images", fix)
        fix = f"put the masks into {half}/masks, each with the name of its photo"
        return NearMiss(NAME, f"{half}/ has images/ and no masks/", fix)
    splits = splits_in_order(found)
    ordered = {split: found[split] for split in splits}
    return Layout(f"{NAME}, split by folders", root, found[splits[0]][1], splits, partial(folder_pairs, root, ordered))


def pair_of_folders(folder: Path) -> tuple[Path, Path] | None:
    """Find the photos' folder and the masks' folder in a folder."""
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return folder / "images", folder / "masks"
    try:
        there = {entry.name.casefold(): Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()}
    except OSError:  # said by those who list it
        return None
    images = next((there[name] for name in IMAGE_FOLDERS if name in there), None)
    masks = next((there[name] for name in MASK_FOLDERS if name in there and holds_images(there[name])), None)
    return None if images is None or masks is None or not holds_images(images) else (images, masks)


def holds_images(folder: Path) -> bool:
    """Whether a file of a folder is an image by its name."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir() for entry in entries)
    except OSError:
        return False


def folder_pairs(root: Path, folders: dict[str, tuple[Path, Path]], split: str) -> Pairs:
    """Pair the photos of a split's first folder with the masks of its second."""
    if (split := split if split in folders else split_of(split)) not in folders:
        raise no_such_split(NAME, root, split, tuple(folders))
    images, masks = map(Listing.of, folders[split])
    samples, problems = pair_folders(images, masks)
    left_out = [problem for problem in images.others + masks.others if problem.severity == "warning"]
    if not samples and not any(problem.severity == "error" for problem in problems):
        below = any(problem.file is not None and problem.file.is_dir() for problem in left_out)
        i, m = images.folder.name, masks.folder.name
        fix = (
            f"put photos and masks directly into {i}/ and {m}/, not into folders below"
            if below
            else f"put photos into {i}/ and masks into {m}/"
        )
        problems.append(Problem("error", "dataset-empty", images.folder.parent, "this split holds no photos", fix))
    return samples, left_out + problems
