"""CamVid: 11 classes of street scenes (Brostow et al. 2009), as SegNet's authors share it, or as it was published.

SegNet's: ``{train,val,test}`` with photos and ``{train,val,test}annot`` with index masks, 11 = void (the bundled list
``camvid``). Published: ``701_StillsRaw_full`` and ``LabeledApproved_full`` with ``..._L.png`` in 32 colours, or these
already split, as ``train`` and ``train_labels``; ``camvid_colors`` groups the 32 into the 11 as MathWorks' CamVid
example does. An unsplit folder is split as SegNet's authors did, told by drive and frame: 367, 101 and 233 photos.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import USUAL_SPLITS, shows_names, subfolders
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.pairing import Listing, pair_folders
from terrazzo.labels.spec import LabelSpec

__all__ = ["NAME", "SHAPE", "find", "segnet_split"]

NAME = "CamVid"
SHAPE = "train, trainannot; or train, train_labels; or 701_StillsRaw_full, LabeledApproved_full"
COLOR_ENDING = "_L"
DRIVES = ("0001TP", "0006R0", "0016E5", "Seq05VD")
VAL_FRAMES = range(7959, 8160)  # of drive 0016E5, where frames were labelled at 15 Hz
LAST_TRAIN_FRAME = 8520  # of drive 0001TP


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by the names of its folders."""
    for masks, ending, name in (("annot", "", "index masks"), ("_labels", COLOR_ENDING, "32 colours")):
        splits = tuple(s for s in USUAL_SPLITS if (root / s).is_dir() and (root / f"{s}{masks}").is_dir())
        if splits and not shows_names(root / splits[0], DRIVES):
            return _other_images(f"{splits[0]} and {splits[0]}{masks}")
        if splits:
            pairs = partial(_split_pairs, root, masks, ending)
            return Layout(f"{NAME} ({name})", root, root / f"{splits[0]}{masks}", splits, pairs, _labels(ending))
    folders = [folder.name for folder in subfolders(root)]
    images, colors = (
        next((name for name in folders if name.startswith(start)), None)
        for start in ("701_StillsRaw", "LabeledApproved")
    )
    if images is None and colors is None:
        return None
    if images is None or colors is None:
        missing = "LabeledApproved_full" if colors is None else "701_StillsRaw_full"
        return NearMiss(NAME, f"{missing} is missing", "unpack photos and labels into two folders side by side")
    if not shows_names(root / images, DRIVES):
        return _other_images(f"{images} and {colors}")
    pairs = partial(_unsplit_pairs, root, root / images, root / colors)
    return Layout(f"{NAME} (32 colours, unsplit)", root, root / colors, USUAL_SPLITS, pairs, _labels(COLOR_ENDING))


def segnet_split(stem: str) -> str:
    """Say in which of SegNet's splits a photo such as ``0016E5_07959`` is."""
    drive, _, frame = stem.partition("_")
    number = int(frame) if frame.isdecimal() else -1
    if drive == "Seq05VD" or (drive == "0001TP" and number > LAST_TRAIN_FRAME):
        return "test"
    return "val" if drive == "0016E5" and number in VAL_FRAMES else "train"


def _other_images(folders: str) -> NearMiss:
    """Somebody else's masks in such folders do not hold CamVid's classes."""
    message = f"{folders} are folders of CamVid, but no photo is called after its drives ({', '.join(DRIVES)})"
    return NearMiss(NAME, message, "lay your own data out as train/images, train/masks, val/images and val/masks")


def _labels(ending: str) -> partial[LabelSpec]:
    return partial(LabelSpec.bundled, "camvid_colors" if ending else "camvid")


def _split_pairs(root: Path, masks: str, ending: str, split: str) -> Pairs:
    return pair_folders(Listing.of(root / split), Listing.of(root / f"{split}{masks}", ending))


def _unsplit_pairs(root: Path, images: Path, masks: Path, split: str) -> Pairs:
    listings = [Listing.of(images), Listing.of(masks, COLOR_ENDING)]
    for listing in listings:
        for stem in [stem for stem in listing.by_stem if segnet_split(stem) != split]:
            del listing.by_stem[stem]
    return pair_folders(*listings)
