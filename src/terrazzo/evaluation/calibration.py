"""Calibration: whether pixels that a model is 80% sure of are right in 80% of cases.

Expected calibration error (ECE; Naeini et al. 2015; Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
Networks", ICML 2017, arXiv:1706.04599): pixels are put into 15 bins by the probability of the class that they were
given, and the differences between mean probability and share of right pixels are averaged over the bins, weighted by
their pixels. Beside it stands the negative log-likelihood (NLL), the mean of -log of the label's probability, which
unlike ECE cannot be made small without telling classes apart.

Only pixels with a label count. A regular grid of about 16,000 pixels of each image is looked at, since neighbours say
nearly the same; what is kept are sums, of each class and bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.evaluation.confusion import ClassMap, FloatArray

__all__ = ["BINS", "Calibration", "CalibrationMetrics", "grid_step"]

BINS = 15
PIXELS_OF_AN_IMAGE = 1 << 14
SMALLEST = 1e-38  # of a probability, in its logarithm: about the smallest float32


@dataclass(frozen=True, eq=False)
class CalibrationMetrics:
    """Calibration over a split; NaN where there is nothing to divide by.

    Attributes:
        ece: expected calibration error, in percent.
        nll: negative log-likelihood, in nats.
        confidence: mean probability of the class that was given, in percent.
        accuracy: share of pixels that are right, in percent.
        class_ece_K: ECE of the pixels that were given each class.
        share_B: share of the pixels in each bin, in percent; bin b holds probabilities from b / B up.
        confidence_B: mean probability in each bin, in percent.
        accuracy_B: share of right pixels in each bin, in percent.
        temperature: by which the probabilities were made; 1 is none.
    """

    ece: float
    nll: float
    confidence: float
    accuracy: float
    class_ece_K: FloatArray
    share_B: FloatArray
    confidence_B: FloatArray
    accuracy_B: FloatArray
    temperature: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Describe it in JSON's types: percentages rounded to 2 decimals, None where there is no number."""
        return {
            "ece": _rounded(self.ece),
            "nll": _rounded(self.nll, 4),
            "mean_confidence": _rounded(self.confidence),
            "accuracy": _rounded(self.accuracy),
            "temperature": round(self.temperature, 4),
            "bins": [
                {"from": round(b / len(self.share_B), 4), "share": _rounded(share), "confidence": _rounded(confidence),
                 "accuracy": _rounded(accuracy)}
                for b, (share, confidence, accuracy) in enumerate(
                    zip(self.share_B, self.confidence_B, self.accuracy_B, strict=True)
                )
            ],
        }  # fmt: skip


class Calibration:
    """Sums from which calibration follows, over all images seen, in O(classes x bins) memory.

    Args:
        num_classes: K.
        ignore_index: the label of pixels that do not count.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.pixels_KB = np.zeros((num_classes, BINS), np.int64)
        self.right_KB = np.zeros((num_classes, BINS), np.int64)
        self.confidence_KB = np.zeros((num_classes, BINS))
        self.nll = 0.0

    def update(self, probabilities_KHW: NDArray[np.float32], label_HW: ClassMap, weight: int = 1) -> None:
        """Add the pixels of an image, each of which stands for so many."""
        labelled_HW = label_HW != self.ignore_index
        probabilities_KP = probabilities_KHW[:, labelled_HW]
        label_P = label_HW[labelled_HW].astype(np.intp)
        given_P = probabilities_KP.argmax(axis=0)
        pixel_P = np.arange(label_P.size)
        highest_P = probabilities_KP[given_P, pixel_P].astype(np.float64)
        cell_P = given_P * BINS + (highest_P * BINS).astype(np.intp).clip(0, BINS - 1)

        def summed(values_P: NDArray[Any] | None) -> FloatArray:
            sums = np.bincount(cell_P, values_P, minlength=self.pixels_KB.size).astype(np.float64)
            return sums.reshape(self.pixels_KB.shape)

        self.pixels_KB += weight * summed(None).astype(np.int64)
        self.right_KB += weight * summed(given_P == label_P).astype(np.int64)
        self.confidence_KB += weight * summed(highest_P)
        of_label_P = probabilities_KP[label_P, pixel_P].astype(np.float64)
        self.nll -= weight * float(np.log(of_label_P.clip(SMALLEST)).sum())

    def metrics(self, temperature: float = 1.0) -> CalibrationMetrics:
        """Return what follows from the sums.

        Args:
            temperature: by which the probabilities were made.
        """
        pixels_B, right_B = self.pixels_KB.sum(axis=0), self.right_KB.sum(axis=0)
        confidence_B = self.confidence_KB.sum(axis=0)
        total = int(pixels_B.sum())
        return CalibrationMetrics(
            ece=_error(pixels_B, right_B, confidence_B),
            nll=self.nll / total if total else math.nan,
            confidence=100 * float(confidence_B.sum()) / total if total else math.nan,
            accuracy=100 * float(right_B.sum()) / total if total else math.nan,
            class_ece_K=np.array(
                [_error(*rows) for rows in zip(self.pixels_KB, self.right_KB, self.confidence_KB, strict=True)]
            ),
            share_B=_percent(pixels_B, np.full(BINS, total)),
            confidence_B=_percent(confidence_B, pixels_B),
            accuracy_B=_percent(right_B, pixels_B),
            temperature=temperature,
        )


def grid_step(size: tuple[int, int], pixels: int = PIXELS_OF_AN_IMAGE) -> int:
    """By how many pixels the grid's rows and columns lie apart, so that about so many lie on it."""
    return max(1, round(math.sqrt(size[0] * size[1] / max(pixels, 1))))


def _error(pixels_B: NDArray[Any], right_B: NDArray[Any], confidence_B: NDArray[Any]) -> float:
    total = int(pixels_B.sum())
    return 100 * float(np.abs(right_B - confidence_B).sum()) / total if total else math.nan


def _percent(part_B: NDArray[Any], whole_B: NDArray[Any]) -> FloatArray:
    share_B: FloatArray = np.full(part_B.shape, np.nan)
    np.divide(100.0 * part_B, whole_B, out=share_B, where=whole_B != 0)
    return share_B


def _rounded(value: float, digits: int = 2) -> float | None:
    return None if math.isnan(value) else round(float(value), digits)
