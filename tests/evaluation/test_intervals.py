"""Bootstrap intervals, against resamples that are counted out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from terrazzo.evaluation.confusion import ConfusionMatrix, Metrics
from terrazzo.evaluation.intervals import ImageCounts, bootstrap, image_row, percentile_interval, resampled_iou


def counts_of(*matrices: list[list[int]]) -> ImageCounts:
    rows = []
    for matrix in matrices:
        confusion = ConfusionMatrix(len(matrix), 255)
        confusion.counts += np.array(matrix)
        rows.append(image_row(confusion))
    return ImageCounts.of(rows)


def test_every_resample_is_scored_by_the_rules_of_the_whole_set() -> None:
    # Class 0: 8 of 10 in the first image, 1 of 3 in the second; class 1 lacks in the first one altogether.
    matrices = [[8, 0, 0], [2, 0, 0], [0, 0, 0]], [[1, 2, 0], [0, 5, 0], [0, 0, 0]]
    counts = counts_of(*matrices)
    iou_RK = resampled_iou(counts, resamples=64)
    twice_first, both, twice_second = (
        Metrics.from_counts(a * np.array(matrices[0]) + b * np.array(matrices[1])).iou
        for a, b in ((2, 0), (1, 1), (0, 2))
    )
    assert twice_first[:2].tolist() == [80.0, 0.0]
    assert both[0] == pytest.approx(100 * 9 / 13) and np.isnan(both[2])
    possible = [twice_first, both, twice_second]
    seen = [next(k for k, iou in enumerate(possible) if np.array_equal(row, iou, equal_nan=True)) for row in iou_RK]
    assert set(seen) == {0, 1, 2}
    assert np.bincount(seen).argmax() == 1  # half of all draws have both images


def test_the_interval_is_the_middle_95_per_cent() -> None:
    assert percentile_interval(np.arange(1001.0)) == (25.0, 975.0)
    assert percentile_interval(np.array([1.0, np.nan, 3.0])) == pytest.approx((1.05, 2.95))
    assert all(np.isnan(percentile_interval(np.array([np.nan]))))


def test_equal_images_leave_no_doubt_and_one_image_tells_nothing() -> None:
    same = bootstrap(counts_of(*[[[8, 0], [2, 10]]] * 5))
    assert same is not None
    assert same.mIoU == pytest.approx((50 * (8 / 10 + 10 / 12),) * 2)
    assert same.iou_K2.tolist() == pytest.approx(np.array([[80.0, 80.0], [1000 / 12, 1000 / 12]]))
    assert bootstrap(counts_of([[8, 0], [2, 10]])) is None


def test_a_standard_error_that_is_known() -> None:
    # 400 images, each wholly right or wholly wrong: the share of right ones has a deviation of 100 * sqrt(p q / n).
    right = [1] * 300 + [0] * 100
    counts = counts_of(*[[[one, 0], [1 - one, 0]] for one in right])
    found = bootstrap(counts)
    assert found is not None
    low, high = found.iou_K2[0]
    deviation = 100 * np.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((75 - 1.96 * deviation, 75 + 1.96 * deviation), abs=0.6)


def test_the_draws_are_the_same_every_time_and_for_every_model() -> None:
    rng = np.random.default_rng(0)
    matrices = [rng.integers(0, 9, (2, 2)).tolist() for _ in range(7)]
    counts = counts_of(*matrices)
    assert np.array_equal(resampled_iou(counts), resampled_iou(counts))
    doubled = counts_of(*[(3 * np.array(matrix)).tolist() for matrix in matrices])
    assert np.array_equal(resampled_iou(counts), resampled_iou(doubled))  # IoU has no scale: equal only if paired
    assert not np.array_equal(resampled_iou(counts), resampled_iou(counts, seed=1))


def test_blocks_of_resamples_are_drawn_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counts_of(*[[[k, 1], [0, 3]] for k in range(5)])
    at_once = resampled_iou(counts, resamples=50)
    monkeypatch.setattr("terrazzo.evaluation.intervals.FLOATS_AT_ONCE", 35)
    in_blocks = resampled_iou(counts, resamples=50)
    assert np.array_equal(in_blocks, at_once) and len(set(in_blocks[:, 0])) > 5


def test_groups_are_drawn_whole() -> None:
    counts = counts_of([[4, 0], [0, 1]], [[0, 2], [0, 1]], [[1, 0], [1, 0]]).grouped(["b", "a", "b"])
    assert counts.unit == "groups"
    assert counts.hits_NK.tolist() == [[0, 1], [5, 1]]
    assert counts.label_NK.tolist() == [[2, 1], [5, 2]]
    assert counts.predicted_NK.tolist() == [[0, 3], [6, 1]]


def test_classes_in_another_order() -> None:
    counts = counts_of([[4, 1], [0, 2]])
    assert counts.in_order([1, 0]).hits_NK.tolist() == [[2, 4]]
    assert counts.scores() == [pytest.approx(50 * (4 / 5 + 2 / 3))]
