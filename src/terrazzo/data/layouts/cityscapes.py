"""Cityscapes with fine labels: 19 classes of street scenes (Cordts et al. 2016).

``leftImg8bit/{train,val}/CITY/..._leftImg8bit.png`` and ``gtFine/{train,val}/CITY/..._gtFine_labelIds.png``, or
``..._gtFine_labelTrainIds.png`` where every photo has one, as the papers' code wants them. Both mean the same classes:
the bundled list ``cityscapes_ids`` turns labelIds into them. The labels of the test split are not public.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.dataset import Sample
from terrazzo.data.folders import subfolders, visible_entries
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.pairing import Listing, pair_folders
from terrazzo.data.problems import Problem
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Cityscapes"
SHAPE = "leftImg8bit/train, gtFine/train"
IMAGE_ENDING = "_leftImg8bit"
MASK_ENDINGS = {"_gtFine_labelTrainIds": "cityscapes", "_gtFine_labelIds": "cityscapes_ids"}


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``leftImg8bit`` and ``gtFine``."""
    images, masks = root / "leftImg8bit", root / "gtFine"
    if not images.is_dir() and not masks.is_dir():
        return None
    splits = tuple(split for split in ("train", "val") if (images / split).is_dir() and (masks / split).is_dir())
    if not splits:
        missing = next(folder for folder in (images / "train", masks / "train") if not folder.is_dir())
        fix = "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder"
        return NearMiss(NAME, f"{missing.relative_to(root)} is missing", fix)
    ending = _mask_ending(root, splits)
    name = f"{NAME} ({ending.removeprefix('_gtFine_')} masks)"
    labels = partial(LabelSpec.bundled, MASK_ENDINGS[ending])
    return Layout(name, root, masks, splits, partial(_pairs, root, ending), labels)


def _mask_ending(root: Path, splits: tuple[str, ...]) -> str:
    """Choose one kind of mask for all splits, so that train and val cannot be read differently."""
    preferred, always = MASK_ENDINGS
    for split in splits:
        for city in subfolders(root / "leftImg8bit" / split):
            names = {entry.name for entry in visible_entries(city)}
            folder = root / "gtFine" / split / city.name
            masks = {entry.name for entry in visible_entries(folder)} if folder.is_dir() else set()
            stems = (name.removesuffix(f"{IMAGE_ENDING}.png") for name in names if name.endswith(f"{IMAGE_ENDING}.png"))
            if not all(f"{stem}{preferred}.png" in masks for stem in stems):
                return always
    return preferred


def _pairs(root: Path, ending: str, split: str) -> Pairs:
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    samples: list[Sample] = []
    problems: list[Problem] = []
    for city in sorted({folder.name for folder in subfolders(images) + subfolders(masks)}):
        listings = [
            Listing.of(folder / city, suffix) if (folder / city).is_dir() else Listing(folder / city)
            for folder, suffix in ((images, IMAGE_ENDING), (masks, ending))
        ]
        found, wrong = pair_folders(*listings)
        samples += found
        problems += wrong
    return samples, problems
