"""The bands of a data set's images: which are read, and their range, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.sources.source import StoredSource
from terrazzo.errors import ImageError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.bands import numbered
from terrazzo.text import shown_path

__all__ = ["BandStatistics", "rule_for"]

STRIP_VALUES = 1 << 22  # converted to float64 at once
REACH = 3.0  # standard deviations on either side of the mean that count as usual


def rule_for(first: StoredSource, bands: Sequence[int | str], nodata: float | None) -> BandRule:
    """Return how some bands are read at their own scale, from images that store the numbers that a first one does.

    Args:
        first: whose header counts.
        bands: by number from 1, or by name.
        nodata: the number that stands for "no measurement"; None takes what the header says.

    Raises:
        ImageError: the header cannot be read, or the image lacks a band.
    """
    stored = first.stored
    try:
        chosen = numbered(bands, stored)
        names = tuple(stored.names[band - 1] if 0 < band <= len(stored.names) else "" for band in chosen)
        nodata = stored.nodata if nodata is None else nodata
        rule = BandRule(chosen, stored.dtype or None, names=names if any(names) else (), nodata=nodata)
        rule.refuse_other(stored)
    except ImageError as error:
        raise ImageError(f"{shown_path(first.file)}: {error.message}", fix=error.fix, code=error.code) from error
    return rule


@dataclass
class BandStatistics:
    """Running statistics of each band; images are added one at a time, and none is kept.

    Sums are merged by Chan's formula, which does not lose digits where the mean is large beside the deviation.

    Attributes:
        bands: how many there are.
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
            mean = np.where(is_there, strip, 0).sum(0) / np.maximum(count, 1)
            self._merge(count, mean, (np.where(is_there, strip - mean, 0) ** 2).sum(0))
            self.lowest = np.minimum(self.lowest, np.where(is_there, strip, np.inf).min(0))
            self.highest = np.maximum(self.highest, np.where(is_there, strip, -np.inf).max(0))

    def merge(self, other: BandStatistics) -> None:
        """Count what another has counted."""
        self.pixels += other.pixels
        self._merge(other.count, other.mean, other._squares)
        self.lowest = np.minimum(self.lowest, other.lowest)
        self.highest = np.maximum(self.highest, other.highest)

    def _merge(self, count: NDArray[Any], mean: NDArray[Any], squares: NDArray[Any]) -> None:
        total, difference = np.maximum(self.count + count, 1), mean - self.mean
        self._squares = self._squares + squares + difference**2 * self.count * count / total
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
