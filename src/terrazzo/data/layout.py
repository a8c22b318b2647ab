"""Layout: how a data set lies on disk, its splits, and how the pairs of a split are listed.

Each file under ``layouts/`` knows one kind of layout. It has a `NAME`, a `SHAPE` that tells people what it looks like,
and ``find(root)``, which looks at the names of a few files and folders; `terrazzo.data.detect` asks them
all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from terrazzo.data.dataset import Sample
from terrazzo.data.folders import USUAL_SPLITS, split_of
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import show, shown_path

__all__ = ["ALL", "Layout", "LayoutFinder", "NearMiss", "Pairs", "closed_to_us"]

Pairs: TypeAlias = tuple[list[Sample], list[Problem]]

ALL = "all"  # the one split of a data set that has none


@dataclass(frozen=True)
class Layout:
    """A data set on disk that has been recognised.

    Attributes:
        name: what it was taken for, such as ``Cityscapes (labelIds masks)``.
        root: its folder.
        marker: the file or folder that only this layout has. Where a root holds two data sets, it names the one meant.
        splits: the splits to be checked, train, val and test first.
        list_pairs: lists a split: the samples in a fixed order, and what is wrong with the others.
        labels: gives the data set's own classes; None where only ``labels.yaml`` or the masks tell them.
        crowds_as_objects: as `list_pairs`, with what a COCO document marks as a crowd taken for single objects; None
            for layouts that mark no crowds.
        is_general: it says nothing but which photo has which mask, and gives way to layouts that say more.
        others: further splits that can be asked for by name, such as VOC's trainval.
    """

    name: str
    root: Path
    marker: Path
    splits: tuple[str, ...]
    list_pairs: Callable[[str], Pairs]
    labels: Callable[[], LabelSpec] | None = None
    crowds_as_objects: Callable[[str], Pairs] | None = None
    is_general: bool = False
    others: tuple[str, ...] = ()

    def pairs(self, split: str) -> Pairs:
        """List a split, which may be asked for as ``valid`` or ``validation`` where it is val.

        Raises:
            DatasetError: there is no such split, or its folder or document cannot be read.
        """
        known = (*self.splits, *self.others)
        split = split if split in known else split_of(split)
        if split not in known:
            raise self._no_such_split(split)
        try:
            samples, problems = self.list_pairs(split)
        except OSError as error:
            raise closed_to_us(error, self.root) from error
        if not samples and not any(problem.severity == "error" for problem in problems):
            fix = "check that the photos were unpacked or exported with everything else"
            problems = [*problems, Problem("error", "dataset-empty", self.marker, f"{split} holds no photos", fix)]
        return samples, problems

    def _no_such_split(self, split: str) -> DatasetError:
        there = dict.fromkeys((*self.splits, *self.others))
        fix = f"use one of: {', '.join(map(shown_path, there))}" if there else "check that the data set is complete"
        if len(self.splits) == 1 and (whole := self.splits[0]) not in USUAL_SPLITS:
            fix = f"nobody has split it: train with --val 0.1 to validate on a tenth, or evaluate with --split {whole}"
        message = f"{shown_path(self.root)}, taken for {self.name}, has no split {show(split)}"
        return DatasetError(message, fix=fix, code="dataset-split")


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


def closed_to_us(error: OSError, root: Path) -> DatasetError:
    """Make an error of what the system says about a file or folder below a root."""
    where = shown_path(error.filename or root)
    return DatasetError(f"{where}: {error.strerror or error}", fix="check its permissions", code="dataset-unreadable")
