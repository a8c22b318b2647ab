"""What the check of a data set finds: counts, sizes and classes of each split, and the problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.data.problems import Problem
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import shown_path

__all__ = ["BandCheck", "ClassCount", "DatasetCheck", "Sizes", "SplitCheck"]


@dataclass(frozen=True)
class ClassCount:
    """How much of a split one class fills: pixels, and photos with at least one pixel of it."""

    name: str
    pixels: int
    images: int


@dataclass(frozen=True)
class BandCheck:
    """The numbers of one band in a split, as they are stored.

    Attributes:
        band: counted from 1.
        name: empty where it has none.
        lowest: of all measurements.
        highest: of all measurements.
        mean: of all measurements.
        std: of all measurements.
        gaps: share of pixels without a measurement.
    """

    band: int
    name: str
    lowest: float
    highest: float
    mean: float
    std: float
    gaps: float


@dataclass(frozen=True)
class Sizes:
    """The (height, width) of photos, ordered by area, and how many different ones there are."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    distinct: int


@dataclass(frozen=True)
class SplitCheck:
    """One split in numbers.

    Attributes:
        name: such as ``train``.
        images: pairs of photo and mask.
        sizes: of the photos that can be read; None if there are none.
        classes: one count per class; without usable labels one per stored value, the most frequent first.
        labelled_pixels: pixels that carry a label.
        ignored_pixels: pixels whose label is to be ignored.
        unexplained: what masks hold and the labels do not name, the most frequent first.
        stored: images by what they store, such as ``4 of uint16``: bands and kind of numbers.
        bands: the bands that were chosen.
    """

    name: str
    images: int
    sizes: Sizes | None
    classes: tuple[ClassCount, ...]
    labelled_pixels: int
    ignored_pixels: int
    unexplained: tuple[ClassCount, ...]
    stored: Mapping[str, int]
    bands: tuple[BandCheck, ...]


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_dataset` found.

    Attributes:
        root: the data set's folder.
        layout: what it was taken for, in words.
        labels: the classes, or None where they cannot be told.
        labels_from: where they come from: ``given``, ``labels.yaml``, ``layout`` or ``guessed``.
        splits: train, val and test first.
        problems: errors first, then warnings, then notes; of each, those of the whole data set first.
    """

    root: Path
    layout: str
    labels: LabelSpec | None
    labels_from: str
    splits: tuple[SplitCheck, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be put right before training."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is worth a look."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def relative(self, file: Path) -> str:
        """Write a file's path as seen from the root."""
        return shown_path(file.relative_to(self.root) if file.is_relative_to(self.root) else file)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; files are relative to the root."""
        return {
            "root": shown_path(self.root),
            "layout": self.layout,
            "ready": not self.errors,
            "labels": None if self.labels is None else self.labels.to_dict(),
            "labels_from": self.labels_from,
            "splits": [
                {
                    **vars(split),
                    "sizes": None if split.sizes is None else dict(vars(split.sizes)),
                    "classes": [dict(vars(count)) for count in split.classes],
                    "unexplained": [dict(vars(count)) for count in split.unexplained],
                    "bands": [dict(vars(band)) for band in split.bands],
                }
                for split in self.splits
            ],
            "problems": [
                {**vars(problem), "file": None if problem.file is None else self.relative(problem.file)}
                for problem in self.problems
            ],
        }
