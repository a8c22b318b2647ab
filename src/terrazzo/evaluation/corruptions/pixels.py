"""What the corruptions share: values from 0 to 1 and back, a Gaussian filter, and blur along a line."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["as_bytes", "as_floats", "blurred", "blurred_along", "clouds"]

Floats = NDArray[np.floating[Any]]


def as_floats(image_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values from 0 to 1."""
    return image_HW3.astype(np.float32) / np.float32(255)


def as_bytes(values_HW3: Floats) -> NDArray[np.uint8]:
    """Values from 0 to 1, clipped to that, as bytes."""
    return (values_HW3.clip(0, 1) * 255).astype(np.uint8)


def blurred(values: Floats, deviation: float) -> NDArray[np.float32]:
    """A Gaussian filter that reaches 4 deviations far; beyond the edge stand the edge's values."""
    side = 2 * int(4 * deviation + 0.5) + 1
    return np.asarray(
        cv2.GaussianBlur(values.astype(np.float32), (side, side), deviation, borderType=cv2.BORDER_REPLICATE),
        np.float32,
    )


def blurred_along(values: Floats, radius: int, deviation: float, angle: float) -> NDArray[np.float32]:
    """Smear values in one direction by half a Gaussian of 2 radius + 1 steps.

    Args:
        values: (H, W) or (H, W, 3).
        radius: half the length in pixels.
        deviation: of the Gaussian.
        angle: of the direction, in degrees from the columns' axis.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    rows = 2 * radius + np.rint(steps * cosine).astype(int)
    columns = 2 * radius + np.rint(steps * sine).astype(int)
    np.add.at(kernel, (rows, columns), (weights / weights.sum()).astype(np.float32))
    smeared = cv2.filter2D(values.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smeared, np.float32)


def clouds(height: int, width: int, decay: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A plasma fractal by the diamond-square algorithm: (height, width) values from 0 to 1.

    Args:
        height: of the part that is returned, of a square whose side is a power of 2.
        width: likewise.
        decay: by what the random part shrinks from each scale to the next, so that larger is smoother.
        rng: draws it.
    """
    side = 1 << max(height, width, 2).bit_length()
    field = np.zeros((side, side))
    step, amplitude = side, 100.0
    while step >= 2:
        half = step // 2

        def varied(total: NDArray[np.float64], amplitude: float = amplitude) -> NDArray[np.float64]:
            return total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape)

        corners = field[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        field[half::step, half::step] = varied(pairs + np.roll(pairs, -1, axis=1))
        centres = field[half::step, half::step]
        above = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        field[::step, half::step] = varied(above)
        beside = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        field[half::step, ::step] = varied(beside)
        step, amplitude = half, amplitude / decay
    field -= field.min()
    part: NDArray[np.float64] = (field / field.max())[:height, :width]
    return part
