"""Statistics of bands over the images of a data set: range, mean and standard deviation, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BandStatistics"]

STRIP_VALUES = 1 << 22  # converted to float64 at once
REACH = 3.0  # standard deviations on either side of the mean that count as usual


@dataclass
class BandStatistics:
    """Running statistics of each band; images are added one at a time, and none is kept.

    Sums are merged by Chan's formula, which does not lose digits where the mean is large beside the deviation.

    Attributes:
        count: of measurements, per band.
        mean: of them.
        lowest: of them; infinite before the first.
        highest: likewise.
        pixels: of all images, gaps among them.
    """

    bands: int
    count: NDArray[Any] = field(init=False)
    mean: NDArray[Any] = field(init=False)
    lowest: NDArray[Any] = field(init=False)
    highest: NDArray[Any] = field(init=False)
    pixels: int = 0

    def __post_init__(self) -> None:
        self.count, self.mean, self._squares = (np.zeros(self.bands) for _ in range(3))
        self.lowest, self.highest = np.full(self.bands, np.inf), np.full(self.bands, -np.inf)

    def add(self, values_HWC: NDArray[np.float32]) -> None:
        """Count an image, NaN in whose bands are gaps."""
        height, width, _ = values_HWC.shape
        self.pixels += height * width
        step = max(1, STRIP_VALUES // (width * self.bands))
        for top in range(0, height, step):
            strip = values_HWC[top : top + step].reshape(-1, self.bands).astype(np.float64)
            is_there = ~np.isnan(strip)
            count = is_there.sum(0)
            some = np.maximum(count, 1)
            mean = np.where(is_there, strip, 0).sum(0) / some
            squares = (np.where(is_there, strip - mean, 0) ** 2).sum(0)
            self.lowest = np.minimum(self.lowest, np.where(is_there, strip, np.inf).min(0))
            self.highest = np.maximum(self.highest, np.where(is_there, strip, -np.inf).max(0))
            total = np.maximum(self.count + count, 1)
            difference = mean - self.mean
            self._squares += squares + difference**2 * self.count * count / total
            self.mean = self.mean + difference * count / total
            self.count = self.count + count

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of each band."""
        std: NDArray[np.float64] = np.sqrt(self._squares / np.maximum(self.count, 1))
        return std

    @property
    def gaps(self) -> NDArray[np.float64]:
        """The share of pixels without a measurement, per band."""
        gaps: NDArray[np.float64] = 1 - self.count / max(self.pixels, 1)
        return gaps

    def usual_ranges(self, dtype: str) -> tuple[tuple[float, float], ...]:
        """Return (low, high) of each band that stand for 0 and 255: all of 8 bits, else three deviations at most."""
        if dtype == "uint8":
            return ((0.0, 255.0),) * self.bands
        low = np.maximum(self.lowest, self.mean - REACH * self.std)
        high = np.minimum(self.highest, self.mean + REACH * self.std)
        ends = [(_rounded(a), _rounded(b)) for a, b in zip(low, high, strict=True)]
        return tuple((a, b) if a < b else (a, a + 1.0) for a, b in ends)


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
