"""Resizing of images, with the pixels that OpenCV or Pillow gives: 8-bit RGB, or float32 of any number of bands.

Networks are sensitive to it. A plain bilinear filter looks at four pixels however much the image shrinks, so that fine
texture turns into noise (aliasing); an antialiased filter is as wide as the pixels that it replaces. mmsegmentation
trains with OpenCV's plain one, transformers with Pillow's antialiased ones.

Pillow's filters are computed here as products of small matrices, in half to two thirds of its time, with its pixels:
the same weights in whole multiples of 2^-22, and the same two passes, each rounded to 8 bits. In float64 these sums are
exact, so ties are broken as Pillow breaks them; in float32 one pixel in a thousand would be another. Of float32 images
nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["INTERPOLATIONS", "Interpolation", "Pixels", "is_resized_in_strips", "resize_image", "resize_in_strips"]

Pixels: TypeAlias = NDArray[np.uint8 | np.float32]
"""(H, W, 3) uint8 RGB; or float32 bands on the scale of a `BandRule`, with NaN in gaps."""

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "area", "hamming"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

_SUPPORTS = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0, "area": 0.5, "hamming": 1.0}
"""How far Pillow's filters reach, in pixels of the smaller image."""
_OPENCVS = {
    "nearest": "INTER_NEAREST_EXACT",
    "bilinear": "INTER_LINEAR",
    "bicubic": "INTER_CUBIC",
    "lanczos": "INTER_LANCZOS4",
}

PRECISION = 1 << 22  # of Pillow's weights
BLOCK = 4  # lines of the result that one matrix product makes; with more, most of the matrix is zeros
WINDOW = 48  # lines of the source, or of the result where that is larger, worked on at once: they stay in the cache
PRODUCT = 1 << 18  # multiplications at once, beyond which BLAS would start threads
STRIP = 1 << 21  # pixels transposed at once


def resize_image(image_HWC: Pixels, size: tuple[int, int], interpolation: Interpolation, antialias: bool) -> Pixels:
    """Return the image at another size; the same array where it has that size.

    Args:
        image_HWC: the image.
        size: (height, width) to give it.
        interpolation: the filter. "nearest" takes the pixel at the centre, "area" averages what a pixel covers; both
            are the same with and without `antialias`.
        antialias: Pillow's filter, which widens when the image shrinks, instead of OpenCV's, which does not.
    """
    height, width = size
    if size == image_HWC.shape[:2]:
        return image_HWC
    if _is_opencvs(image_HWC.shape[:2], size, interpolation, antialias):
        import cv2

        flag = getattr(cv2, _OPENCVS[interpolation])
        resized = cv2.resize(image_HWC, (width, height), interpolation=flag)  # which drops a dimension of one band
        return np.asarray(resized, image_HWC.dtype).reshape(height, width, -1)
    if _begins_with_rows(image_HWC.shape[:2], size):
        return _resize_columns(_resize_rows(image_HWC, height, interpolation), width, interpolation)
    return _resize_rows(_resize_columns(image_HWC, width, interpolation), height, interpolation)


