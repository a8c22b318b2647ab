"""The confusion matrix of a whole set, and the metrics of segmentation that follow from it.

Rules, as in the papers' protocol. Counts are summed over all images before anything is divided. A pixel whose *label*
is the ignore index is removed from labels and predictions alike. A class that is in neither labels nor predictions has
no IoU (NaN) and is left out of the mean; one that is absent from the labels but predicted has IoU 0, and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import DatasetError, LabelError

__all__ = ["ConfusionMatrix", "Metrics", "joint_histogram", "labelled_maps", "percent", "present_mean", "score_text"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
ClassMap = NDArray[Any]

# cv2.calcHist answers in float32, which counts exactly up to here.
_EXACT_IN_FLOAT32 = 2**24


class ConfusionMatrix:
    """How many pixels of each class were predicted as each class, over all images seen.

    Attributes:
        counts: (K, K) int64; row = label, column = prediction. To join the ranks of a distributed run, sum it over
            them in place.

    Args:
        num_classes: K.
        ignore_index: the label of pixels that do not count.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        if num_classes < 1 or 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore index {ignore_index} is not outside the {num_classes} classes")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts: IntArray = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction_HW: ClassMap, label_HW: ClassMap) -> None:
        """Add one image.

        Args:
            prediction_HW: class indices; what is predicted where the label is ignored does not matter.
            label_HW: class indices and the ignore index, of the same size.

        Raises:
            DatasetError: the maps do not fit together, or a label is not a class.
            LabelError: a prediction is not a class.
        """
        K = self.num_classes
        _check_maps(prediction_HW, label_HW)
        if label_HW.dtype == prediction_HW.dtype == np.uint8:
            # Count first, and look at single pixels only where fewer were counted than have a label.
            counts_KK = joint_histogram(label_HW, prediction_HW, K)
            if counts_KK.sum() == np.count_nonzero(label_HW != self.ignore_index):
                self.counts += counts_KK
                return
        prediction_HW, label_HW = labelled_maps(prediction_HW, label_HW, K, self.ignore_index)
        self.counts += joint_histogram(label_HW, prediction_HW, K)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the images that another matrix of the same classes has seen."""
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise ValueError("confusion matrices of different classes cannot be merged")
        self.counts += other.counts

    def metrics(self) -> Metrics:
        return Metrics.from_counts(self.counts)


@dataclass(frozen=True, eq=False)
class Metrics:
    """Metrics in percent, unrounded; NaN where there is nothing to divide by. K is the number of classes.

    Attributes:
        iou: (K,) intersection over union.
        accuracy: (K,) share of the label's pixels that were found: recall.
        precision: (K,) share of the predicted pixels that were right.
        dice: (K,) twice the intersection over the sum of label and prediction: F1.
        label_pixels: (K,) int64, pixels of each class in the labels.
        predicted_pixels: (K,) int64, pixels of each class in the predictions.
        mIoU: mean of `iou` over the classes that have one.
        mAcc: mean of `accuracy` over the classes in the labels.
        aAcc: share of all pixels that were right.
    """

    iou: FloatArray
    accuracy: FloatArray
    precision: FloatArray
    dice: FloatArray
    label_pixels: IntArray
    predicted_pixels: IntArray
    mIoU: float
    mAcc: float
    aAcc: float

    @classmethod
    def from_counts(cls, counts_KK: IntArray) -> Metrics:
        """Metrics of a (K, K) matrix of counts; row = label, column = prediction."""
        hits = np.diagonal(counts_KK)
        label_pixels = counts_KK.sum(axis=1)
        predicted_pixels = counts_KK.sum(axis=0)
        iou = percent(hits, label_pixels + predicted_pixels - hits)
        accuracy = percent(hits, label_pixels)
        return cls(
            iou=iou,
            accuracy=accuracy,
            precision=percent(hits, predicted_pixels),
            dice=percent(2 * hits, label_pixels + predicted_pixels),
            label_pixels=label_pixels,
            predicted_pixels=predicted_pixels,
            mIoU=present_mean(iou),
            mAcc=present_mean(accuracy),
            aAcc=float(percent(hits.sum(keepdims=True), label_pixels.sum(keepdims=True))[0]),
        )


def percent(part: IntArray, whole: IntArray) -> FloatArray:
    """100 part / whole, NaN where the whole is 0."""
    share: FloatArray = np.full(whole.shape, np.nan)
    np.divide(100.0 * part, whole, out=share, where=whole != 0)
    return share


def present_mean(values: FloatArray) -> float:
    """Mean of the values that are not NaN; NaN, without a warning, if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def joint_histogram(rows_HW: ClassMap, columns_HW: ClassMap, size: int) -> IntArray:
    """Count the pairs of values at the same pixel: (size, size) int64.

    The maps are of unsigned integers and of one size; pairs with a value of `size` or more are left out.
    """
    rows, columns = rows_HW.ravel(), columns_HW.ravel()
    counts: IntArray = np.zeros((size, size), np.int64)
    if rows.dtype != np.uint8 or columns.dtype != np.uint8:
        inside = (rows < size) & (columns < size)
        pairs = rows[inside].astype(np.intp) * size + columns[inside].astype(np.intp)
        counts += np.bincount(pairs, minlength=size * size).reshape(size, size)
        return counts
    # OpenCV looks bytes up in a table: 3 times as fast as widening them to the 64-bit indices that bincount needs.
    for start in range(0, rows.size, _EXACT_IN_FLOAT32):
        strip = slice(start, start + _EXACT_IN_FLOAT32)
        pair = [rows[strip], columns[strip]]
        counts += cv2.calcHist(pair, [0, 1], None, [size, size], [0, size, 0, size]).astype(np.int64)
    return counts


