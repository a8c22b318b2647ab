"""Snow, frost, fog and drops on the lens.

Departures. Frost: the definition lays photographs of frosted windows over the image; here a drawn pattern of crystals
takes their place. Snow falls by the line blur of `pixels`. Spatter, fog: as defined.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.evaluation.corruptions.pixels import as_bytes, as_floats, blurred, blurred_along, clouds

__all__ = ["fog", "frost", "snow", "spatter"]

Photo = NDArray[np.uint8]
WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
ICE = np.array([0.85, 0.93, 1.0])


def snow(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Streaks of snow over a paler image."""
    mean, deviation, zoom, least, radius, blur, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    height, width = image_HW3.shape[:2]
    small = rng.normal(mean, deviation, (math.ceil(height / zoom), math.ceil(width / zoom))).astype(np.float32)
    large = cv2.resize(small, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    flakes_HW = np.asarray(large, np.float32)[:height, :width].copy()
    flakes_HW[flakes_HW < least] = 0
    flakes_HW = blurred_along(flakes_HW.clip(0, 1), int(radius), blur, rng.uniform(-135, -45) + 90)
    values_HW3 = as_floats(image_HW3)
    grey_HW = cv2.cvtColor(values_HW3, cv2.COLOR_RGB2GRAY)
    pale_HW3 = np.maximum(values_HW3, (np.asarray(grey_HW) * 1.5 + 0.5)[..., None])
    covered_HW3 = kept * values_HW3 + (1 - kept) * pale_HW3
    return as_bytes(covered_HW3 + (flakes_HW + flakes_HW[::-1, ::-1])[..., None])


def frost(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """A pattern of ice crystals laid over the image."""
    kept, laid = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = image_HW3.shape[:2]
    crystals_HW = np.zeros((height, width))
    for decay in (1.7, 1.6, 1.5, 1.4):  # bright where a fractal crosses its middle: branching lines
        ridge_HW = (1 - np.abs(2 * clouds(height, width, decay, rng) - 1)) ** 8
        crystals_HW = np.maximum(crystals_HW, ridge_HW)
    ice_HW = 0.15 + 0.45 * clouds(height, width, 1.8, rng) + 0.6 * crystals_HW
    return as_bytes(kept * as_floats(image_HW3) + laid * ice_HW.clip(0, 1)[..., None] * ICE)


def fog(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """A plasma fractal added, and the whole scaled back."""
    amount, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    values_HW3 = as_floats(image_HW3)
    highest = float(values_HW3.max())
    height, width = image_HW3.shape[:2]
    fog_HW = clouds(height, width, decay, rng)
    return as_bytes((values_HW3 + amount * fog_HW[..., None]) * highest / (highest + amount))


def spatter(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Drops of water on the lens in the first three severities, of mud in the others."""
    mean, deviation, blur, least, strength, is_mud = (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    )[severity - 1]
    values_HW3 = as_floats(image_HW3)
    liquid_HW = blurred(rng.normal(mean, deviation, image_HW3.shape[:2]), blur)
    liquid_HW[liquid_HW < least] = 0
    if is_mud:
        mud_HW1 = blurred((liquid_HW > least).astype(np.float32), strength)[..., None]
        mud_HW1[mud_HW1 < 0.8] = 0
        return as_bytes(values_HW3 * (1 - mud_HW1) + MUD * mud_HW1)
    drops_HW = (liquid_HW * 255).clip(0, 255).astype(np.uint8)
    distance_HW = cv2.distanceTransform(255 - cv2.Canny(drops_HW, 50, 150), cv2.DIST_L2, 5)
    depth_HW = cv2.equalizeHist(cv2.blur(np.minimum(distance_HW, 20), (3, 3)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    light_HW = cv2.blur(cv2.filter2D(depth_HW, cv2.CV_8U, relief), (3, 3)).astype(np.float32)
    water_HW = drops_HW * light_HW
    water_HW *= strength / max(float(water_HW.max()), 1e-6)
    return as_bytes(values_HW3 + water_HW[..., None] * WATER)
