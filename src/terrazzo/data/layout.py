"""Layout: what a folder was taken for, with its splits, and how the pairs of one split are listed.

Each file under ``layouts/`` knows one kind of layout. It has a `NAME`, a `SHAPE` that tells people what it looks like,
and ``find(root)``, which looks at the names of a few files and folders and opens none; `terrazzo.data.detect` asks them
all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from terrazzo.data.dataset import Sample
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import shown_path

__all__ = [
    "ALL",
    "USUAL_SPLITS",
    "Layout",
    "LayoutFinder",
    "NearMiss",
    "Pairs",
    "no_such_split",
    "split_of",
    "splits_in_order",
]

Pairs: TypeAlias = tuple[list[Sample], list[Problem]]

USUAL_SPLITS = ("train", "val", "test")
ALL = "all"  # the one split of a data set that has none
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class Layout:
    """A data set on disk that has been recognised.

    Attributes:
        name: what it was taken for, such as ``Cityscapes (labelIds masks)``.
        root: its folder.
        marker: the file or folder that only this layout has. Where a root holds two data sets, it names the one meant.
        splits: the splits to be checked, train, val and test first.
        pairs: lists a split: the samples in a fixed order, and what is wrong with the others. It may know further
            splits, such as VOC's trainval. It raises a DatasetError where there is no such split.
        labels: gives the data set's own classes; None where only ``labels.yaml`` or the masks tell them.
        crowds_as_objects: as `pairs`, with what a COCO document marks as a crowd taken for single objects; None where
            there are no crowds.
        is_general: it says nothing but which photo has which mask, and gives way to layouts that say more.
    """

    name: str
    root: Path
    marker: Path
    splits: tuple[str, ...]
    pairs: Callable[[str], Pairs]
    labels: Callable[[], LabelSpec] | None = None
    crowds_as_objects: Callable[[str], Pairs] | None = None
    is_general: bool = False


@dataclass(frozen=True)
class NearMiss:
    """A folder that has something of a layout, and lacks the rest."""

    name: str
    message: str
    fix: str


class LayoutFinder(Protocol):
    """What a module under ``layouts/`` offers.

    Attributes:
        NAME: of the layout.
        SHAPE: the files and folders that make it out, on part of a line.
    """

    NAME: str
    SHAPE: str

    def find(self, root: Path) -> Layout | NearMiss | None:
        """Say whether a folder has this layout."""
        ...


def split_of(folder: str) -> str:
    """Name the split that a folder holds: ``valid`` and ``Validation`` hold val."""
    name = folder.casefold()
    usual = OTHER_NAMES.get(name, name)
    return usual if usual in USUAL_SPLITS else folder


def splits_in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Put train, val and test first, and the others behind, by name."""
    found = set(names)
    return (*(split for split in USUAL_SPLITS if split in found), *sorted(found - set(USUAL_SPLITS)))


def no_such_split(name: str, root: Path, split: str, there: Sequence[str]) -> DatasetError:
    """Say which splits there are in place of one that is not there."""
    fix = f"use one of: {', '.join(there)}" if there else "check that the data set is complete"
    if len(there) == 1 and there[0] not in USUAL_SPLITS:
        fix = f"nobody has split it: train with --val 0.1 to validate on a tenth, or evaluate with --split {there[0]}"
    return DatasetError(f"{shown_path(root)}, taken for {name}, has no split {split!r}", fix=fix, code="dataset-split")
