"""The confusion matrix and its metrics, against counts made by hand and by a slow double loop."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.errors import DatasetError, LabelError, TerrazzoError
from terrazzo.evaluation import confusion
from terrazzo.evaluation.confusion import ConfusionMatrix, Metrics, joint_histogram

IGNORE = 255


def u8(*rows: list[int]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)


def count(prediction: NDArray[np.generic], label: NDArray[np.generic], K: int, ignore: int = IGNORE) -> ConfusionMatrix:
    matrix = ConfusionMatrix(K, ignore)
    matrix.update(prediction, label)
    return matrix


def test_by_hand() -> None:
    # Class 3 is in neither map. Class 2 is predicted once and never labelled. Two labels are ignored, and what is
    # predicted there (0 and 1) must not count.
    label = u8([0, 0, 0, 1], [1, 1, IGNORE, IGNORE])
    prediction = u8([0, 0, 1, 1], [1, 2, 0, 1])
    matrix = count(prediction, label, 4)
    #                    predicted:  0  1  2  3
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.counts.dtype == np.int64

    metrics = matrix.metrics()
    # IoU = I / (P + L - I):          2/(2+3-2)  2/(3+3-2)  0/(1+0-0)  0/0
    np.testing.assert_allclose(metrics.iou, [100 * 2 / 3, 50.0, 0.0, np.nan])
    np.testing.assert_allclose(metrics.accuracy, [100 * 2 / 3, 100 * 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(metrics.precision, [100.0, 100 * 2 / 3, 0.0, np.nan])
    np.testing.assert_allclose(metrics.dice, [100 * 4 / 5, 100 * 4 / 6, 0.0, np.nan])
    assert metrics.label_pixels.tolist() == [3, 3, 0, 0]
    assert metrics.predicted_pixels.tolist() == [2, 3, 1, 0]
    assert metrics.mIoU == pytest.approx((200 / 3 + 50 + 0) / 3)  # class 2 counts, class 3 is left out
    assert metrics.mAcc == pytest.approx(200 / 3)  # over classes 0 and 1
    assert metrics.aAcc == pytest.approx(100 * 4 / 6)


def test_counts_are_summed_over_images_before_dividing() -> None:
    matrix = ConfusionMatrix(2, IGNORE)
    matrix.update(u8([0, 1]), u8([0, 0]))  # IoU of class 0 in this image: 1/2
    matrix.update(u8([0, 0, 0]), u8([0, 0, 0]))  # and in this one: 1
    assert matrix.metrics().iou[0] == pytest.approx(100 * 4 / 5)  # not the mean of the two


def test_perfect_prediction() -> None:
    label = u8([0, 1, 2], [2, IGNORE, 1])
    metrics = count(np.where(label == IGNORE, 0, label).astype(np.uint8), label, 3).metrics()
    assert (metrics.mIoU, metrics.mAcc, metrics.aAcc) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize("label", [np.full((3, 4), IGNORE, np.uint8), np.zeros((0, 5), np.uint8)])
def test_nothing_to_count(label: NDArray[np.uint8]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix = count(np.zeros_like(label), label, 3)
        metrics = matrix.metrics()
    assert matrix.counts.sum() == 0
    assert np.isnan([metrics.mIoU, metrics.mAcc, metrics.aAcc]).all()
    for values in (metrics.iou, metrics.accuracy, metrics.precision, metrics.dice):
        assert np.isnan(values).all()


def test_no_update_at_all() -> None:
    assert np.isnan(ConfusionMatrix(2, IGNORE).metrics().mIoU)


def test_predictions_under_ignored_labels_may_be_anything() -> None:
    assert count(u8([0, 200, 255]), u8([0, IGNORE, IGNORE]), 2).counts.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_every_integer_type(dtype: type) -> None:
    label = np.array([[0, 1, 2, IGNORE]], dtype)
    for prediction in (np.array([[0, 1, 1, 0]], dtype), np.array([[0, 1, 1, 0]], np.uint8)):
        assert count(prediction, label, 3).counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_bool_maps_are_two_classes() -> None:
    assert count(np.array([[True, False]]), np.array([[True, True]]), 2).counts.tolist() == [[0, 0], [1, 1]]


def test_a_negative_ignore_index() -> None:
    assert count(np.array([[0, 1]]), np.array([[0, -100]]), 2, ignore=-100).counts.tolist() == [[1, 0], [0, 0]]


def test_more_classes_than_a_byte_holds() -> None:
    label = np.array([[0, 255, 256, 299, 65535]], np.uint16)
    prediction = np.array([[0, 255, 299, 299, 7]], np.uint16)
    counts = count(prediction, label, 300, ignore=65535).counts
    assert counts.sum() == 4
    assert counts[0, 0] == counts[255, 255] == counts[256, 299] == counts[299, 299] == 1


def test_non_contiguous_maps() -> None:
    label = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    assert count(label[::2, ::-1], label[::2, ::-1], 3).counts.trace() == 12


def test_counts_beyond_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # cv2.calcHist answers in float32; the strips keep it exact. Small strips show that none is lost or doubled.
    monkeypatch.setattr(confusion, "_EXACT_IN_FLOAT32", 7)
    maps = np.random.default_rng(0).integers(0, 3, (2, 10, 10), np.uint8)
    counts = joint_histogram(maps[0], maps[1], 3)
    assert counts.sum() == 100
    assert counts[1, 2] == ((maps[0] == 1) & (maps[1] == 2)).sum()
    monkeypatch.undo()
    one_class = np.zeros((4097, 4097), np.uint8)  # 16785409 = 2^24 + 8193 is odd, which float32 cannot hold
    assert joint_histogram(one_class, one_class, 1)[0, 0] == 4097 * 4097


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, int, list[tuple[NDArray[np.integer], NDArray[np.integer]]]]:
    K = draw(st.sampled_from([1, 2, 3, 19, 150, 255, 256, 300]))
    ignore = 255 if K <= 255 else 65535
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int64])) if K <= 255 else np.uint16
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        used = rng.integers(0, K, max(1, K // 2))  # so that some classes stay absent
        label = np.where(rng.random(shape) < 0.2, ignore, rng.choice(used, shape)).astype(dtype)
        pairs.append((rng.integers(0, K, shape).astype(dtype), label))
    return K, ignore, pairs


@settings(max_examples=60, deadline=None)
@given(maps())
def test_equals_a_double_loop(case: tuple[int, int, list[tuple[NDArray[np.integer], NDArray[np.integer]]]]) -> None:
    K, ignore, pairs = case
    matrix = ConfusionMatrix(K, ignore)
    counts: dict[tuple[int, int], int] = {}
    for prediction, label in pairs:
        matrix.update(prediction, label)
        for y in range(label.shape[0]):
            for x in range(label.shape[1]):
                if label[y, x] != ignore:
                    cell = int(label[y, x]), int(prediction[y, x])
                    counts[cell] = counts.get(cell, 0) + 1
    assert {(int(r), int(c)): int(matrix.counts[r, c]) for r, c in zip(*matrix.counts.nonzero(), strict=True)} == counts

    ious = []
    for k in range(K):
        hit = counts.get((k, k), 0)
        union = sum(n for cell, n in counts.items() if k in cell)
        if union:
            ious.append(100 * hit / union)
    expected = sum(ious) / len(ious) if ious else float("nan")
    assert matrix.metrics().mIoU == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(maps())
def test_merging_equals_updating_together(
    case: tuple[int, int, list[tuple[NDArray[np.integer], NDArray[np.integer]]]],
) -> None:
    K, ignore, pairs = case
    together, first, second = (ConfusionMatrix(K, ignore) for _ in range(3))
    for i, (prediction, label) in enumerate(pairs):
        together.update(prediction, label)
        (second if i % 2 else first).update(prediction, label)
    first.merge(second)
    np.testing.assert_array_equal(first.counts, together.counts)


def test_metrics_do_not_change_with_later_updates() -> None:
    matrix = count(u8([0, 1]), u8([0, 1]), 2)
    metrics = matrix.metrics()
    matrix.update(u8([0, 1]), u8([1, 0]))
    assert metrics.mIoU == 100.0 and metrics.label_pixels.tolist() == [1, 1]


def test_metrics_of_large_counts() -> None:
    metrics = Metrics.from_counts(np.array([[2**53, 0], [2**53, 0]]))
    assert metrics.iou[0] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("prediction", "label", "error", "code", "words"),
    [
        (u8([0, 1]), u8([0, 1], [0, 1]), DatasetError, "mask-size", ["(1, 2)", "(2, 2)"]),
        (np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8), DatasetError, "mask-size", ["(1, 2, 2)"]),
        (np.zeros((2, 2), np.float32), u8([0, 1], [0, 1]), DatasetError, "mask-type", ["prediction", "float32"]),
        (u8([0, 1]), np.array([[0.0, np.nan]]), DatasetError, "mask-type", ["label", "float64"]),
        (u8([0, 1, 1]), u8([7, 7, 9]), DatasetError, "mask-values", ["7 (2 px)", "9 (1 px)", "3 classes", "255"]),
        (u8([0, 1]), np.array([[0, -1]]), DatasetError, "mask-values", ["-1 (1 px)"]),
        (u8([0, 40]), u8([0, 1]), LabelError, "labels-mismatch", ["40 (1 px)", "3 classes"]),
        (u8([0, IGNORE]), u8([0, 1]), LabelError, "labels-mismatch", ["255 (1 px)"]),
        (np.array([[0, -1]]), u8([0, 1]), LabelError, "labels-mismatch", ["-1 (1 px)"]),
    ],
)
def test_refusals_name_what_is_wrong_and_count_nothing(
    prediction: NDArray[np.generic], label: NDArray[np.generic], error: type[TerrazzoError], code: str, words: list[str]
) -> None:
    matrix = ConfusionMatrix(3, IGNORE)
    with pytest.raises(error) as caught:
        matrix.update(prediction, label)
    assert caught.value.code == code and caught.value.fix
    assert all(word in caught.value.message for word in words), caught.value.message
    assert matrix.counts.sum() == 0


def test_a_long_list_of_unknown_values_is_cut() -> None:
    with pytest.raises(DatasetError, match="and 12 more") as caught:
        count(np.zeros((1, 20), np.uint8), np.arange(100, 120, dtype=np.uint8)[None], 3)
    assert len(caught.value.message) < 250 and "108" not in caught.value.message


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="ignore index 1"):
        ConfusionMatrix(2, 1)
    with pytest.raises(ValueError, match="classes"):
        ConfusionMatrix(0, IGNORE)
    with pytest.raises(ValueError, match="merged"):
        ConfusionMatrix(2, IGNORE).merge(ConfusionMatrix(3, IGNORE))
