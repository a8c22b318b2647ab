"""Boundary IoU against counts made by hand and against the paper's definition, one eroded mask after the other."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.errors import DatasetError, LabelError
from terrazzo.evaluation.boundary import BoundaryIoU

IGNORE = 255


def band_by_definition(mask_HW: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask that vanish when it is eroded `width` times, in an image surrounded by background."""
    framed = np.pad(mask_HW.astype(np.uint8), 1)
    return mask_HW & (cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1] == 0)


def counts_by_definition(
    prediction: NDArray[np.generic], label: NDArray[np.generic], K: int, ignore: int, ratio: float
) -> tuple[list[int], list[int]]:
    width = max(1, round(ratio * float(np.hypot(*label.shape))))
    counted = label != ignore
    intersections, unions = [], []
    for k in range(K):
        a = band_by_definition((label == k) & counted, width)
        b = band_by_definition((prediction == k) & counted, width)
        intersections.append(int((a & b).sum()))
        unions.append(int((a | b).sum()))
    return intersections, unions


def test_by_hand() -> None:
    # 5 x 5, all of class 0: with bands one pixel wide, the band is the frame's 16 pixels.
    label = np.zeros((5, 5), np.uint8)
    # The prediction has class 1 in the middle. Its only pixel is its band. Class 0 is now a ring two pixels wide, whose
    # 16 outer pixels touch the frame and whose 8 inner ones touch class 1: its band has all 24.
    prediction = label.copy()
    prediction[2, 2] = 1
    boundary = BoundaryIoU(3, IGNORE)
    boundary.update(prediction, label)
    assert boundary.intersection.tolist() == [16, 0, 0]
    assert boundary.union.tolist() == [24, 1, 0]
    metrics = boundary.metrics()
    # Class 1 is predicted but not labelled: 0, and counts. Class 2 is in neither map: left out.
    np.testing.assert_allclose(metrics.iou, [100 * 16 / 24, 0.0, np.nan])
    assert metrics.mIoU == pytest.approx((100 * 16 / 24 + 0) / 2)
    assert metrics.dilation_ratio == 0.02


def test_the_width_follows_the_diagonal() -> None:
    # 30 x 40 has a diagonal of 50: a ratio of 0.05 is 2.5 pixels, and round() makes that 2, as the authors' code does.
    label = np.zeros((30, 40), np.uint8)
    boundary = BoundaryIoU(1, IGNORE, dilation_ratio=0.05)
    boundary.update(label, label)
    assert boundary.union.tolist() == [30 * 40 - 26 * 36]


def test_boundary_iou_sees_what_iou_hardly_does() -> None:
    label = np.zeros((200, 200), np.uint8)
    label[40:160, 40:160] = 1
    prediction = np.zeros_like(label)
    prediction[43:157, 43:157] = 1  # 3 pixels short on every side
    boundary = BoundaryIoU(2, IGNORE)
    boundary.update(prediction, label)
    iou = 114**2 / 120**2
    # d = round(0.02 * 282.8) = 6: bands from 120 down to 108 and from 114 down to 102 overlap from 114 to 108.
    expected = (114**2 - 108**2) / (120**2 - 102**2)
    assert boundary.metrics().iou[1] == pytest.approx(100 * expected)
    assert expected < iou / 2


def test_ignored_pixels_are_removed_from_both() -> None:
    label = np.array([[0, 0, 0, IGNORE, 1, 1]] * 6, np.uint8)
    right_where_it_counts = np.where(label == IGNORE, 1, label).astype(np.uint8)
    boundary = BoundaryIoU(2, IGNORE)
    boundary.update(right_where_it_counts, label)
    assert boundary.metrics().mIoU == 100.0, "what is predicted under an ignored label changes nothing"
    # Of class 0, 6 x 3, all but the inner 4 x 1 are on the band; of class 1, 6 x 2, everything.
    assert boundary.union.tolist() == [14, 12]


@pytest.mark.parametrize("label", [np.full((4, 4), IGNORE, np.uint8), np.zeros((0, 4), np.uint8)])
def test_nothing_to_count(label: NDArray[np.uint8]) -> None:
    boundary = BoundaryIoU(2, IGNORE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boundary.update(np.zeros_like(label), label)
        metrics = boundary.metrics()
    assert np.isnan(metrics.iou).all() and np.isnan(metrics.mIoU)


def test_one_pixel() -> None:
    boundary = BoundaryIoU(2, IGNORE)
    boundary.update(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert (boundary.intersection.tolist(), boundary.union.tolist()) == ([1, 0], [1, 0])


@settings(max_examples=80, deadline=None)
@given(
    K=st.sampled_from([1, 2, 5, 255, 300]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ratio=st.sampled_from([0.005, 0.02, 0.05, 0.1, 0.4, 0.9]),
    coarse=st.integers(1, 12),
    ignored=st.sampled_from([0.0, 0.02, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_definition(
    K: int, shape: tuple[int, int], ratio: float, coarse: int, ignored: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dtype, ignore = (np.uint8, 255) if K <= 255 else (np.uint16, 65535)
    few = rng.integers(0, K, 3)

    def regions() -> NDArray[np.integer]:
        blocks = rng.choice(few, (-(-shape[0] // coarse), -(-shape[1] // coarse))).astype(dtype)
        return np.kron(blocks, np.ones((coarse, coarse), dtype))[: shape[0], : shape[1]]

    label = regions()
    prediction = np.where(rng.random(shape) < 0.7, label, regions())
    label[rng.random(shape) < ignored] = ignore
    boundary = BoundaryIoU(K, ignore, ratio)
    boundary.update(prediction, label)
    expected = counts_by_definition(prediction, label, K, ignore, ratio)
    assert (boundary.intersection.tolist(), boundary.union.tolist()) == expected


def test_merging_equals_updating_together() -> None:
    rng = np.random.default_rng(0)
    together, first, second = (BoundaryIoU(4, IGNORE) for _ in range(3))
    for i in range(4):
        prediction, label = rng.integers(0, 4, (2, 20, 30 + i), np.uint8)
        together.update(prediction, label)
        (first if i % 2 else second).update(prediction, label)
    first.merge(second)
    np.testing.assert_array_equal(first.intersection, together.intersection)
    np.testing.assert_array_equal(first.union, together.union)


def test_refusals() -> None:
    boundary = BoundaryIoU(2, IGNORE)
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(DatasetError, match="shape"):
        boundary.update(zeros, np.zeros((2, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"7 \(4 px\)"):
        boundary.update(zeros, zeros + np.uint8(7))
    with pytest.raises(LabelError, match=r"2 \(4 px\)"):
        boundary.update(zeros + np.uint8(2), zeros)
    assert boundary.union.sum() == 0
    with pytest.raises(ValueError, match="ratio"):
        BoundaryIoU(2, IGNORE, dilation_ratio=0)
    with pytest.raises(ValueError, match="ignore index"):
        BoundaryIoU(2, 0)
    with pytest.raises(ValueError, match="merged"):
        boundary.merge(BoundaryIoU(2, IGNORE, dilation_ratio=0.1))
