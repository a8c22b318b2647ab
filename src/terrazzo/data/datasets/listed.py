"""A folder data set split by text files: ``ROOT/{train,val,test}.txt``, with an optional ``ROOT/labels.yaml``.

A line names one photo of ``ROOT/images``, whose mask is in ``ROOT/masks``, as ``street_01``, ``street_01.jpg`` or
``images/street_01.jpg``; or it holds a photo and its mask, as paths from ROOT with a space, tab or comma between them,
whatever the folders are called. Empty lines and lines that begin with # are skipped. A file of any other name is a
split when it is asked for.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import islice
from pathlib import Path

from terrazzo.data.datasets.folder import is_pair_of_folders
from terrazzo.data.layout import USUAL_SPLITS, Layout, NearMiss, Pairs, no_such_split
from terrazzo.data.pairing import list_entries, listed_pairs, split_pair
from terrazzo.data.problems import Problem

__all__ = ["NAME", "SHAPE", "find"]

NAME = "photos and masks listed in text files"
SHAPE = "images, masks, train.txt; or train.txt with two paths a line"
LOOKED_AT = 5  # lines, to tell whether they hold two paths


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by a text file beside ``images`` and ``masks``, or by a text file of pairs."""
    splits = tuple(split for split in USUAL_SPLITS if (root / f"{split}.txt").is_file())
    if is_pair_of_folders(root):
        if not splits:
            fix = "name the photos of each split in train.txt and val.txt beside images/ and masks/, one a line"
            return NearMiss(NAME, "it has images/ and masks/, and nothing says which photo is in which split", fix)
    elif not any(_lists_pairs(root, root / f"{split}.txt") for split in splits):
        return None
    return Layout(f"{NAME}", root, root / f"{splits[0]}.txt", splits, partial(_pairs, root, splits))


def _lists_pairs(root: Path, text_file: Path) -> bool:
    pairs = (split_pair(entry) for _, entry in islice(list_entries(text_file), LOOKED_AT))
    return any(pair is not None and all(os.path.isfile(root / part) for part in pair) for pair in pairs)


def _pairs(root: Path, splits: tuple[str, ...], split: str) -> Pairs:
    text_file = root / f"{split}.txt"
    if not os.path.isfile(text_file):
        raise no_such_split(NAME, root, split, splits)
    samples, problems = listed_pairs(text_file, root, "images", ("masks",), pairs=True)
    if not samples and not problems:
        message, fix = "this split holds no photos", "name one photo a line"
        problems.append(Problem("error", "dataset-empty", text_file, message, fix))
    return samples, problems
