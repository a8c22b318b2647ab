"""Results of an explanation: the attention of a layer from some points, and the receptive field of a map.

Shapes: P points, N heads, h and w the grid of keys, H and W the window's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrazzo.interpret.points import Point

__all__ = ["LayerAttention", "ReceptiveField"]


@dataclass(frozen=True)
class LayerAttention:
    """The attention of some points in one layer.

    Attributes:
        name: ``2.1`` for the first block of a SegFormer's second stage, ``12`` for a SETR's twelfth block.
        title: the same in words.
        weights_PNhw: what each key gets, float32; with the class token's part it adds up to 1 over the keys.
        class_token_PN: what the class token gets, or None where it does not go through the blocks.
        query_grid: (rows, columns) of the query tokens.
        covered: how much of the image's height and width the keys stand for.
    """

    name: str
    title: str
    weights_PNhw: NDArray[np.float32]
    class_token_PN: NDArray[np.float32] | None
    query_grid: tuple[int, int]
    covered: tuple[float, float]

    @property
    def mean_Phw(self) -> NDArray[np.float32]:
        """The weights averaged over the heads."""
        mean: NDArray[np.float32] = self.weights_PNhw.mean(axis=1)
        return mean

    def distances(self, points: Sequence[Point], height: int, width: int) -> list[float]:
        """Return for each point the mean distance in pixels, by weight, to the middles of the keys' cells."""
        h, w = self.weights_PNhw.shape[2:]
        rows_h = (np.arange(h) + 0.5) * (self.covered[0] * height / h)
        columns_w = (np.arange(w) + 0.5) * (self.covered[1] * width / w)
        return [
            float(np.average(np.hypot(rows_h[:, None] - (y + 0.5), columns_w - (x + 0.5)), weights=mean_hw))
            for (x, y), mean_hw in zip(points, self.mean_Phw, strict=True)
        ]


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one map's centre unit.

    Attributes:
        name: ``stage 1`` and so on of a SegFormer, ``block 12`` of a SETR, ``decoder`` for the logits.
        share_HW: each pixel's share of all contributions, float32; the sum is 1, or 0 where no pixel has any.
        grid: (rows, columns) of the map.
        unit: row and column of the unit in it.
    """

    name: str
    share_HW: NDArray[np.float32]
    grid: tuple[int, int]
    unit: tuple[int, int]

    @property
    def cell(self) -> tuple[float, float, float, float]:
        """The part of the window that the unit stands for: top, left, height and width in pixels."""
        height, width = (size / cells for size, cells in zip(self.share_HW.shape, self.grid, strict=True))
        return self.unit[0] * height, self.unit[1] * width, height, width
