"""Augmentation: photo and mask move together, and every step computes what the papers' code does."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from augmenting import context, labelled, through
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.data.loaders import pad_to
from terrazzo.training.augment.blur import RandomBlur
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.flip import RandomFlip
from terrazzo.training.augment.gamma import RandomGamma
from terrazzo.training.augment.gray import RandomGray
from terrazzo.training.augment.photometric import PhotometricDistortion
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.augment.rotate import RandomRotate

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)


class Script:
    """A generator whose draws are written down beforehand; it checks that all of them are made, in this order."""

    def __init__(self, *draws: tuple[str, Any]) -> None:
        self.draws = deque(draws)

    def _draw(self, kind: str) -> Any:
        expected, value = self.draws.popleft()
        assert kind == expected
        return value

    def random(self) -> float:
        return float(self._draw("random"))

    def uniform(self, low: float, high: float) -> float:
        value = float(self._draw("uniform"))
        assert low <= value <= high
        return value

    def integers(self, low: int, high: int) -> int:
        value = int(self._draw("integers"))
        assert low <= value < high
        return value


def applied(step: Any, image: Any, mask: Any = None, *draws: tuple[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    image = np.asarray(image, np.uint8)
    script = Script(*draws)
    result: tuple[NDArray[Any], NDArray[Any]] = step(
        image, np.zeros(image.shape[:2], np.uint8) if mask is None else np.asarray(mask, np.uint8), context(script)
    )
    assert not script.draws, "not all draws were made"
    return result


# -- photo and mask move together -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(sides, sides, sides, sides, seeds)
def test_crop_and_flip_keep_every_pixel_with_its_label(h: int, w: int, crop_h: int, crop_w: int, seed: int) -> None:
    image, mask = labelled(h, w, seed)
    before = image.copy(), mask.copy()
    steps = [RandomCrop(size=(crop_h, crop_w), cat_max_ratio=0.75), RandomFlip()]
    new_image, new_mask = through(steps, image, mask, np.random.default_rng(seed))
    assert new_mask.shape == (min(h, crop_h), min(w, crop_w))
    np.testing.assert_array_equal(new_image, np.repeat(new_mask[..., None], 3, axis=2))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.floats(0.5, 2.0), st.booleans(), seeds)
def test_resize_moves_an_edge_alike_in_both(h: int, w: int, r: float, upright: bool, seed: int) -> None:
    mask = np.zeros((h, w), np.uint8)
    mask[(slice(None), slice(w // 2, None)) if upright else slice(h // 2, None)] = 1
    image = np.repeat(mask[..., None] * np.uint8(200), 3, axis=2)
    new_image, new_mask = RandomResize(ratio_range=(r, r))(image, mask, context(np.random.default_rng(seed)))
    assert new_image.shape == (*new_mask.shape, 3)
    shown = new_image[..., 0] > 100
    profile, labels = (shown[0], new_mask[0]) if upright else (shown[:, 0], new_mask[:, 0])
    assert abs(int(profile.sum()) - int((labels == 1).sum())) <= 1 + r  # nearest takes the pixel before, not the middle


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 45), seeds)
def test_rotation_turns_both_about_the_centre(degrees: float, seed: int) -> None:
    mask = np.zeros((64, 48), np.uint8)
    mask[:, 24:] = 1
    image = np.repeat(mask[..., None] * np.uint8(200), 3, axis=2)
    new_image, new_mask = RandomRotate(p=1.0, degrees=degrees)(image, mask, context(np.random.default_rng(seed)))
    inside = new_mask != 255
    agree = (new_image[..., 0] > 100) == (new_mask == 1)
    assert agree[inside].mean() > 0.95
    assert inside[16:48, 12:36].all()


def test_rotation_leaves_what_comes_from_outside_unlabelled() -> None:
    image, mask = labelled(40, 40, 0)
    draws = ("random", 0.1), ("uniform", 45.0)
    _, turned = applied(RandomRotate(p=0.5, degrees=45.0), image, mask, *draws)
    assert turned[0, 0] == turned[0, -1] == turned[-1, 0] == turned[-1, -1] == 255
    assert set(turned.ravel().tolist()) <= {0, 1, 2, 3, 4, 255}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_geometry_makes_up_no_labels_and_keeps_the_mask_type(dtype: type) -> None:
    mask = np.array([[0, 3], [255, 7]], dtype).repeat(9, 0).repeat(9, 1)
    image = np.zeros((18, 18, 3), np.uint8)
    steps = [
        RandomResize(ratio_range=(0.5, 2)),
        RandomRotate(p=1, degrees=30),
        RandomCrop(size=(8, 8), cat_max_ratio=1),
        RandomFlip(),
    ]
    for seed in range(10):
        _, new_mask = through(steps, image, mask, np.random.default_rng(seed))
        assert new_mask.dtype == dtype
        assert set(new_mask.ravel().tolist()) <= {0, 3, 7, 255}


@pytest.mark.parametrize(
    "step",
    [PhotometricDistortion(), RandomGamma(p=1.0), RandomGray(p=1.0), RandomBlur(p=1.0)],
    ids=lambda step: type(step).__name__,
)
def test_colour_steps_change_neither_mask_nor_input(step: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    mask = np.zeros((9, 11), np.uint8)
    before = image.copy()
    changed = 0
    for seed in range(8):
        new_image, new_mask = step(image, mask, context(np.random.default_rng(seed)))
        assert new_mask is mask
        assert new_image.dtype == np.uint8
        assert new_image.shape == image.shape
        changed += not np.array_equal(new_image, image)
    np.testing.assert_array_equal(image, before)
    assert changed >= 6


def test_the_same_generator_gives_the_same_result_after_a_flip_too() -> None:
    image, mask = labelled(30, 40, 3)
    steps = [
        RandomFlip(p=1.0),
        RandomResize(ratio_range=(0.5, 2)),
        RandomCrop(size=(16, 16), cat_max_ratio=0.75),
        RandomFlip(p=1.0),
        PhotometricDistortion(),
        RandomGamma(p=1),
        RandomGray(p=0.5),
        RandomBlur(p=1),
        RandomRotate(p=1, degrees=10),
    ]
    first, second = (through(steps, image, mask, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


# -- random resize: r ~ U, target (int(L r), int(S r)), the smaller factor, int(side * f + 0.5) -----------------------


OWN = None  # the photo's own size as the box


@pytest.mark.parametrize(
    ("size", "box", "r", "expected"),
    [
        # sizes are (height, width); f = min(long target / long side, short target / short side)
        ((427, 640), (2048, 512), 1.0, (512, 767)),  # min(3.2, 512/427): 427 f + 0.5 = 512.5, 640 f + 0.5 = 767.9
        ((640, 427), (2048, 512), 1.0, (767, 512)),  # the same photo upright
        ((427, 640), (2048, 512), 0.5, (256, 384)),  # min(1024/640, 256/427): 640 f + 0.5 = 384.2
        ((427, 640), (2048, 512), 1.37, (701, 1051)),  # targets int(2805.76), int(701.44): 640 * 701/427 + 0.5 = 1051.2
        ((100, 1000), (2048, 512), 1.0, (205, 2048)),  # the long side limits: min(2.048, 5.12); 100 f + 0.5 = 205.3
        ((360, 480), OWN, 1.0, (360, 480)),
        ((360, 480), OWN, 0.75, (270, 360)),
        ((355, 480), OWN, 0.51, (180, 244)),  # targets 244, 181: min(244/480, 181/355); 355 f + 0.5 = 180.96
        ((1, 5000), OWN, 0.5, (1, 2500)),  # no side falls below one pixel, nor drags the other down
        ((1, 1), OWN, 0.5, (1, 1)),
    ],
)
def test_resize_by_hand(
    size: tuple[int, int], box: tuple[int, int] | None, r: float, expected: tuple[int, int]
) -> None:
    step = RandomResize(box=box, ratio_range=(0.5, 2.0))
    image, mask = applied(step, np.zeros((*size, 3)), np.zeros(size), ("uniform", r))
    assert mask.shape == expected
    assert image.shape == (*expected, 3)


def test_resize_interpolates_the_image_and_picks_labels() -> None:
    image = np.array([[[0] * 3, [200] * 3]])
    new_image, new_mask = applied(RandomResize(ratio_range=(2, 2)), image, [[3, 9]], ("uniform", 2.0))
    assert new_image[0, :, 0].tolist() == [0, 50, 150, 200]  # centres at -0.25, 0.25, 0.75 and 1.25 of the old ones
    assert new_mask[0].tolist() == [3, 3, 9, 9]


# -- random crop: uniform offset; up to 10 retries while one class fills 75% ------------------------------------------


def test_crop_takes_the_offset_drawn() -> None:
    image, mask = labelled(6, 9, 0)
    new_image, new_mask = applied(
        RandomCrop(size=(4, 5), cat_max_ratio=1.0), image, mask, ("integers", 2), ("integers", 4)
    )  # the largest offsets there are
    np.testing.assert_array_equal(new_mask, mask[2:6, 4:9])
    np.testing.assert_array_equal(new_image, image[2:6, 4:9])


def test_a_side_shorter_than_the_crop_stays() -> None:
    image, mask = labelled(3, 9, 0)
    _, new_mask = applied(RandomCrop(size=(4, 5), cat_max_ratio=1.0), image, mask, ("integers", 0), ("integers", 1))
    np.testing.assert_array_equal(new_mask, mask[:, 1:6])


@pytest.mark.parametrize(
    ("window", "accepted"),
    [
        ([0, 0, 0, 1], False),  # 3 of 4 is not below 0.75
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 0], False),
        ([0, 255, 255, 255], False),  # one class only
        ([0, 1, 255, 255], True),  # unlabelled pixels do not count: 1 of 2
        ([0, 0, 0, 1, 255, 255], False),  # 3 of 4 labelled
        ([0, 0, 1, 255], True),  # 2 of 3
        ([255, 255, 255, 255], False),
        ([0, 0, 0, 1, 1], True),  # 3 of 5
    ],
)
def test_cat_max_ratio_by_hand(window: list[int], accepted: bool) -> None:
    """A second window is drawn where the first is not accepted."""
    size, varied = len(window), [0, 1] * 3
    mask = np.array([window + varied[:6]], np.uint8)
    draws = [("integers", 0), ("integers", 0)]
    if not accepted:
        draws += [("integers", 0), ("integers", 6)]
    image = np.repeat(mask[..., None], 3, axis=2)
    _, new_mask = applied(RandomCrop(size=(1, size), cat_max_ratio=0.75), image, mask, *draws)
    assert new_mask[0].tolist() == (window if accepted else mask[0, 6:].tolist())


def test_after_ten_retries_the_last_window_is_taken() -> None:
    mask = np.zeros((1, 20), np.uint8)
    image = np.arange(20, dtype=np.uint8)[None, :, None].repeat(3, 2)
    draws = [draw for column in range(11) for draw in (("integers", 0), ("integers", column))]
    new_image, _ = applied(RandomCrop(size=(1, 4), cat_max_ratio=0.75), image, mask, *draws)
    assert new_image[0, :, 0].tolist() == [10, 11, 12, 13]


def test_a_ratio_of_one_accepts_every_window() -> None:
    applied(
        RandomCrop(size=(1, 4), cat_max_ratio=1.0),
        np.zeros((1, 20, 3)),
        np.zeros((1, 20)),
        ("integers", 0),
        ("integers", 3),
    )


# -- flip -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drawn", "expected"), [(0.49, [3, 2, 1]), (0.5, [1, 2, 3])])
def test_flip_by_hand(drawn: float, expected: list[int]) -> None:
    image = np.array([[[1] * 3, [2] * 3, [3] * 3]])
    new_image, new_mask = applied(RandomFlip(p=0.5), image, [[1, 2, 3]], ("random", drawn))
    assert new_mask[0].tolist() == expected
    assert new_image[0, :, 0].tolist() == expected


# -- photometric distortion -------------------------------------------------------------------------------------------

YES, NO = ("random", 0.0), ("random", 0.99)
SKIP_REST = (NO, NO, NO, NO)  # contrast last, no saturation, no hue, no contrast


def distorted(color: list[int], *draws: tuple[str, Any]) -> list[int]:
    image, _ = applied(PhotometricDistortion(), np.array([[color]]), None, *draws)
    return [int(value) for value in image[0, 0]]


def near(color: list[int]) -> Any:
    """OpenCV's way to HSV and back may round a value up or down."""
    return pytest.approx(color, abs=1)


