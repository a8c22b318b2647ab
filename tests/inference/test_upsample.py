"""The mask and the probabilities against the literal way: resize every class, then argmax or softmax."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from terrazzo.errors import CheckpointError
from terrazzo.inference.tiling import Scores
from terrazzo.inference.upsample import argmax, boundary_cells
from terrazzo.inference.upsample.argmax import upsample_argmax
from terrazzo.inference.upsample.resize_axis import compose_axis

Floats = NDArray[np.float32]
Size = tuple[int, int]

# Relative to the logits' largest magnitude: what rounding in two float32 resizes can amount to.
ROUNDING = 1e-5


def scores(logits: Floats, sizes: list[Size]) -> Scores:
    """The logits of a whole image, to be resized to each size in turn."""
    rows, columns = (compose_axis(logits.shape[1 + axis], tuple(size[axis] for size in sizes)) for axis in (0, 1))
    return Scores(logits, rows, columns)


sides = st.one_of(st.just(1), st.integers(1, 24))
targets = st.one_of(st.just(1), st.integers(1, 90))
sizes_lists = st.lists(st.tuples(targets, targets), min_size=1, max_size=3)
class_counts = st.one_of(st.integers(1, 5), st.integers(1, 200))


def full_upsampling(logits_KHW: Floats, sizes: Sequence[Size]) -> Floats:
    x = torch.from_numpy(np.ascontiguousarray(logits_KHW, dtype=np.float32))[None]
    for size in sizes:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x[0].numpy()


def assert_is_argmax(mask: NDArray[np.unsignedinteger], logits_KHW: Floats, sizes: Sequence[Size]) -> None:
    full = full_upsampling(logits_KHW, sizes)
    expected = full.argmax(axis=0)
    assert mask.shape == expected.shape
    chosen = np.take_along_axis(full, mask[None].astype(np.int64), axis=0)[0]
    best = np.take_along_axis(full, expected[None], axis=0)[0]
    differs = mask != expected
    gap = (best - chosen)[differs]
    assert gap.size == 0 or gap.max() < ROUNDING * max(1, np.abs(logits_KHW).max())


def noise(seed: int, num_classes: int, height: int, width: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((num_classes, height, width), dtype=np.float32)


def regions(seed: int, num_classes: int, height: int, width: int) -> Floats:
    """Soft-edged patches over a smooth background, as trained networks give: few boundaries, two classes at most."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((num_classes, height // 8 + 2, width // 8 + 2), dtype=np.float32)
    background = full_upsampling(coarse, [(height, width)])
    label = rng.integers(0, num_classes, (height // 8 + 1, width // 8 + 1)).repeat(8, axis=0).repeat(8, axis=1)
    one_hot = (label[:height, :width] == np.arange(num_classes)[:, None, None]).astype(np.float32)
    return background + 8 * full_upsampling(one_hot, [(-(-height // 2), -(-width // 2)), (height, width)])


def steps(seed: int, num_classes: int, height: int, width: int) -> Floats:
    """Whole numbers from a narrow range: equal logits everywhere."""
    return np.random.default_rng(seed).integers(-3, 4, (num_classes, height, width)).astype(np.float32)


def corners(seed: int, num_classes: int, height: int, width: int) -> Floats:
    """A few classes that win by far, pixel by pixel: three and four of them meet in a cell, and no other comes near."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, min(num_classes, 5), (height, width))
    won = label == np.arange(num_classes)[:, None, None]
    return 8 * won + 0.3 * rng.standard_normal(won.shape, dtype=np.float32)


def planes(logits_KHW: Floats) -> Floats:
    return np.ascontiguousarray(logits_KHW)


def classes_last(logits_KHW: Floats) -> Floats:
    return np.ascontiguousarray(logits_KHW.transpose(1, 2, 0)).transpose(2, 0, 1)


def cut_out(logits_KHW: Floats) -> Floats:
    return np.pad(logits_KHW, 1)[1:-1, 1:-1, 1:-1]


orders = pytest.mark.parametrize("order", [planes, classes_last])


@settings(max_examples=100, deadline=None)
@given(
    make=st.sampled_from([noise, regions, corners, steps]),
    order=st.sampled_from([planes, classes_last, cut_out]),
    seed=st.integers(0, 2**32 - 1),
    num_classes=class_counts,
    height=sides,
    width=sides,
    sizes=sizes_lists,
)
def test_mask_is_the_argmax_of_fully_upsampled_logits(make, order, seed, num_classes, height, width, sizes):
    logits = order(make(seed, num_classes, height, width))
    before = logits.copy()
    assert_is_argmax(upsample_argmax(logits, sizes), logits, sizes)
    np.testing.assert_array_equal(logits, before)


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([noise, regions, corners]),
    order=st.sampled_from([planes, classes_last]),
    seed=st.integers(0, 2**32 - 1),
    strip=st.integers(1, 3000),
    at_once=st.integers(1, 40),
    sizes=sizes_lists,
)
def test_mask_does_not_depend_on_how_the_work_is_divided(make, order, seed, strip, at_once, sizes):
    logits = order(make(seed, 9, 17, 23))
    whole = upsample_argmax(logits, sizes)
    with (
        mock.patch.object(argmax, "_STRIP_FLOATS", strip),
        mock.patch.object(boundary_cells, "_PART_FLOATS", 256),
        mock.patch.object(boundary_cells, "_ROWS_AT_ONCE", at_once),
        mock.patch.object(boundary_cells, "_PLANE_AT_ONCE", at_once),
        mock.patch.object(boundary_cells, "_FEW_CLASSES", at_once % 2 * 100),
    ):
        np.testing.assert_array_equal(upsample_argmax(logits, sizes), whole)


@orders
@pytest.mark.parametrize("sizes", [[(96, 128)], [(96, 128), (211, 301)], [(96, 128), (50, 40)]])
def test_mask_of_smooth_regions_at_usual_sizes(order, sizes):
    logits = order(regions(3, 40, 24, 32))
    mask = upsample_argmax(logits, sizes)
    assert_is_argmax(mask, logits, sizes)
    assert len(np.unique(mask)) > 5


@pytest.mark.parametrize("num_classes", [4, 60])
@pytest.mark.parametrize("winners", [[0, 1, 2, 0], [0, 1, 2, 3], [2, 2, 0, 1], [3, 0, 0, 2]])
def test_three_and_four_classes_that_meet_in_a_cell(num_classes: int, winners: list[int]) -> None:
    """Each wins its corner by far, and no other class comes near: nobody but the corners' winners is a candidate."""
    logits = np.zeros((num_classes, 2, 2), np.float32)
    logits.reshape(num_classes, 4)[winners, range(4)] = [8, 7, 6, 5]
    expected = full_upsampling(logits, [(9, 11)]).argmax(axis=0)
    assert set(np.unique(expected)) == set(winners)
    for order in (logits, np.ascontiguousarray(logits.transpose(1, 2, 0)).transpose(2, 0, 1)):
        np.testing.assert_array_equal(upsample_argmax(order, [(9, 11)]), expected)


@pytest.mark.parametrize("num_classes", [2, 60])
@pytest.mark.parametrize("lower", ["left", "right"])
def test_half_way_between_two_winners_the_lower_class_wins(num_classes: int, lower: str) -> None:
    """Two pixels made three: the middle one is their mean, in which the two classes are equal."""
    logits = np.zeros((num_classes, 1, 2), np.float32)
    logits[0, 0, 0] = logits[1, 0, 1] = 8
    if lower == "right":
        logits = logits[:, :, ::-1].copy()
    expected = [0, 0, 1] if lower == "left" else [1, 0, 0]
    for order in (logits, np.ascontiguousarray(logits.transpose(1, 2, 0)).transpose(2, 0, 1)):
        assert upsample_argmax(order, [(1, 3)]).tolist() == [expected]


@settings(max_examples=50, deadline=None)
@given(
    order=st.sampled_from([planes, classes_last]),
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(2, 8),
    height=sides,
    width=sides,
    factors=st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=2),
)
def test_ties_within_a_cell_go_to_the_lowest_class(order, seed, num_classes, height, width, factors):
    """Whole numbers and weights in eighths leave nothing to round, so the masks are equal, ties included."""
    logits = order(steps(seed, num_classes, height, width))
    scales = np.cumprod(factors)
    sizes = [(height * int(scale), width * int(scale)) for scale in scales]
    expected = full_upsampling(logits, sizes).argmax(axis=0)
    np.testing.assert_array_equal(upsample_argmax(logits, sizes), expected)


@orders
@pytest.mark.parametrize("make", [noise, regions])
def test_of_exactly_tied_classes_the_lowest_wins(order, make):
    half = make(5, 20, 12, 15)
    logits = order(np.concatenate([half, half]))
    sizes = [(48, 60), (77, 131)]
    mask = upsample_argmax(logits, sizes)
    assert mask.max() < 20
    np.testing.assert_array_equal(mask, upsample_argmax(order(half), sizes))


@pytest.mark.parametrize(("num_classes", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (300, np.uint16)])
@orders
def test_mask_dtype_holds_every_class_and_the_ignore_value(order, num_classes, dtype):
    logits = np.zeros((num_classes, 20, 20), np.float32)
    logits.reshape(num_classes, -1)[np.arange(400) % num_classes, np.arange(400)] = 9
    mask = upsample_argmax(order(logits), [(80, 80)])
    assert mask.dtype == dtype
    assert_is_argmax(mask, logits, [(80, 80)])
    assert mask.max() == num_classes - 1


@orders
def test_sizes_that_change_nothing_give_the_plain_argmax(order):
    logits = order(noise(7, 30, 13, 11))
    for sizes in ([], [(13, 11)], [(13, 11), (13, 11)]):
        np.testing.assert_array_equal(upsample_argmax(logits, sizes), logits.argmax(axis=0))


def test_other_float_types_are_converted():
    logits = noise(8, 6, 9, 9)
    expected = upsample_argmax(logits.astype(np.float16).astype(np.float32), [(30, 30)])
    np.testing.assert_array_equal(upsample_argmax(logits.astype(np.float16), [(30, 30)]), expected)


@orders
@pytest.mark.parametrize("num_classes", [3, 60])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(order, num_classes, value):
    logits = regions(9, num_classes, 16, 16)
    logits[num_classes - 1, 11, 4] = value
    resized = scores(order(logits), [(64, 64)])
    for function in (resized.mask, resized.probabilities, resized.confidence):
        with pytest.raises(CheckpointError) as caught:
            function()
        assert caught.value.code == "logits-not-finite"
        assert caught.value.fix


@orders
def test_a_contender_at_minus_infinity_is_refused_and_a_class_that_never_wins_is_not(order):
    logits = noise(10, 40, 12, 12)
    logits[4] = -np.inf
    kept = np.delete(logits, 4, axis=0)
    mask = upsample_argmax(order(kept), [(48, 48)])
    np.testing.assert_array_equal(upsample_argmax(order(logits), [(48, 48)]), mask + (mask >= 4))
    logits[4, 6] = 100
    with pytest.raises(CheckpointError):
        upsample_argmax(order(logits), [(48, 48)])


@orders
def test_memory_is_a_small_multiple_of_the_mask_for_a_third_of_a_4k_image(order):
    rng = np.random.default_rng(11)
    coarse = 4 * rng.standard_normal((150, 15, 80), dtype=np.float32)
    logits = order(coarse.repeat(12, axis=1).repeat(12, axis=2))
    tracemalloc.start()
    mask = upsample_argmax(logits, [(720, 3840)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(mask)) > 100
    assert peak < 200e6 / 3  # all classes at full size would be 1659e6 bytes


def test_memory_stays_bounded_where_every_class_competes_everywhere():
    logits = classes_last(noise(12, 150, 8, 60))
    tracemalloc.start()
    upsample_argmax(logits, [(32, 240), (200, 800)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # all classes at full size would be 96e6 bytes


@settings(max_examples=50, deadline=None)
@given(
    order=st.sampled_from([planes, classes_last, cut_out]),
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(1, 30),
    height=sides,
    width=sides,
    sizes=sizes_lists,
    strip=st.sampled_from([1, 5000, 1 << 20]),
)
def test_probabilities_are_the_softmax_of_resized_logits(order, seed, num_classes, height, width, sizes, strip):
    logits = order(3 * noise(seed, num_classes, height, width))
    expected = torch.from_numpy(full_upsampling(logits, sizes)).softmax(dim=0).numpy()
    with mock.patch.object(argmax, "_PROBABILITY_FLOATS", strip):
        probabilities = scores(logits, sizes).probabilities()
        highest, entropy = scores(logits, sizes).confidence()
    assert probabilities.dtype == highest.dtype == entropy.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=2e-5)
    np.testing.assert_allclose(highest, expected.max(axis=0), atol=2e-5)
    bits = -(expected * np.log(np.maximum(expected, 1e-30))).sum(axis=0)
    np.testing.assert_allclose(entropy, bits / np.log(max(2, num_classes)), atol=1e-4)


def test_probability_strips_come_in_order_and_stay_small():
    logits = noise(13, 10, 20, 30)
    whole = scores(logits, [(200, 300)]).probabilities()
    with mock.patch.object(argmax, "_PROBABILITY_FLOATS", 10 * 300 * 7):
        strips = list(scores(logits, [(200, 300)]).probability_strips())
    assert [top for top, _ in strips] == list(range(0, 200, 7))
    assert all(strip.shape[1] <= 7 for _, strip in strips)
    np.testing.assert_array_equal(np.concatenate([strip for _, strip in strips], axis=1), whole)


def test_confidence_of_certain_and_of_undecided_pixels():
    logits = np.zeros((4, 2, 8), np.float32)
    logits[2, :, 4:] = 1000
    highest, entropy = scores(logits, [(2, 8)]).confidence()
    np.testing.assert_allclose(highest[:, :4], 0.25)
    np.testing.assert_allclose(entropy[:, :4], 1, atol=1e-6)
    np.testing.assert_allclose(highest[:, 4:], 1)
    np.testing.assert_allclose(entropy[:, 4:], 0, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(source=st.integers(1, 300), target=st.integers(1, 1000))
def test_weights_of_one_resize_are_those_of_torch_to_the_bit(source, target):
    axis = compose_axis(source, (target,))
    stripes = (np.arange(source) % 2).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(stripes)[None, None, None], (1, target), mode="bilinear")[0, 0, 0]
    taps_TO = axis.taps_TG[:, axis.group_O]
    np.testing.assert_array_equal((stripes[taps_TO] * axis.weights_TO).sum(axis=0), expected.numpy())


@settings(max_examples=100, deadline=None)
@given(source=st.integers(1, 60), chain=st.lists(st.integers(1, 200), min_size=0, max_size=3))
def test_composed_axis_is_one_resize_after_the_other(source, chain):
    axis = compose_axis(source, tuple(chain))
    values = np.random.default_rng(source).standard_normal(source).astype(np.float32)
    expected = full_upsampling(values[None, None], [(1, target) for target in chain])[0, 0]
    taps_TO = axis.taps_TG[:, axis.group_O]
    assert axis.length == axis.group_O.size == expected.size
    np.testing.assert_allclose((values[taps_TO] * axis.weights_TO).sum(axis=0), expected, atol=1e-5)
    np.testing.assert_allclose(axis.weights_TO.sum(axis=0), 1, atol=1e-6)
    assert (axis.weights_TO >= 0).all()
    for group, (start, stop) in enumerate(zip(axis.start_G, axis.start_G[1:], strict=False)):
        assert set(axis.outputs_PG[:, group]) == set(range(start, stop))
        taps, outputs = axis.kinds[axis.kind_G[group]]
        assert stop - start <= outputs
        assert not axis.weights_TO[taps:, start:stop].any()
