"""Light, contrast, colour and compression. As defined, without departures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.evaluation.corruptions.pixels import as_bytes, as_floats

__all__ = ["brightness", "contrast", "jpeg", "saturate"]

Photo = NDArray[np.uint8]
SATURATION, VALUE = 1, 2  # channels of HSV


def brightness(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """A constant added to the value of each pixel's HSV."""
    del rng
    return _changed(image_HW3, VALUE, 1, (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1])


def contrast(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Values drawn towards the mean of their channel."""
    del rng
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    values_HW3 = as_floats(image_HW3)
    mean_113 = values_HW3.mean(axis=(0, 1), keepdims=True)
    return as_bytes((values_HW3 - mean_113) * kept + mean_113)


def saturate(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """The saturation of each pixel's HSV multiplied: less in the first two severities, more in the others."""
    del rng
    factor, added = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    return _changed(image_HW3, SATURATION, factor, added)


def jpeg(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """JPEG compression."""
    del rng
    quality = (25, 18, 15, 10, 7)[severity - 1]
    _, data = cv2.imencode(".jpg", image_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded_HW3 = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded_HW3[..., ::-1])


def _changed(image_HW3: Photo, channel: int, factor: float, added: float) -> Photo:
    hsv_HW3 = cv2.cvtColor(as_floats(image_HW3), cv2.COLOR_RGB2HSV)
    hsv_HW3[..., channel] = (hsv_HW3[..., channel] * factor + added).clip(0, 1)
    return as_bytes(np.asarray(cv2.cvtColor(hsv_HW3, cv2.COLOR_HSV2RGB), np.float32))
