"""Boundary IoU: how well predicted outlines follow those of the labels, which IoU hardly shows for large regions.

Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR
2021 (arXiv:2103.16562). Of each class's mask only the *inner band* is compared, its pixels within distance d of the
outline, in label and prediction. As the authors do, d is `dilation_ratio` of the image's diagonal, distance is
measured in steps to any of the 8 neighbours, and the frame of the image belongs to the outline. As for mIoU, and not
as for single objects, intersections and unions are summed over the whole set, per class.

Ignored pixels are removed from label and prediction alike: as if they lay outside the frame.

**All classes at once.** The definition erodes each class's mask d times with a 3 x 3 square and keeps what vanishes:
the pixels that have a pixel of another value within d steps. Step by step from such a pixel towards the other value,
some pixel at most d - 1 steps away is the first to have a neighbour unlike itself. So the bands of all classes are the
pixels within d - 1 steps of an *edge pixel*, one with an unlike neighbour: two morphological passes over the map of
class indices, for any number of classes. Conversely, where an edge pixel or its unlike neighbour is within reach,
one of the two differs from the pixel itself. The test compares this with the definition, class by class.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terrazzo.evaluation.confusion import (
    ClassMap,
    FloatArray,
    IntArray,
    joint_histogram,
    labelled_maps,
    percent,
    present_mean,
)

__all__ = ["BoundaryIoU", "BoundaryMetrics"]


@dataclass(frozen=True, eq=False)
class BoundaryMetrics:
    """Boundary IoU in percent, unrounded.

    Attributes:
        iou: (K,) per class, NaN for a class in neither labels nor predictions.
        mIoU: mean over the classes that have one.
        dilation_ratio: width of the bands as a share of each image's diagonal.
    """

    iou: FloatArray
    mIoU: float
    dilation_ratio: float


class BoundaryIoU:
    """Boundary IoU over all images seen.

    Attributes:
        intersection: (K,) int64, pixels in the bands of both label and prediction. To join the ranks of a distributed
            run, sum this and `union` over them in place.
        union: (K,) int64, pixels in the band of either.

    Args:
        num_classes: K.
        ignore_index: the label of pixels that do not count.
        dilation_ratio: width of the bands as a share of the image's diagonal; the paper's is 0.02.
    """

    def __init__(self, num_classes: int, ignore_index: int, dilation_ratio: float = 0.02) -> None:
        if num_classes < 1 or 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore index {ignore_index} is not outside the {num_classes} classes")
        if not 0 < dilation_ratio < 1:
            raise ValueError(f"the dilation ratio {dilation_ratio} is not between 0 and 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.dilation_ratio = dilation_ratio
        self.intersection: IntArray = np.zeros(num_classes, np.int64)
        self.union: IntArray = np.zeros(num_classes, np.int64)

    def update(self, prediction_HW: ClassMap, label_HW: ClassMap) -> None:
        """Add one image: (H, W) class indices; the label may hold the ignore index.

        Raises:
            DatasetError: the maps do not fit together, or a label is not a class.
            LabelError: a prediction is not a class.
        """
        K = self.num_classes
        prediction_HW, label_HW = labelled_maps(prediction_HW, label_HW, K, self.ignore_index)
        if label_HW.size == 0:
            return
        width = max(1, round(self.dilation_ratio * float(np.hypot(*label_HW.shape))))
        label_band_HW = _band_labels(label_HW, width, outside=K)
        prediction_band_HW = _band_labels(prediction_HW, width, outside=K)
        counts = joint_histogram(label_band_HW, prediction_band_HW, K + 1)  # the last row and column: off the bands
        both = np.diagonal(counts)[:K]
        self.intersection += both
        self.union += (counts.sum(axis=0) + counts.sum(axis=1))[:K] - both

    def merge(self, other: BoundaryIoU) -> None:
        """Add the images that another instance with the same settings has seen."""
        ours = (self.num_classes, self.ignore_index, self.dilation_ratio)
        if ours != (other.num_classes, other.ignore_index, other.dilation_ratio):
            raise ValueError("boundary IoUs with different settings cannot be merged")
        self.intersection += other.intersection
        self.union += other.union

    def metrics(self) -> BoundaryMetrics:
        iou = percent(self.intersection, self.union)
        return BoundaryMetrics(iou, present_mean(iou), self.dilation_ratio)


def _band_labels(map_HW: ClassMap, width: int, outside: int) -> ClassMap:
    """Keep the classes on the inner bands of all regions, and set every other pixel to `outside`."""
    framed_HW = cv2.copyMakeBorder(map_HW, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=outside)
    unlike_HW = cv2.morphologyEx(framed_HW, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    near_HW = cv2.dilate(unlike_HW.view(np.uint8), np.ones((2 * width - 1, 2 * width - 1), np.uint8))
    bands_HW: ClassMap = map_HW.copy()
    np.copyto(bands_HW, map_HW.dtype.type(outside), where=near_HW[1:-1, 1:-1] == 0)
    return bands_HW