def test_without_luck_nothing_changes() -> None:
    assert distorted([10, 100, 240], NO, *SKIP_REST) == [10, 100, 240]


def test_brightness_is_clipped_and_truncated() -> None:
    assert distorted([10, 100, 240], YES, ("uniform", 31.9), *SKIP_REST) == [41, 131, 255]
    assert distorted([10, 100, 240], YES, ("uniform", -31.9), *SKIP_REST) == [0, 68, 208]


def test_contrast_early_or_late_but_once() -> None:
    early = distorted([10, 101, 240], NO, YES, YES, ("uniform", 0.5), NO, NO)
    late = distorted([10, 101, 240], NO, NO, NO, NO, YES, ("uniform", 0.5))
    assert early == late == [5, 50, 120]  # 50.5 is cut to 50
    assert distorted([10, 171, 240], NO, YES, YES, ("uniform", 1.5), NO, NO) == [15, 255, 255]
    assert distorted([10, 101, 240], NO, YES, NO, NO, NO) == [10, 101, 240]  # its turn, and no luck: no second chance


def test_brightness_comes_before_contrast_and_each_step_is_cut() -> None:
    draws = YES, ("uniform", 0.9), YES, YES, ("uniform", 1.5), NO, NO
    assert distorted([100, 100, 100], *draws) == [150, 150, 150]  # int(100.9) * 1.5, not int(100.9 * 1.5)


