"""What a run learns from and what it validates on: splits, held-out photos, class counts."""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.data import Dataset, open_dataset
from terrazzo.data.folders import split_of
from terrazzo.data.pixel_counts import count_pixels
from terrazzo.errors import DatasetError, TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.text import show
from terrazzo.training.sections import DataSection

__all__ = ["labelled_pixels", "open_splits"]


def open_splits(section: DataSection, data: Path) -> tuple[Dataset, Dataset]:
    """Open what a run learns from and what it validates on.

    Raises:
        DatasetError: a split cannot be opened.
        TrainingError: the holdout patterns match no photo, or all of them.
    """
    labels = LabelSpec.named(section.labels) if section.labels else None
    train = open_dataset(data, section.train_split, labels, rules=section.rules)
    if section.split is not None and section.split.fold == 0:
        note(
            "all photos are learnt from: the mIoU of this run is theirs, and says nothing about others; the folds' does"
        )
        return train, dataclasses.replace(train, split="train")
    if not section.holdout and split_of(section.train_split) == split_of(section.val_split):
        note(
            f"{section.train_split} is what the run learns from and what it is validated on: its mIoU says nothing "
            "about other photos, nor which epoch is the best for them"
        )
    if not section.holdout:
        return train, open_dataset(data, section.val_split, train.labels, rules=section.rules)
    held = [any(fnmatch.fnmatch(sample.name, pattern) for pattern in section.holdout) for sample in train.samples]
    if all(held) or not any(held):
        patterns = ", ".join(section.holdout)
        raise TrainingError(
            f"holdout {patterns} matches {sum(held)} of the {len(held)} photos in {section.train_split}",
            fix="give patterns of photo names that match some photos and leave some",
            code="training-holdout",
        )
    learnt = tuple(sample for sample, out in zip(train.samples, held, strict=True) if not out)
    unseen = tuple(sample for sample, out in zip(train.samples, held, strict=True) if out)
    return dataclasses.replace(train, samples=learnt), dataclasses.replace(train, samples=unseen, split="holdout")


def labelled_pixels(dataset: Dataset, *, learns: bool = False) -> NDArray[np.uint32]:
    """Return the (N, K) pixels of each class in each photo of a split, and so make sure of its masks before training.

    Args:
        dataset: the split.
        learns: it is what the run learns from, which takes two classes at least.

    Raises:
        DatasetError: a mask cannot be used; or no mask has a labelled pixel, so that there is nothing to learn, or no
            epoch that would be the best.
    """
    pixels_NK = count_pixels(dataset)
    pixels_K = pixels_NK.sum(axis=0)
    if not pixels_K.any():
        raise DatasetError(
            f"{dataset.root}: every pixel of every mask of {dataset.split} is ignored",
            fix="correct the masks, or what their values mean; `terrazzo check-data` shows them",
            code="dataset-unlabelled",
        )
    if learns and np.count_nonzero(pixels_K) == 1:
        name = dataset.labels.names[int(pixels_K.argmax())]
        raise DatasetError(
            f"{dataset.root}: every labelled pixel of {dataset.split} is {show(name)}: there is nothing to tell apart",
            fix="add photos that show other classes, or correct what the masks' values mean in `map:` of labels.yaml",
            code="dataset-classes",
        )
    return pixels_NK
