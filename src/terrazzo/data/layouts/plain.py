"""Photos and masks, mostly without splits: two folders side by side, or ``x.jpg`` and ``x_mask.png`` in one folder.

``images`` and ``masks`` without splits; ``train`` and ``train_masks``; or ``x.jpg`` with ``x_mask.png`` in one folder,
which may be ``train`` or the data set's own. Where there are no splits, all pairs are one split, ``all``, of which
`terrazzo.data.splits` makes train and val.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from terrazzo.data.folders import USUAL_SPLITS, holds_images, split_folders, split_of, subfolders
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.layouts.folder import IMAGE_FOLDERS, MASK_FOLDERS, folder_pairs, pair_of_folders
from terrazzo.data.name_affixes import Affixes, affixes_beside
from terrazzo.data.pairing import Listing, pair_folders
from terrazzo.data.problems import Problem

__all__ = ["NAME", "SHAPE", "find"]

NAME = "photos and masks"
SHAPE = "images, masks"
PUBLISHED = ("JPEGImages", "SegmentationClass", "701_StillsRaw", "LabeledApproved")
SEPARATORS = ("_", "-", "")
MASK_WORD = re.compile(r"masks?|labels?|annot|segment|(^|[^a-z])(seg|gt)([^a-z]|$)|ground.?truth", re.IGNORECASE)


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by the usual words for photos and masks in names."""
    folders = subfolders(root)
    if pairs := _side_by_side(folders):
        return _layout(f"{NAME}, split by folders", root, pairs)
    if (pair := pair_of_folders(root) or _told_by_name(folders)) is not None:
        return _layout(f"{NAME} without splits", root, {ALL: pair})
    for places, words in (({ALL: root}, ""), (split_folders(root), ", split by folders")):
        beside = {s: (place, affixes) for s, place in places.items() if (affixes := _in_one_folder(place)) is not None}
        if beside:
            name, folder = f"{NAME} in one folder{words}", next(iter(beside.values()))[0]
            return Layout(name, root, folder, tuple(beside), partial(_pairs_beside, beside), is_general=True)
    return None


def _layout(name: str, root: Path, pairs: dict[str, tuple[Path, Path]]) -> Layout:
    marker = next(iter(pairs.values()))[1]
    return Layout(name, root, marker, tuple(pairs), partial(folder_pairs, pairs), is_general=True)


def _told_by_name(folders: list[Path]) -> tuple[Path, Path] | None:
    """Two folders of images, of which one speaks of masks: ``images`` and ``mask_png``."""
    if any(folder.name.startswith(PUBLISHED) for folder in folders):
        return None  # part of a data set that has its own classes
    there = [folder for folder in folders if holds_images(folder)]
    masks = [folder for folder in there if MASK_WORD.search(folder.name)]
    if len(there) != 2 or len(masks) != 1 or any(split_of(folder.name) in USUAL_SPLITS for folder in there):
        return None
    return (there[1], there[0]) if masks[0] == there[0] else (there[0], there[1])


def _side_by_side(folders: list[Path]) -> dict[str, tuple[Path, Path]]:
    """Find ``train`` or ``train_images`` with ``train_masks``."""
    by_name = {folder.name.casefold(): folder for folder in folders}
    found: dict[str, tuple[Path, Path]] = {}
    for split in USUAL_SPLITS:
        names = [name for name in by_name if split_of(name) == split] or [split]
        for name in names:
            endings = [mark + word for word in MASK_FOLDERS for mark in SEPARATORS]
            masks = next((by_name[name + ending] for ending in endings if name + ending in by_name), None)
            endings = ["", *(mark + word for word in IMAGE_FOLDERS for mark in SEPARATORS)]
            images = next((by_name[name + ending] for ending in endings if name + ending in by_name), None)
            if images is not None and masks is not None and holds_images(images) and holds_images(masks):
                found[split] = images, masks
    return found


def _in_one_folder(folder: Path) -> Affixes | None:
    return affixes_beside(Listing.of(folder).by_stem.keys()) if holds_images(folder) else None


def _pairs_beside(folders: dict[str, tuple[Path, Affixes]], split: str) -> Pairs:
    """Part a folder into masks, whose names have the word, and photos."""
    folder, affixes = folders[split]
    files = Listing.of(folder)
    before, after = affixes.mask
    is_mask = {
        s: len(s) > len(before) + len(after) and s.startswith(before) and s.endswith(after) for s in files.by_stem
    }
    images, masks = Listing(folder), Listing(folder)
    for stem, paths in files.by_stem.items():
        (masks if is_mask[stem] else images).by_stem[stem] = paths
    samples, problems = pair_folders(images, masks)
    fix = "nothing to do if that is right"
    told = Problem("note", "mask-names", folder, f"photos and masks are paired as {affixes}", fix)
    others = [problem for problem in problems if problem.code != told.code]
    return samples, [told, *others, *files.errors]
