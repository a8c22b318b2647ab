"""COCO-Stuff 164k: 171 classes of things and stuff (Caesar et al. 2018), on the photos of COCO 2017.

Photos in ``{train2017,val2017}`` or ``images/{train2017,val2017}``. Masks in ``stuffthingmaps/...``, as they are
published, or in ``annotations/...``, where mmsegmentation wants them: either the published ids 0 to 181 (the bundled
list ``coco_stuff_raw``), or ``..._labelTrainIds.png`` with 0 to 170 (``coco_stuff``), which are taken where there are
any. 255 is unlabelled in both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import visible_entries
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.pairing import Listing, pair_folders
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find"]

NAME = "COCO-Stuff 164k"
SHAPE = "train2017 or images/train2017, stuffthingmaps/train2017 or annotations/train2017"
FOLDERS = {"train": "train2017", "val": "val2017"}
TRAIN_IDS = "_labelTrainIds"


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by folders called train2017 and val2017, of masks as well as of photos."""
    masks = next((m for m in (root / "stuffthingmaps", root / "annotations") if _has_any(m)), None)
    if masks is None:
        if (root / "stuffthingmaps").is_dir():
            fix = "unpack stuffthingmaps_trainval2017.zip into stuffthingmaps/"
            return NearMiss(NAME, "stuffthingmaps/ has neither train2017 nor val2017 in it", fix)
        return None
    images = next((p for p in (root / "images", root) if _has_any(p)), None)
    there = [] if images is None else [images, masks]
    splits = tuple(s for s, name in FOLDERS.items() if there and all((folder / name).is_dir() for folder in there))
    if not splits or images is None:
        fix = "unpack train2017.zip and val2017.zip beside the masks' folder"
        return NearMiss(NAME, f"{masks.name}/ has masks, and the photos of train2017 and val2017 are missing", fix)
    ending = TRAIN_IDS if all(_has_train_ids(masks / FOLDERS[split]) for split in splits) else ""
    name = f"{NAME} ({'labelTrainIds' if ending else 'published ids'} in {masks.name}/)"
    labels = partial(LabelSpec.bundled, "coco_stuff" if ending else "coco_stuff_raw")
    return Layout(name, root, masks, splits, partial(_pairs, root, images, masks, ending), labels)


def _has_any(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in FOLDERS.values())


def _has_train_ids(folder: Path) -> bool:
    return any(entry.name.endswith(f"{TRAIN_IDS}.png") for entry in visible_entries(folder))


def _pairs(root: Path, images: Path, masks: Path, ending: str, split: str) -> Pairs:
    return pair_folders(Listing.of(images / FOLDERS[split]), _without_train_ids(masks / FOLDERS[split], ending))


def _without_train_ids(folder: Path, ending: str) -> Listing:
    """List masks of one kind: published ids and labelTrainIds may lie side by side."""
    listing = Listing.of(folder, ending)
    if not ending:
        for stem in [stem for stem in listing.by_stem if stem.endswith(TRAIN_IDS)]:
            del listing.by_stem[stem]
    return listing
