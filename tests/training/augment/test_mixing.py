"""Erasing, CutMix, ClassMix and copy-paste: what they take from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augmenting import Pair, context, labelled
from tiny_runs import make_data

from terrazzo.data import open_dataset
from terrazzo.data.loaders import TrainLoader
from terrazzo.preprocess import Preprocess
from terrazzo.training.augment import Augmentation
from terrazzo.training.augment.classmix import ClassMix
from terrazzo.training.augment.copy_paste import CopyPaste
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.cutmix import CutMix
from terrazzo.training.augment.erasing import RandomErasing
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.data import labelled_pixels


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(value: int, height: int = 40, width: int = 50) -> Pair:
    return np.full((height, width, 3), value, np.uint8), np.full((height, width), value, np.uint8)


def box_of(changed: Any) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@pytest.mark.parametrize("labels", ["ignore", "keep"])
def test_erasing_fills_one_rectangle_of_the_area_asked_for(labels: Any) -> None:
    image, mask = flat(7, 100, 120)
    for seed in range(20):
        step = RandomErasing(p=1.0, area=(0.1, 0.3), aspect=(0.5, 2.0), labels=labels)
        new_image, new_mask = step(image, mask, context(rng(seed)))
        changed = (new_image != 7).any(axis=2)
        box = box_of(changed)
        rows, columns = (place.stop - place.start for place in box)
        assert 0.09 < rows * columns / 12_000 < 0.32 and 0.45 < rows / columns < 2.2
        assert changed[box].mean() > 0.99 and 100 < new_image[box].mean() < 155  # noise
        assert (new_mask[box] == (255 if labels == "ignore" else 7)).all()
        assert (new_mask == 255).sum() == (rows * columns if labels == "ignore" else 0)


def test_cutmix_replaces_one_rectangle_in_its_place() -> None:
    image, mask = flat(1)
    other = labelled(40, 50, 5)
    other = other[0] + np.uint8(10), other[1] + np.uint8(10)
    for seed in range(20):
        new_image, new_mask = CutMix(p=1.0, area=(0.2, 0.4))(image, mask, context(rng(seed), [other], classes=20))
        box = box_of(new_mask != 1)
        np.testing.assert_array_equal(new_mask[box], other[1][box])
        np.testing.assert_array_equal(new_image[box], other[0][box])
        assert 0.18 < (new_mask != 1).mean() < 0.43


def test_cutmix_draws_every_image() -> None:
    photos = [flat(value) for value in range(10, 14)]
    seen = {int(CutMix(p=1.0)(*flat(1), context(rng(seed), photos, classes=20))[1].max()) for seed in range(40)}
    assert seen == {10, 11, 12, 13}


@pytest.mark.parametrize(("classes", "pasted"), [([], 0), ([3], 1), ([3, 4], 1), ([3, 4, 5], 2), ([3, 4, 5, 6], 2)])
def test_classmix_pastes_half_of_the_classes_with_all_their_pixels(classes: list[int], pasted: int) -> None:
    mask = np.array([*classes, 255], np.uint8).repeat(4)[None].repeat(5, 0)
    other = np.repeat(mask[..., None], 3, axis=2), mask
    for seed in range(5):
        _, new_mask = ClassMix(p=1.0)(*flat(1, 5, 30), context(rng(seed), [other], classes=10))
        seen = set(np.unique(new_mask)) - {1}
        assert len(seen) == pasted and seen <= set(classes)
        for value in seen:
            np.testing.assert_array_equal(new_mask[:, : mask.shape[1]] == value, mask == value)


def stamped(value: int, rows: slice, columns: slice) -> Pair:
    image, mask = flat(0)
    image[rows, columns], mask[rows, columns] = value, value
    return image, mask


def test_copy_paste_takes_rare_classes_alone_each_alike_and_from_images_that_show_them() -> None:
    # Class 1 fills half of the pixels; 2 has 30 and 3 has 12 of 6000, each in one photo.
    photos = [stamped(1, slice(0, 40), slice(0, 50)), stamped(2, slice(3, 8), slice(4, 10)),
              stamped(3, slice(30, 33), slice(40, 44))]  # fmt: skip
    places, times = set(), {2: 0, 3: 0}
    for seed in range(60):
        image, mask = CopyPaste(p=1.0)(*flat(0), context(rng(seed), photos))
        (value,) = set(np.unique(mask)) - {0}
        box = box_of(mask == value)
        assert (mask[box] == value).all() and (image[box] == value).all()
        assert (mask == value).sum() == {2: 30, 3: 12}[int(value)]
        places.add((box[0].start, box[1].start))
        times[int(value)] += 1
    assert len(places) > 50 and all(count > 20 for count in times.values())


def test_copy_paste_without_rare_classes_or_without_their_pixels_changes_nothing() -> None:
    image, mask = flat(0)
    common = [stamped(1, slice(0, 40), slice(0, 25))]
    assert CopyPaste(p=1.0)(image, mask, context(rng(), common))[1] is mask
    gone = context(rng(), [stamped(1, slice(0, 2), slice(0, 2))])
    lost = type(gone)(gone.rng, 255, gone.pixels_K, gone.pixels_NK, lambda place: flat(0))
    assert CopyPaste(p=1.0)(image, mask, lost)[1] is mask


@pytest.mark.parametrize("size", [(4, 60), (60, 4), (3, 3)])
def test_what_is_larger_than_the_image_is_cut_to_it(size: tuple[int, int]) -> None:
    large = [stamped(2, slice(0, 40), slice(0, 50))]
    _, mask = CopyPaste(p=1.0, rarer_than=1.0)(*flat(0, *size), context(rng(), [*large, flat(0)]))
    assert mask.shape == size and (mask[: min(size[0], 40), : min(size[1], 50)] >= 0).all()
    assert (mask == 2).sum() == min(size[0], 40) * min(size[1], 50)


def test_batches_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    train = open_dataset(make_data(tmp_path / "tiles", train=6), "train")
    steps = (RandomResize(), CopyPaste(p=0.5, rarer_than=0.5), RandomCrop(size=(32, 40)), CutMix(), ClassMix())
    augment = Augmentation(steps, train.read, labelled_pixels(train), 255)
    loaders = [TrainLoader(train, augment, Preprocess(), (32, 40), 2, 0, workers) for workers in (0, 2)]
    for epoch in range(2):
        for left, right in zip(*(loader.batches(epoch) for loader in loaders), strict=True):
            assert torch.equal(left.images, right.images) and torch.equal(left.labels, right.labels)
