"""Measures of how concentrated a map is: the smallest area that holds a share of its sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_holding", "level_holding", "percent", "share_within"]

Floats = NDArray[np.floating]


def area_holding(values: Floats, share: float) -> float:
    """Return the fraction of the cells, the fullest first, that together hold a share of the sum.

    Args:
        values: of any shape, not negative. Where all are zero the area is 0.
        share: between 0 and 1.
    """
    descending = np.sort(values.astype(np.float64), axis=None)[::-1]
    held = np.cumsum(descending)
    if not held[-1] > 0:
        return 0.0
    return (_cells(held, share) + 1) / values.size


def level_holding(values: Floats, share: float) -> float:
    """Return the least value among the cells that `area_holding` counts."""
    descending = np.sort(values.astype(np.float64), axis=None)[::-1]
    return float(descending[_cells(np.cumsum(descending), share)])


def share_within(values_HW: Floats, center: tuple[float, float], radii: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of the sum that lies within each of some distances of a place.

    Args:
        values_HW: not negative, and not all zero.
        center: row and column of the place, where the first cell's middle is (0.5, 0.5).
        radii: distances in cells, rising.
    """
    rows_H, columns_W = (np.arange(size) + 0.5 - middle for size, middle in zip(values_HW.shape, center, strict=True))
    nearest = np.searchsorted(radii, np.hypot(rows_H[:, None], columns_W).ravel())
    sums = np.bincount(nearest, values_HW.ravel().astype(np.float64), minlength=len(radii) + 1)
    within: NDArray[np.float64] = np.cumsum(sums)[:-1] / sums.sum()
    return within


def percent(share: float) -> str:
    """Write a share with enough digits to tell a small one from none."""
    return f"{share:.{1 if share >= 0.01 else 2 if share >= 0.001 else 3}%}"


def _cells(held: NDArray[np.float64], share: float) -> int:
    # Rounding must not push the last cell out of reach.
    return min(int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))), len(held) - 1)