def is_resized_in_strips(
    source: tuple[int, int], size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> bool:
    """Tell whether `resize_in_strips` works: OpenCV's filters need the whole image."""
    return source == size or not _is_opencvs(source, size, interpolation, antialias)


def resize_in_strips(
    read_rows: Callable[[int, int], Pixels],
    source: tuple[int, int],
    size: tuple[int, int],
    interpolation: Interpolation,
) -> Pixels:
    """Resize as `resize_image` does, reading the image in strips of rows.

    Args:
        read_rows: gives the rows from a first one to before a last one, (rows, W, 3). It is asked for them from the
            top, some of them twice.
        source: (height, width) of the image.
        size: (height, width) to give it; `is_resized_in_strips` says whether that can be done.
        interpolation: the filter.
    """
    height, width = size
    if source[0] == height:
        step = max(1, STRIP // source[1])
        strips = [read_rows(top, min(top + step, height)) for top in range(0, height, step)]
        return np.concatenate([_resize_columns(strip, width, interpolation) for strip in strips])
    if _begins_with_rows(source, size):
        resized_HWC = _resize_rows_of(read_rows, source[0], source[1], height, interpolation)
        return _resize_columns(resized_HWC, width, interpolation)

    def narrow_rows(first: int, stop: int) -> Pixels:
        return _resize_columns(read_rows(first, stop), width, interpolation)

    return _resize_rows_of(narrow_rows, source[0], width, height, interpolation)


def _resize_rows_of(
    read_rows: Callable[[int, int], Pixels],
    source: int,
    width: int,
    height: int,
    interpolation: Interpolation,
) -> Pixels:
    resized_HWC: Pixels | None = None
    for window in _windows(source, height, interpolation):
        strip_RWC = np.ascontiguousarray(read_rows(window.start, window.stop))
        if resized_HWC is None:
            resized_HWC = np.empty((height, width, strip_RWC.shape[2]), strip_RWC.dtype)
        lines = resized_HWC.reshape(height, -1)
        _resize_windows(strip_RWC.reshape(len(strip_RWC), -1), lines, [window], interpolation, window.start)
    assert resized_HWC is not None
    return resized_HWC


def _is_opencvs(source: tuple[int, int], size: tuple[int, int], interpolation: Interpolation, antialias: bool) -> bool:
    # Where nothing shrinks the two bilinear filters are the same to one grey level, and OpenCV's is the faster one.
    shrinks = size[0] < source[0] or size[1] < source[1]
    same = interpolation == "nearest" or (interpolation == "bilinear" and not shrinks)
    return interpolation in _OPENCVS and (same or not antialias)


def _begins_with_rows(source: tuple[int, int], size: tuple[int, int]) -> bool:
    """Pillow 13's order; earlier ones always begin with the columns."""
    lost_rows, lost_columns = source[0] - size[0], source[1] - size[1]
    return lost_rows > max(0, 2 * lost_columns)


def _resize_rows(image_HWC: Pixels, height: int, interpolation: Interpolation) -> Pixels:
    if image_HWC.shape[0] == height:
        return image_HWC
    lines = _resize_lines(image_HWC.reshape(image_HWC.shape[0], -1), height, interpolation)
    return lines.reshape(height, *image_HWC.shape[1:])


def _resize_columns(image_HWC: Pixels, width: int, interpolation: Interpolation) -> Pixels:
    """Resize columns as lines of the transposed image: matrix products are fast along long lines."""
    import cv2

    height, source, C = image_HWC.shape
    if source == width:
        return image_HWC
    resized_HWC = np.empty((height, width, C), image_HWC.dtype)
    step = max(1, STRIP // source)
    for top in range(0, height, step):
        strip, result = (image[top : top + step] for image in (image_HWC, resized_HWC))
        lines = cv2.transpose(strip.reshape(len(strip), -1)).reshape(source, -1)
        resized = _resize_lines(np.asarray(lines, image_HWC.dtype), width, interpolation)
        cv2.transpose(resized.reshape(C * width, -1), result.reshape(len(strip), -1))
    return resized_HWC


def _resize_lines(lines: Pixels, target: int, interpolation: Interpolation) -> Pixels:
    """Return weighted sums of (source, N) lines, (target, N); those of 8 bits are rounded."""
    windows = _windows(len(lines), target, interpolation)
    resized = np.empty((target, lines.shape[1]), lines.dtype)
    _resize_windows(lines, resized, windows, interpolation)
    return resized


def _resize_windows(
    lines: Pixels,
    resized: Pixels,
    windows: Sequence[_Window],
    interpolation: Interpolation,
    top: int = 0,
) -> None:
    """Write the lines of the result that windows make; `lines` begin with line `top` of the source."""
    length = lines.shape[1]
    most_taps = max(block.weights.shape[1] for window in windows for block in window.blocks)
    most_lines = max(window.stop - window.start for window in windows)
    most_made = max(window.end - window.first for window in windows)
    step = max(PRODUCT // (BLOCK * most_taps), 64)
    for left in range(0, length, step):
        part, result = lines[:, left : left + step], resized[:, left : left + step]
        source = np.empty((most_lines, part.shape[1]), np.float64)
        sums = np.empty((most_made, part.shape[1]), np.float64)
        for start, stop, first, end, blocks in windows:
            np.copyto(source[: stop - start], part[start - top : stop - top])
            total = sums[: end - first]
            for at, begin, weights in blocks:
                np.matmul(weights, source[begin : begin + weights.shape[1]], out=total[at : at + len(weights)])
            if resized.dtype == np.uint8:
                total += 0.5
                if _SUPPORTS[interpolation] > 1:  # these have negative weights
                    np.clip(total, 0, 255, out=total)
            np.copyto(result[first:end], total, casting="unsafe")


class _Block(NamedTuple):
    """A few lines of the result as a product: `weights` times the lines of the window from `begin` on."""

    at: int
    begin: int
    weights: NDArray[np.float64]


class _Window(NamedTuple):
    """The lines of the source from `start` to `stop`, of which those of the result from `first` to `end` are made."""

    start: int
    stop: int
    first: int
    end: int
    blocks: tuple[_Block, ...]


@lru_cache(maxsize=16)
def _windows(source: int, target: int, interpolation: Interpolation) -> tuple[_Window, ...]:
    starts, stops, weights = _weights(source, target, interpolation)
    shifts = starts - starts[np.arange(target) // BLOCK * BLOCK]
    shifted = np.zeros((target, int(shifts.max()) + weights.shape[1]))
    np.put_along_axis(shifted, shifts[:, None] + np.arange(weights.shape[1]), weights, 1)
    count = max(1, int(WINDOW * min(target / source, 1) / BLOCK)) * BLOCK
    windows = []
    for first in range(0, target, count):
        end, start, blocks = min(first + count, target), int(starts[first]), []
        for top in range(first, end, BLOCK):
            bottom, begin = min(top + BLOCK, end), int(starts[top])
            blocks.append(_Block(top - first, begin - start, shifted[top:bottom, : int(stops[bottom - 1]) - begin]))
        windows.append(_Window(start, int(stops[end - 1]), first, end, tuple(blocks)))
    return tuple(windows)


def _weights(
    source: int, target: int, interpolation: Interpolation
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return, for each line of the result, the first line of the source, the end, and the (target, taps) weights."""
    scale = source / target
    stretch = max(scale, 1.0)
    support = _SUPPORTS[interpolation] * stretch
    centres = (np.arange(target) + 0.5) * scale
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + support + 0.5).astype(np.int64), source)
    lines = starts[:, None] + np.arange(math.ceil(support) * 2 + 1)
    weights = _filter((lines - centres[:, None] + 0.5) / stretch, interpolation) * (lines < stops[:, None])
    weights /= weights.sum(1, keepdims=True)
    return starts, stops, np.trunc(weights * PRECISION + np.copysign(0.5, weights)) / PRECISION


def _filter(x: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    distance = np.abs(x)
    if interpolation == "area":
        return ((x > -0.5) & (x <= 0.5)).astype(np.float64)
    if interpolation == "bilinear":
        return np.where(distance < 1, 1 - distance, 0)
    if interpolation == "bicubic":
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        return np.where(distance < 1, near, np.where(distance < 2, far, 0))
    if interpolation == "hamming":
        a, b = float(np.float32(0.54)), float(np.float32(0.46))  # as in Pillow's source
        return np.where(distance < 1, np.sinc(x) * (a + b * np.cos(np.pi * x)), 0)
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)
