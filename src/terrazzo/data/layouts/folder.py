"""A folder data set split by folders: ``ROOT/{train,val,test}/{images,masks}``, with an optional ``ROOT/labels.yaml``.

A photo and its mask have the same name but for the ending, or but for what all masks have more, such as ``_mask``. Any
subfolder with photos and masks in it is a split; ``valid`` is val. ``labels``, ``annotations`` and other usual names
will do for ``masks`` where they hold images, and ``img`` and others for ``images``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import USUAL_SPLITS, by_split, holds_images, split_of, subfolders
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.pairing import Listing, pair_folders
from terrazzo.data.problems import Problem

__all__ = ["IMAGE_FOLDERS", "MASK_FOLDERS", "NAME", "SHAPE", "find", "folder_pairs", "pair_of_folders"]

NAME = "a folder of photos and masks"
SHAPE = "train/images, train/masks, val/images, val/masks"
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "photo", "inputs", "input", "rgb")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "ground_truth", "groundtruth",
    "gt", "segmentations", "segmentation", "targets", "target",
)  # fmt: skip


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by at least one subfolder with photos and masks in it."""
    folders = subfolders(root)
    found = {folder.name: pair for folder in folders if (pair := pair_of_folders(folder)) is not None}
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
    splits = {split: found[name] for split, name in by_split(found).items()}
    marker = next(iter(splits.values()))[1]
    return Layout(f"{NAME}, split by folders", root, marker, tuple(splits), partial(folder_pairs, splits))


def pair_of_folders(folder: Path) -> tuple[Path, Path] | None:
    """Find the photos' folder and the masks' folder in a folder."""
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return folder / "images", folder / "masks"
    there = {path.name.casefold(): path for path in subfolders(folder)}
    images = next((there[name] for name in IMAGE_FOLDERS if name in there), None)
    masks = next((there[name] for name in MASK_FOLDERS if name in there and holds_images(there[name])), None)
    return None if images is None or masks is None or not holds_images(images) else (images, masks)


def folder_pairs(folders: dict[str, tuple[Path, Path]], split: str) -> Pairs:
    """Pair the photos of a split's first folder with the masks of its second."""
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
