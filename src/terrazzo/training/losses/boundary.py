"""Boundary loss (Kervadec et al. 2019, arXiv 1812.07032): probabilities weighed by distance to the outline."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.training.losses.row import Loss
from terrazzo.training.losses.strips import sum_over_strips, upsampled_strips

__all__ = ["Boundary", "signed_distance"]


@dataclass(frozen=True, kw_only=True)
class Boundary(Loss):
    """The mean over labelled pixels and an image's classes of p times the signed distance to the class's outline.

    Distances are in pixels, negative inside the label, so the loss falls below 0. It ignores classes that an image does
    not have, so it is used together with another loss; the paper starts with a weight of 0.01.
    """

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        classes, distances, terms = [], [], 0
        for labels_HW in labels_BHW.cpu().numpy():
            present = [k for k in np.unique(labels_HW).tolist() if k != ignore_index]
            labelled_HW = labels_HW != ignore_index
            maps = [signed_distance(labels_HW == k) * labelled_HW for k in present]
            classes.append(present)
            distances.append(torch.from_numpy(np.array(maps, dtype=np.float32)).to(logits_BKhw.device))
            terms += len(present) * int(labelled_HW.sum())

        def of_strip(strip_BKrW: Tensor, rows: slice) -> Tensor:
            total = strip_BKrW.sum() * 0.0
            for strip_KrW, present, distance_PHW in zip(strip_BKrW, classes, distances, strict=True):
                if present:
                    total = total + (strip_KrW.softmax(0)[present] * distance_PHW[:, rows]).sum()
            return total

        return sum_over_strips(logits_BKhw, labels_BHW, of_strip) / max(terms, 1)

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        # A distance of every class at every pixel, as if each image had them all.
        held = labels_BHW.new_empty((4 * logits_BKhw.shape[1], *labels_BHW.shape), dtype=torch.uint8)
        rows = next(iter(upsampled_strips(logits_BKhw.float().contiguous(), labels_BHW)))[0]
        total = sum_over_strips(logits_BKhw, labels_BHW[:, rows], lambda strip_BKrW, _: strip_BKrW.softmax(1).sum())
        del held
        return total


def signed_distance(inside_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's Euclidean distance to the region, in pixels; inside, minus the distance to its last pixel.

    0 everywhere where the region is empty or fills the image, since it has no outline then.
    """
    if inside_HW.all() or not inside_HW.any():
        return np.zeros(inside_HW.shape, np.float32)
    inside = inside_HW.astype(np.uint8)
    outside_distance = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside_distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance: NDArray[np.float32] = np.where(inside_HW, 1 - inside_distance, outside_distance).astype(np.float32)
    return distance
