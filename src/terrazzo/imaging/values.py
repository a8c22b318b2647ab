"""Conversion of 16-bit, 32-bit and floating-point values to 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ImageError

__all__ = ["remark_on_range", "scaled", "shape_advice"]


def scaled(
    values: NDArray[Any], value_range: tuple[float, float] | None, background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Convert (H, W), (H, W, 1) or (H, W, 3) values to (H, W, 3) uint8.

    Args:
        values: as they are stored.
        value_range: the values that become 0 and 255; None divides 16-bit values by 256.
        background: the colour of pixels that are NaN.

    Raises:
        ImageError: there is no range for values of another type than uint16 (code "image-value-range").
    """
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
    """Add a remark if 16-bit values fill only a part of their range, as those of 10, 12 and 14-bit sensors do."""
    full = 2 ** most.bit_length() - 1
    if 0 < full < 2**15:
        remarks.append(
            f"its 16-bit values reach only {most}, so it comes out dark; --value-range 0,{full} "
            f"(value_range=(0, {full}) in Python) makes the most of them"
        )


def shape_advice(shape: tuple[int, ...]) -> str:
    """Return the fix for an array whose shape is not that of an image."""
    if len(shape) == 4:
        return "give a list of images, as in list(batch)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "put the channels last, as in array.transpose(1, 2, 0)"
    return "give (H, W), (H, W, 3) or uint8 (H, W, 4)" + ", or choose bands=(1, 2, 3)" * (len(shape) == 3)
