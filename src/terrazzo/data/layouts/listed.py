"""A folder data set split by text files: ``ROOT/{train,val,test}.txt``, with an optional ``ROOT/labels.yaml``.

A line names one photo of ``ROOT/images``, whose mask is in ``ROOT/masks``, as ``street_01``, ``street_01.jpg`` or
``images/street_01.jpg``; or it holds a photo and its mask, as paths from ROOT with a tab, comma or space between them,
whatever the folders are called. Names may hold spaces, and be written with backslashes. Empty lines and lines that
begin with # are skipped. A file of any other name is a split when it is asked for.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import islice
from pathlib import Path

from terrazzo.data.folders import USUAL_SPLITS
from terrazzo.data.layout import Layout, Pairs
from terrazzo.data.layouts.folder import pair_of_folders
from terrazzo.data.layouts.voc import list_names_of
from terrazzo.data.pairing import list_entries, listed_pairs, split_pair

__all__ = ["NAME", "SHAPE", "find"]

NAME = "photos and masks listed in text files"
SHAPE = "images, masks, train.txt; or train.txt with two paths a line"
LOOKED_AT = 5  # lines, to tell whether they hold two paths


def find(root: Path) -> Layout | None:
    """Recognise it by a text file beside ``images`` and ``masks``, or by a text file of pairs."""
    splits = tuple(split for split in USUAL_SPLITS if os.path.isfile(root / f"{split}.txt"))
    folders = pair_of_folders(root)
    if not splits or (folders is None and not any(_lists_pairs(root, root / f"{split}.txt") for split in splits)):
        return None
    images, masks = ("images", "masks") if folders is None else (folders[0].name, folders[1].name)
    pairs, others = partial(_pairs, root, images, masks), list_names_of(root)
    return Layout(NAME, root, root / f"{splits[0]}.txt", splits, pairs, others=others)


def _lists_pairs(root: Path, text_file: Path) -> bool:
    def is_there(part: str) -> bool:
        return os.path.isfile(root / part.replace("\\", "/"))

    pairs = (split_pair(entry, is_there) for _, entry in islice(list_entries(text_file), LOOKED_AT))
    return any(pair is not None and all(map(is_there, pair)) for pair in pairs)


def _pairs(root: Path, images: str, masks: str, split: str) -> Pairs:
    return listed_pairs(root / f"{split}.txt", root, images, (masks,), pairs=True)
