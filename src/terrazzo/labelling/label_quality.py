"""How likely a mask is right, by the probabilities of a network that has not learnt from it.

The score is that of Lad and Mueller, "Estimating label quality and errors in semantic segmentation data via any model"
(2023, arXiv 2307.05080): the soft minimum over the labelled pixels of the probability p of the mask's class,

    sum(p w) / sum(w)  with  w = exp((1 - p) / T)

near 0 where some pixels are surely something else, and 1 where all are as the network sees them. Their T is 0.1; on
CamVid 0.03 finds more of the wrong masks (benchmarks/check_labels.py).

Single pixels are judged by confident learning (Northcutt, Jiang and Chuang, 2021, arXiv 1911.00068): a pixel is likely
wrong where another class is at least as probable as it is on average over the pixels that are labelled so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TEMPERATURE", "ClassConfidence", "Region", "label_quality", "likely_classes", "worst_region"]

TEMPERATURE = 0.03

Floats = NDArray[np.float32]
Mask = NDArray[np.integer]


class ClassConfidence:
    """Of each class, the mean probability that it has on the pixels labelled as it, over all masks seen."""

    def __init__(self, num_classes: int) -> None:
        self._sums_K = np.zeros(num_classes)
        self._pixels_K = np.zeros(num_classes, np.int64)

    def update(self, chosen_N: Floats, classes_N: Mask) -> None:
        """Add pixels: the probability of their class, and their class."""
        size = len(self._sums_K)
        self._sums_K += np.bincount(classes_N, chosen_N, minlength=size)
        self._pixels_K += np.bincount(classes_N, minlength=size)

    def means(self) -> NDArray[np.float64]:
        """(K,); 1 for classes without a pixel, which are then never held against a label."""
        means_K: NDArray[np.float64] = np.ones(len(self._sums_K))
        np.divide(self._sums_K, self._pixels_K, out=means_K, where=self._pixels_K > 0)
        return means_K


@dataclass(frozen=True)
class Region:
    """A connected part of a mask that is likely wrong.

    Attributes:
        box: left, top, right and bottom in pixels; right and bottom are the first beyond it.
        pixels: how many there are.
        labelled: class index that most of them have.
        likely: class index that the network gives most of them.
    """

    box: tuple[int, int, int, int]
    pixels: int
    labelled: int
    likely: int


def label_quality(chosen_N: Floats, temperature: float = TEMPERATURE) -> float:
    """The soft minimum of probabilities, from 0 to 1; NaN where there are none."""
    if not chosen_N.size:
        return float("nan")
    chosen_N = np.asarray(chosen_N, np.float64)
    weights_N = np.exp((chosen_N.min() - chosen_N) / temperature)  # the largest is 1: no overflow
    return float(np.average(chosen_N, weights=weights_N))


def likely_classes(probabilities_KHW: Floats, mask_HW: Mask, confidence_K: NDArray[np.floating]) -> Mask:
    """(H, W) class of each pixel that is likely labelled wrong, and -1 elsewhere.

    Args:
        probabilities_KHW: the network's.
        mask_HW: labels; what is no class index is not judged.
        confidence_K: see `ClassConfidence`.
    """
    confident_KHW = np.where(probabilities_KHW >= confidence_K[:, None, None], probabilities_KHW, -1)
    likely_HW = confident_KHW.argmax(0)
    wrong_HW = (confident_KHW.max(0) > 0) & (likely_HW != mask_HW) & (mask_HW < len(probabilities_KHW))
    return np.where(wrong_HW, likely_HW, -1)


def worst_region(probabilities_KHW: Floats, mask_HW: Mask, likely_HW: Mask) -> Region | None:
    """Return the connected region that weighs most: the sum over its pixels of how much more probable the other is.

    A region has one class in the mask and one likely class.
    """
    import cv2

    best, found = 0.0, None
    wrong_HW = likely_HW >= 0
    size = len(probabilities_KHW)
    pairs_HW = np.where(wrong_HW, mask_HW.astype(np.int64) * size + likely_HW, -1)
    for pair in np.unique(pairs_HW[wrong_HW]).tolist():
        labelled, likely = divmod(pair, size)
        count, parts_HW, boxes, _ = cv2.connectedComponentsWithStats((pairs_HW == pair).astype(np.uint8))
        gap_HW = probabilities_KHW[likely] - probabilities_KHW[labelled]
        weights = np.bincount(parts_HW.ravel(), gap_HW.ravel(), minlength=count)
        weights[0] = 0  # what lies around the regions
        part = int(weights.argmax())
        if weights[part] > best:
            left, top, width, height, pixels = boxes[part].tolist()
            best, found = (
                float(weights[part]),
                Region((left, top, left + width, top + height), pixels, labelled, likely),
            )
    return found
