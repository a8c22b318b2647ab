"""Numbers of any depth as 8-bit RGB: what is black, what is white, and what a sensor's 12 bits look like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ImageError

__all__ = ["remark_on_range", "scaled", "shape_advice"]


def scaled(
    values: NDArray[Any], value_range: tuple[float, float] | None, background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Bring (H, W) or (H, W, 3) numbers to (H, W, 3) uint8."""
    if values.ndim == 2:
        values = values[..., None]
    shape = (*values.shape[:2], 3)
    if value_range is None and values.dtype == np.uint16:
        return np.broadcast_to((values >> 8).astype(np.uint8), shape).copy()
    if value_range is None:
        seen = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        span = f"{seen.min():.6g},{seen.max():.6g}" if seen.size else "0,1"
        raise ImageError(
            f"pixels are {values.dtype} numbers, whose black and white are unknown",
            fix=f"give both, as in --value-range {span} (value_range=(black, white) in Python)",
            code="image-value-range",
        )
    low, high = value_range
    missing_HW = np.isnan(values).any(-1) if values.dtype.kind == "f" else None
    levels = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    rgb_HW3 = np.broadcast_to(np.rint(np.nan_to_num(levels)).astype(np.uint8), shape).copy()
    if missing_HW is not None:
        rgb_HW3[missing_HW] = background
    return rgb_HW3


def remark_on_range(most: int, remarks: list[str]) -> None:
    """Sensors of 10, 12 or 14 bits fill a part of 16 only."""
    full = 2 ** most.bit_length() - 1
    if 0 < full < 2**15:
        remarks.append(
            f"its 16-bit values reach only {most}, so it comes out dark; --value-range 0,{full} "
            f"(value_range=(0, {full}) in Python) makes the most of them"
        )


def shape_advice(shape: tuple[int, ...]) -> str:
    """Say what to do about an array that is not an image's."""
    if len(shape) == 4:
        return "give a list of images, as in list(batch)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "put the channels last, as in array.transpose(1, 2, 0)"
    return "give (H, W), (H, W, 3) or uint8 (H, W, 4)" + ", or choose bands=(1, 2, 3)" * (len(shape) == 3)