def labelled_maps(
    prediction_HW: ClassMap, label_HW: ClassMap, num_classes: int, ignore_index: int
) -> tuple[ClassMap, ClassMap]:
    """Check a prediction and its label, and set both to `num_classes` where the label is ignored.

    Returns:
        prediction_HW, label_HW: uint8 where K <= 255, else uint16 or wider.

    Raises:
        DatasetError: the maps do not fit together, or a label is not a class.
        LabelError: a prediction is not a class.
    """
    _check_maps(prediction_HW, label_HW)
    counted = label_HW != ignore_index
    if text := _unknown_values(label_HW, counted, num_classes):
        raise DatasetError(
            f"a label holds values that are neither one of the {num_classes} classes nor the ignore index "
            f"{ignore_index}: {text}",
            fix="correct the masks or the list of classes; `terrazzo check-data` lists every such file",
            code="mask-values",
        )
    if text := _unknown_values(prediction_HW, counted, num_classes):
        raise LabelError(
            f"a prediction holds values outside the {num_classes} classes of the labels: {text}",
            fix="evaluate on data with the classes that the model was trained on",
            code="labels-mismatch",
        )
    dtype = np.min_scalar_type(num_classes)
    prediction_HW, label_HW = prediction_HW.astype(dtype), label_HW.astype(dtype)
    for map_HW in (prediction_HW, label_HW):
        np.copyto(map_HW, dtype.type(num_classes), where=~counted)
    return prediction_HW, label_HW


def _check_maps(prediction_HW: ClassMap, label_HW: ClassMap) -> None:
    if label_HW.ndim != 2 or prediction_HW.shape != label_HW.shape:
        raise DatasetError(
            f"a prediction of shape {prediction_HW.shape} cannot be compared with a label of shape {label_HW.shape}",
            fix="give both as (height, width) class indices at the size of the label",
            code="mask-size",
        )
    for name, map_HW in (("prediction", prediction_HW), ("label", label_HW)):
        if map_HW.dtype.kind not in "biu":
            raise DatasetError(
                f"a {name} of type {map_HW.dtype} holds no class indices",
                fix="give whole numbers: for logits, the argmax over the classes",
                code="mask-type",
            )


def _unknown_values(map_HW: ClassMap, counted: NDArray[np.bool_], num_classes: int) -> str:
    """Name the values outside [0, K) that count, with how often they occur; empty if there are none."""
    unknown = map_HW >= num_classes
    if map_HW.dtype.kind == "i":
        unknown |= map_HW < 0
    unknown &= counted
    if not unknown.any():
        return ""
    values, counts = np.unique(map_HW[unknown], return_counts=True)
    listed = [f"{value} ({count} px)" for value, count in zip(values[:8], counts[:8], strict=True)]
    return ", ".join(listed) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def score_text(value: float) -> str:
    """Write a score in per cent, with the same digits in tables and in pictures."""
    return "n/a" if np.isnan(value) else f"{value:.2f}"
