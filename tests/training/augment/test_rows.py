"""What holds for every row of `augment`: image and mask move together, no labels are made up, and 0 switches it off."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from augmenting import Pair, context, labelled, through
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.errors import ConfigError
from terrazzo.training.augment import AUGMENTATIONS, Step
from terrazzo.training.augment.affine import RandomAffine
from terrazzo.training.augment.classmix import ClassMix
from terrazzo.training.augment.copy_paste import CopyPaste
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.cutmix import CutMix
from terrazzo.training.augment.flip import RandomFlip

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)

WITH_P = {name: kind for name, kind in AUGMENTATIONS.items() if "p" in kind.__dataclass_fields__}
MIXING: dict[str, Any] = {
    "cutmix": CutMix(p=1.0),
    "classmix": ClassMix(p=1.0),
    "copy_paste": CopyPaste(p=1.0, rarer_than=1.0),
}


def row(name: str, **values: Any) -> Step:
    return AUGMENTATIONS[name](**values, **({"size": (16, 16)} if name == "crop" else {}))


def scattered(height: int, width: int, seed: int, classes: list[int]) -> Pair:
    """A photo of tiles that shows its own mask; a tenth is unlabelled."""
    rng = np.random.default_rng(seed)
    mask = rng.choice(classes, (height, width)).astype(np.uint8)
    mask[rng.random((height, width)) < 0.1] = 255
    return np.repeat(mask[..., None], 3, axis=2), mask


@pytest.mark.parametrize("name", WITH_P)
def test_a_probability_of_0_changes_nothing(name: str) -> None:
    image, mask = labelled(20, 24, 0)
    for seed in range(5):
        result = row(name, p=0)(image, mask, context(np.random.default_rng(seed), [labelled(20, 24, 1)]))
        assert result[0] is image and result[1] is mask


@pytest.mark.parametrize("name", WITH_P)
def test_a_probability_of_1_always_changes_something(name: str) -> None:
    image, mask = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8), labelled(20, 24, 0)[1]
    more = {"rarer_than": 1.0} if name == "copy_paste" else {}
    for seed in range(5):
        result = row(name, p=1, **more)(image, mask, context(np.random.default_rng(seed), [labelled(20, 24, 1)]))
        assert not np.array_equal(result[0], image)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_inputs_and_the_other_image_stay_as_they_are(name: str) -> None:
    images = [labelled(30, 24, 0), labelled(28, 30, 1)]
    before = [(image.copy(), mask.copy()) for image, mask in images]
    step = row(name, **({"p": 1} if name in WITH_P else {}))
    for seed in range(5):
        image, mask = step(*images[0], context(np.random.default_rng(seed), [images[1]]))
        assert image.shape == (*mask.shape, 3) and image.dtype == np.uint8 and mask.dtype == np.uint8
    for photo, same in zip(images, before, strict=True):
        np.testing.assert_array_equal(photo[0], same[0])
        np.testing.assert_array_equal(photo[1], same[1])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_generator_gives_the_same(name: str) -> None:
    image, mask = labelled(30, 24, 0)
    first, second = (row(name)(image, mask, context(np.random.default_rng(3), [(image, mask)])) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MIXING)), sides, sides, sides, sides, seeds)
def test_mixing_moves_pixels_with_their_labels_and_makes_up_none(
    name: str, h: int, w: int, other_h: int, other_w: int, seed: int
) -> None:
    image, mask = scattered(h, w, seed, [0, 1, 2])
    other = scattered(other_h, other_w, seed + 1, [2, 3, 4])
    new_image, new_mask = MIXING[name](image, mask, context(np.random.default_rng(seed), [other]))
    assert new_mask.shape == mask.shape
    np.testing.assert_array_equal(new_image, np.repeat(new_mask[..., None], 3, axis=2))
    assert set(np.unique(new_mask)) <= set(np.unique(mask)) | set(np.unique(other[1]))
    if name != "cutmix":  # what is unlabelled in the other photo is not pasted
        assert not ((new_mask == 255) & (mask != 255)).any()


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.floats(0, 180), st.floats(0, 1), st.floats(0.2, 1), st.floats(0, 80), seeds)
def test_affine_makes_up_no_labels(
    h: int, w: int, degrees: float, translate: float, low: float, shear: float, seed: int
) -> None:
    image, mask = labelled(h, w, seed)
    step = RandomAffine(p=1.0, degrees=degrees, translate=translate, scale=(low, 2.0), shear=shear)
    new_image, new_mask = step(image, mask, context(np.random.default_rng(seed)))
    assert new_image.shape == image.shape and new_mask.shape == mask.shape
    assert set(np.unique(new_mask)) <= {*np.unique(mask), 255}


def test_mixing_steps_take_the_other_image_through_the_steps_before_them() -> None:
    left = np.zeros((6, 8), np.uint8)
    left[:, :4] = 1
    photo = np.repeat(left[..., None], 3, axis=2), left
    whole = CutMix(p=1.0, area=(1.0, 1.0), aspect=(6 / 8, 6 / 8))
    _, mask = through([whole, RandomFlip(p=1.0)], *photo, np.random.default_rng(0))
    np.testing.assert_array_equal(mask, left[:, ::-1])  # mirrored once
    _, mask = through([RandomFlip(p=1.0), whole, RandomFlip(p=1.0)], *photo, np.random.default_rng(0))
    np.testing.assert_array_equal(mask, left)  # the other one was mirrored before, too
    _, mask = through([RandomCrop(size=(4, 4), cat_max_ratio=1.0), whole], *photo, np.random.default_rng(0))
    assert mask.shape == (4, 4)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_values_out_of_range_are_named(name: str) -> None:
    for field in fields(AUGMENTATIONS[name]):  # type: ignore[arg-type]
        for wrong in (-1, -0.5, "often", True, (2.0, 1.0), None):
            if wrong is None and field.name == "box":
                continue
            with pytest.raises(ConfigError, match=f"{field.name} is ") as caught:
                AUGMENTATIONS[name](**({"size": (16, 16)} if name == "crop" else {}) | {field.name: wrong})
            assert caught.value.code == "recipe-value" and caught.value.fix.startswith("it must be ")
