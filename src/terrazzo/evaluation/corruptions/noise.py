"""Noise of sensors and transmission. As defined, without departures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terrazzo.evaluation.corruptions.pixels import as_bytes, as_floats

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"]

Photo = NDArray[np.uint8]


def gaussian_noise(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Additive noise, as in low light."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return as_bytes(as_floats(image_HW3) + rng.normal(0, deviation, image_HW3.shape))


def shot_noise(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Poisson noise of few photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return as_bytes(rng.poisson(as_floats(image_HW3) * photons) / photons)


def impulse_noise(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Single values that are black or white: salt and pepper, in each channel by itself."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    draw_HW3 = rng.random(image_HW3.shape)
    noisy_HW3 = image_HW3.copy()
    noisy_HW3[draw_HW3 < share / 2] = 0
    noisy_HW3[draw_HW3 >= 1 - share / 2] = 255
    return noisy_HW3


def speckle_noise(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Noise that grows with brightness."""
    deviation = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return as_bytes(as_floats(image_HW3) * (1 + rng.normal(0, deviation, image_HW3.shape)))
