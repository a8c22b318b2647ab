"""Random rectangles within a window, by area and aspect ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import numpy as np

from terrazzo.fields import Within

__all__ = ["Area", "random_box"]

Area: TypeAlias = Annotated[tuple[float, float], Within(above=0, at_most=1, ordered=True)]
"""Bounds of a rectangle's share of the window."""


def random_box(
    rng: np.random.Generator, size: Sequence[int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[slice, slice]:
    """Draw a rectangle within a window.

    Args:
        rng: where the draws come from.
        size: (height, width) of the window.
        area: bounds of the rectangle's share of the window, which is uniform.
        aspect: bounds of its height over its width, whose logarithm is uniform; a side longer than the window is cut.
    """
    height, width = size
    pixels = rng.uniform(*area) * height * width
    ratio = math.exp(rng.uniform(*np.log(aspect)))
    rows = min(max(round(math.sqrt(pixels * ratio)), 1), height)
    columns = min(max(round(math.sqrt(pixels / ratio)), 1), width)
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)