def test_saturation_scales_the_s_of_hsv() -> None:
    # (200, 100, 100): V = 200, S = 255 * 100 / 200 = 127.5, stored as 128; halved 64; low channels 200 * (1 - 64/255)
    assert distorted([200, 100, 100], NO, NO, YES, NO, ("uniform", 0.5), NO) == near([200, 150, 150])
    assert distorted([255, 0, 0], NO, NO, YES, NO, ("uniform", 1.5), NO) == near([255, 0, 0])
    assert distorted([80, 80, 80], NO, NO, YES, NO, ("uniform", 1.5), NO) == near([80, 80, 80])


def test_hue_turns_round_the_circle() -> None:
    assert distorted([255, 0, 0], NO, NO, NO, YES, ("integers", 15), NO) == near([255, 128, 0])  # 30 degrees: orange
    assert distorted([255, 0, 0], NO, NO, NO, YES, ("integers", -15), NO) == near([255, 0, 128])  # 0 - 15 is 165
    assert distorted([255, 0, 0], NO, NO, NO, YES, ("integers", -18), NO) == near([255, 0, 153])


def test_hue_and_saturation_are_drawn_in_this_order_around_one_conversion() -> None:
    assert distorted([255, 0, 0], NO, NO, YES, YES, ("uniform", 0.5), ("integers", 15), NO) == near([255, 191, 128])


