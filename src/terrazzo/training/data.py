"""What a run learns from and what it validates on: splits, held-out photos, augmentation, class counts."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from terrazzo.data import Dataset, open_dataset
from terrazzo.data.masks import read_mask
from terrazzo.data.transforms import (
    Compose,
    PhotometricDistortion,
    RandomBlur,
    RandomCrop,
    RandomFlip,
    RandomGamma,
    RandomGray,
    RandomResize,
    RandomRotate,
    Transform,
)
from terrazzo.errors import DatasetError, TrainingError
from terrazzo.labels import LabelSpec
from terrazzo.training.recipe import Recipe

__all__ = ["augmentation", "count_labels", "open_splits", "require_labels"]


def open_splits(recipe: Recipe, data: Path) -> tuple[Dataset, Dataset]:
    """Open what a recipe learns from and what it validates on.

    Raises:
        DatasetError: a split cannot be opened.
        TrainingError: the holdout patterns match no photo, or all of them.
    """
    labels = LabelSpec.bundled(recipe.labels) if recipe.labels else None
    train = open_dataset(data, recipe.train_split, labels)
    if not recipe.holdout:
        return train, open_dataset(data, recipe.val_split, train.labels)
    held = [any(fnmatch.fnmatch(sample.name, pattern) for pattern in recipe.holdout) for sample in train.samples]
    if all(held) or not any(held):
        patterns = ", ".join(recipe.holdout)
        raise TrainingError(
            f"holdout {patterns} matches {sum(held)} of the {len(held)} photos in {recipe.train_split}",
            fix="give patterns of photo names that match some photos and leave some",
            code="training-holdout",
        )
    learnt = tuple(sample for sample, out in zip(train.samples, held, strict=True) if not out)
    unseen = tuple(sample for sample, out in zip(train.samples, held, strict=True) if out)
    return dataclasses.replace(train, samples=learnt), dataclasses.replace(train, samples=unseen, split="holdout")


def require_labels(dataset: Dataset) -> None:
    """Refuse a split without a single labelled pixel: nothing can be learnt from it, and no epoch would be the best.

    Masks are read up to the first that has one.

    Raises:
        DatasetError: every pixel of every mask is ignored, or a mask cannot be read.
    """
    ignored = dataset.labels.ignore_index
    if not any((read_mask(sample.mask, dataset.labels) != ignored).any() for sample in dataset.samples):
        raise DatasetError(
            f"{dataset.root}: no mask of {dataset.split} has a labelled pixel, all of them are ignored",
            fix="look at the masks' values with `terrazzo check-data`",
            code="dataset-unlabelled",
        )


def augmentation(recipe: Recipe, ignore_index: int) -> Compose:
    """Return the papers' steps in the papers' order, and ours where the recipe asks for them."""
    steps: list[Transform] = []
    long_side, short_side = recipe.resize or (None, None)
    steps.append(RandomResize(long_side, short_side, recipe.ratio_range))
    if recipe.rotate:
        steps.append(RandomRotate(0.5, recipe.rotate, ignore_index))
    steps.append(RandomCrop(recipe.crop, recipe.cat_max_ratio, ignore_index))
    steps.append(RandomFlip(recipe.flip))
    steps.append(PhotometricDistortion(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue))
    if recipe.gamma:
        steps.append(RandomGamma(recipe.gamma))
    if recipe.gray:
        steps.append(RandomGray(recipe.gray))
    if recipe.blur:
        steps.append(RandomBlur(recipe.blur))
    return Compose(steps)


def count_labels(dataset: Dataset, most: int = 2000) -> torch.Tensor:
    """Return (K,) pixels of each class, over at most `most` evenly spaced masks."""
    K = dataset.labels.num_classes
    places: Sequence[int] = np.linspace(0, len(dataset) - 1, min(len(dataset), most)).round().astype(int).tolist()

    def count(place: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.bincount(read_mask(dataset.samples[place].mask, dataset.labels).ravel(), minlength=K)[:K]

    with ThreadPoolExecutor(4) as pool:
        return torch.from_numpy(np.sum(list(pool.map(count, places)), axis=0))
