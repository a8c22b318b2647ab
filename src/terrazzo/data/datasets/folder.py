"""A folder data set split by folders: ``ROOT/{train,val,test}/{images,masks}``, with an optional ``ROOT/labels.yaml``.

A photo and its mask have the same name but for the ending. Any subfolder with ``images`` and ``masks`` in it is a
split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.layout import USUAL_SPLITS, Layout, NearMiss, Pairs, no_such_split
from terrazzo.data.pairing import Listing, folder_entries, pair_folders
from terrazzo.data.problems import Problem

__all__ = ["NAME", "SHAPE", "find", "is_pair_of_folders"]

NAME = "a folder of photos and masks"
SHAPE = "train/images, train/masks, val/images, val/masks"


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by at least one subfolder with ``images`` and ``masks`` in it."""
    folders = [Path(entry.path) for entry in folder_entries(root) if entry.is_dir()]
    found = {folder.name for folder in folders if is_pair_of_folders(folder)}
    if not found:
        halves = [folder for folder in folders if folder.name in USUAL_SPLITS and (folder / "images").is_dir()]
        if not halves:
            return None
        fix = f"put the masks into {halves[0].name}/masks, each with the name of its photo"
        return NearMiss(NAME, f"{halves[0].name}/ has images/ and no masks/", fix)
    splits = (*(split for split in USUAL_SPLITS if split in found), *sorted(found - set(USUAL_SPLITS)))
    pairs = partial(_pairs, root, splits)
    return Layout(f"{NAME}, split by folders", root, root / splits[0] / "masks", splits, pairs)


def is_pair_of_folders(folder: Path) -> bool:
    """Whether it has photos in ``images`` and masks in ``masks``."""
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _pairs(root: Path, splits: tuple[str, ...], split: str) -> Pairs:
    if split not in splits:
        raise no_such_split(NAME, root, split, splits)
    images, masks = Listing.of(root / split / "images"), Listing.of(root / split / "masks")
    samples, problems = pair_folders(images, masks)
    left_out = [problem for problem in images.others + masks.others if problem.severity == "warning"]
    if not samples and not any(problem.severity == "error" for problem in problems):
        below = any(problem.file is not None and problem.file.is_dir() for problem in left_out)
        fix = (
            "put photos and masks directly into images/ and masks/, not into folders below"
            if below
            else "put photos into images/ and masks into masks/"
        )
        problems.append(Problem("error", "dataset-empty", root / split, "this split holds no photos", fix))
    return samples, left_out + problems