def test_all_off_is_allowed() -> None:
    step = PhotometricDistortion(brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for seed in range(10):
        new_image, _ = step(image, np.zeros((8, 8), np.uint8), context(np.random.default_rng(seed)))
        assert np.abs(new_image.astype(int) - image).max() <= 6  # HSV in 8 bits does not come back exactly


def test_each_step_happens_half_of_the_time() -> None:
    image = np.full((1, 1, 3), (200, 100, 50), np.uint8)
    rng = np.random.default_rng(0)
    same = sum(
        np.array_equal(PhotometricDistortion()(image, image[..., 0], context(rng))[0], image) for _ in range(2000)
    )
    assert 0.04 < same / 2000 < 0.12  # 1/16 where all four coins fall, and a little where a value changes nothing


# -- gamma, grey, padding ---------------------------------------------------------------------------------------------


def test_gamma_keeps_black_and_white() -> None:
    image, _ = applied(RandomGamma(p=0.5), np.array([[[0, 64, 255]]]), None, ("random", 0.4), ("uniform", np.log(2.0)))
    assert image[0, 0].tolist() == [0, 16, 255]  # 255 * (64 / 255)^2 = 16.06


def test_gray_has_three_equal_channels() -> None:
    image, _ = applied(RandomGray(p=0.5), np.array([[[255, 0, 0], [0, 255, 0]]]), None, ("random", 0.4))
    assert image[0].tolist() == [[76] * 3, [150] * 3]  # Rec. 601


def test_padding_is_the_mean_colour_and_unlabelled() -> None:
    image, mask = np.ones((2, 3, 3), np.float32), np.ones((2, 3), np.uint8)
    padded, padded_mask = pad_to(image, mask, (4, 5), 255)
    assert padded.shape == (4, 5, 3)
    assert padded.dtype == np.float32
    assert padded_mask.tolist() == [[1, 1, 1, 255, 255]] * 2 + [[255] * 5] * 2
    assert (padded[:2, :3] == 1).all()
    assert padded.sum() == image.sum()
    same_image, same_mask = pad_to(image, mask, (2, 2), 255)
    assert same_image is image
    assert same_mask is mask
