"""Bootstrap confidence intervals of IoU and mIoU over the images of a split.

A score on 60 images is that of a sample, and another 60 of the same kind would give another. The percentile bootstrap
(Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13) estimates by how much: as many images as
there are are drawn with replacement, 1000 times, each draw is scored by the rules of `confusion`, and the interval
reaches from the 2.5th to the 97.5th percentile of these scores.

Images are taken to be independent. Those of one drive or one patient are not, and the interval is then too narrow:
`ImageCounts.grouped` adds images up that belong together, which are then drawn together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from terrazzo.evaluation.confusion import ConfusionMatrix, FloatArray, IntArray, percent, present_mean

__all__ = ["ImageCounts", "Intervals", "bootstrap", "image_row", "percentile_interval", "resampled_iou"]

RESAMPLES, SEED, LEVEL = 1000, 0, 95
FLOATS_AT_ONCE = 1 << 22  # weights of images in resamples


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """What IoU is made of, for each image by itself: N images, K classes.

    Attributes:
        hits_NK: pixels of each class that were found.
        label_NK: pixels of each class in the labels.
        predicted_NK: pixels of each class in the predictions.
        unit: what the rows are.
    """

    hits_NK: IntArray
    label_NK: IntArray
    predicted_NK: IntArray
    unit: str = "images"

    @classmethod
    def of(cls, matrices: Sequence[IntArray]) -> ImageCounts:
        """Join rows that `image_row` made."""
        hits_NK, label_NK, predicted_NK = np.stack(matrices, axis=1)
        return cls(hits_NK, label_NK, predicted_NK)

    def __len__(self) -> int:
        return len(self.hits_NK)

    def iou(self) -> FloatArray:
        """(N, K) IoU of each class in each image, in percent; NaN where it is in neither label nor prediction."""
        return percent(self.hits_NK, self.label_NK + self.predicted_NK - self.hits_NK)

    def scores(self) -> list[float]:
        """Each image's own mIoU; NaN where nothing is labelled."""
        return [present_mean(iou_K) for iou_K in self.iou()]

    def in_order(self, classes_K: Sequence[int]) -> ImageCounts:
        """The same with the classes in another order."""
        columns = list(classes_K)
        return ImageCounts(
            self.hits_NK[:, columns], self.label_NK[:, columns], self.predicted_NK[:, columns], self.unit
        )

    def grouped(self, groups_N: Sequence[str]) -> ImageCounts:
        """The sums over images of one group, each of which is then one row."""
        _, group_N = np.unique(np.array(groups_N, dtype=object).astype(str), return_inverse=True)

        def summed(counts_NK: IntArray) -> IntArray:
            total_GK = np.zeros((int(group_N.max()) + 1, counts_NK.shape[1]), np.int64)
            np.add.at(total_GK, group_N, counts_NK)
            return total_GK

        return ImageCounts(summed(self.hits_NK), summed(self.label_NK), summed(self.predicted_NK), "groups")


def image_row(confusion: ConfusionMatrix) -> IntArray:
    """What `ImageCounts` keeps of one image's confusion matrix: (3, K)."""
    counts_KK = confusion.counts
    return np.stack([np.diagonal(counts_KK), counts_KK.sum(axis=1), counts_KK.sum(axis=0)])


@dataclass(frozen=True, eq=False)
class Intervals:
    """Confidence intervals in percent, each a pair of its lower and upper end; NaN where there is no score.

    Attributes:
        iou_K2: (K, 2) of each class's IoU.
        mIoU: of the mean.
        count: how many images or groups were drawn from.
        unit: images, or groups.
    """

    iou_K2: FloatArray
    mIoU: tuple[float, float]
    count: int
    unit: str


def bootstrap(counts: ImageCounts, resamples: int = RESAMPLES, seed: int = SEED) -> Intervals | None:
    """Return the intervals of IoU and mIoU; None for fewer than two images, which tell nothing of others."""
    if len(counts) < 2:
        return None
    iou_RK = resampled_iou(counts, resamples, seed)
    mean_R = np.array([present_mean(iou_K) for iou_K in iou_RK])
    iou_K2 = np.array([percentile_interval(iou_R) for iou_R in iou_RK.T])
    return Intervals(iou_K2, percentile_interval(mean_R), len(counts), counts.unit)


def resampled_iou(counts: ImageCounts, resamples: int = RESAMPLES, seed: int = SEED) -> FloatArray:
    """(R, K) IoU of each class in each resample, in percent.

    The draws follow from the seed and the number of images alone, so two models on the same images are drawn alike.
    """
    parts = []
    for weights_RN in _drawn(len(counts), resamples, seed):
        hits_RK, label_RK, predicted_RK = (
            (weights_RN @ counts_NK.astype(np.float64)).astype(np.int64)  # whole numbers below 2**53: exact
            for counts_NK in (counts.hits_NK, counts.label_NK, counts.predicted_NK)
        )
        parts.append(percent(hits_RK, label_RK + predicted_RK - hits_RK))
    return np.concatenate(parts)


def percentile_interval(values_R: FloatArray) -> tuple[float, float]:
    """The middle `LEVEL` per cent of the values that are numbers."""
    present = values_R[~np.isnan(values_R)]
    if not present.size:
        return float("nan"), float("nan")
    outside = (100 - LEVEL) / 2
    low, high = np.percentile(present, [outside, 100 - outside])
    return float(low), float(high)


def _drawn(images: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Blocks of (R, N): how often each image was drawn in each resample."""
    rng = np.random.default_rng(seed)
    rows = max(1, FLOATS_AT_ONCE // images)
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        drawn_RN = rng.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        yield np.bincount(drawn_RN.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
