"""Argmax and softmax of bilinearly upsampled logits, without building the (K, H, W) logits.

The papers resize the logits bilinearly to the network's input size, then to the image's, and take the winning class of
every pixel. Done literally that builds K planes of the image's size, 5 GB for a 4K image and 150 classes, to keep one
byte per pixel. Here the resizes are composed first: along each axis an output position is a weighted mean of a few
source positions (`resize_axis.py`), and positions that share theirs form a group. A group of rows crossed with a group
of columns is a *cell*: its output pixels are all convex combinations of the same few logits, those at its *corners*.

1. Where one class wins at all corners of a cell, it wins at every pixel of the cell. Nothing is interpolated.
2. In the other, *mixed* cells (`boundary_cells.py`), take two or three classes that win at corners, and at each corner
   the mean of their logits. A pixel's best class is at least the interpolation of these means. So a class that lies
   below the mean at every corner lies below it at every pixel, and cannot win. Nearly always that leaves only the two
   winners, whose difference is the one thing to interpolate.
3. In the few cells with more candidates, a class must also reach, at some corner, the best of the candidates' smallest
   corner values: some class is at least that everywhere. The candidates that remain compete pixel by pixel.

Ties go to the lowest class index, as argmax has it. The mask is that of ``F.interpolate(mode="bilinear",
align_corners=False)`` to each size in turn and argmax, up to classes that are equal within float32 rounding. Memory
beyond the mask is a few strips' worth of rows, whatever the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.inference.upsample.boundary_cells import Painter, in_memory_order, require_finite
from terrazzo.inference.upsample.resize_axis import ComposedAxis, compose_axis, interpolate

__all__ = ["confidence_along", "confidence_of", "probability_strips_along", "upsample_argmax", "winners_along"]

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]
Classes: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16

# Source logits, and resized ones, worked on at a time: about a processor's caches. The results do not depend on them.
_STRIP_FLOATS = 4 << 20
_PROBABILITY_FLOATS = 1 << 20
_COLUMNS_AT_ONCE = 128


def upsample_argmax(logits_KHW: Floats, sizes: Sequence[tuple[int, int]]) -> Classes:
    """The winning class of every pixel after resizing the logits to each size in turn.

    Both memory orders are fast and read in place: classes last (a (K, H, W) view of what a channels-last network gives)
    and contiguous planes (what exported models give). Any other order, or dtype, is copied once.

    Args:
        logits_KHW: the network's output for one image.
        sizes: (height, width) of each resize, usually of the network's input and then of the image. Sizes may shrink
            and grow; none at all means the logits' own.

    Returns:
        The mask of the last size, uint8 for up to 255 classes, else uint16.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite"). Minus infinity passes for a class
            that is nowhere near winning.
    """
    _, height, width = logits_KHW.shape
    rows = compose_axis(height, tuple(size[0] for size in sizes))
    return winners_along(logits_KHW, rows, compose_axis(width, tuple(size[1] for size in sizes)))


def winners_along(logits_KHW: Floats, rows: ComposedAxis, columns: ComposedAxis) -> Classes:
    """As :func:`upsample_argmax`, for logits whose rows and columns become the mask's in any composed way."""
    num_classes, height, width = logits_KHW.shape
    logits = in_memory_order(logits_KHW)
    mixed = np.uint8(255) if num_classes <= 255 else np.uint16(65535)
    winner = np.empty(height * width, mixed.dtype)
    top = np.empty(height * width, np.float32)
    mask_HW = np.empty((rows.length, columns.length), mixed.dtype)
    searched = 0
    for first, stop in rows.strips(_STRIP_FLOATS // (num_classes * width)):
        low, high = int(rows.taps_TG[0, first]), int(rows.last_G[stop - 1]) + 1
        fresh = slice(max(searched, low) * width, high * width)
        searched = high
        logits.find_winners(fresh, winner, top)
        require_finite(top[fresh])

        strip = slice(low * width, high * width)
        agreed_GW = _agree(winner[strip].reshape(-1, width), rows.taps_TG[:, first:stop] - low, mixed, axis=0)
        agreed_GG = _agree(agreed_GW, columns.taps_TG, mixed, axis=1)
        here = slice(rows.start_G[first], rows.start_G[stop])
        filled_GW = agreed_GG.take(columns.group_O, axis=1)
        np.take(filled_GW, rows.group_O[here] - first, axis=0, out=mask_HW[here], mode="clip")

        cell = np.flatnonzero(agreed_GG == mixed)
        if cell.size:
            row_C = cell // columns.last_G.size
            column_C = cell - row_C * columns.last_G.size
            painter = Painter(logits, strip, winner[strip], top[strip], width, rows, columns, mask_HW)
            painter.paint(row_C + first, column_C)
    return mask_HW


def probability_strips_along(
    logits_KHW: Floats, rows: ComposedAxis, columns: ComposedAxis, temperature: float = 1.0
) -> Iterator[tuple[int, Floats]]:
    """Class probabilities (softmax of the resized logits) in strips of output rows, from the top.

    The strips' heights follow from the number of classes and the length of `columns` alone. The logits are divided by
    the temperature first.

    Yields:
        A strip's first row, and its (K, rows, W) probabilities.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite").
    """
    for top, margin_KRW in _iter_margins(logits_KHW, rows, columns, temperature):
        np.exp(margin_KRW, out=margin_KRW)
        margin_KRW /= margin_KRW.sum(axis=0)
        yield top, margin_KRW


def confidence_along(
    logits_KHW: Floats, rows: ComposedAxis, columns: ComposedAxis, temperature: float = 1.0
) -> tuple[Floats, Floats]:
    """Confidence and entropy of each pixel's softmax, without building (K, H, W) probabilities.

    The logits are divided by the temperature first.

    Returns:
        The (H, W) largest probability, and the (H, W) entropy divided by log K: 0 is certain, 1 is uniform.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite").
    """
    height, width = rows.length, columns.length
    highest_HW, entropy_HW = np.empty((height, width), np.float32), np.zeros((height, width), np.float32)
    for top, margin_KRW in _iter_margins(logits_KHW, rows, columns, temperature):
        here = slice(top, top + margin_KRW.shape[1])
        np.maximum(margin_KRW, -87, out=margin_KRW)  # below it exp is not a normal float32, and slow
        share_KRW = np.exp(margin_KRW)
        total_RW = share_KRW.sum(axis=0)
        highest_HW[here] = 1 / total_RW
        if len(logits_KHW) > 1:
            share_KRW *= margin_KRW
            entropy_RW = np.log(total_RW) - share_KRW.sum(axis=0) / total_RW
            entropy_HW[here] = np.clip(entropy_RW / math.log(len(logits_KHW)), 0, 1)
    return highest_HW, entropy_HW


def confidence_of(probabilities_KRW: Floats) -> tuple[Floats, Floats]:
    """Confidence and entropy of (K, rows, W) probabilities, as :func:`confidence_along` has them."""
    num_classes = len(probabilities_KRW)
    if num_classes == 1:
        return probabilities_KRW[0], np.zeros_like(probabilities_KRW[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms_KRW = probabilities_KRW * np.log(probabilities_KRW)
    entropy_RW = -np.nansum(terms_KRW, axis=0) / math.log(num_classes)  # NaN is 0 times log 0
    return probabilities_KRW.max(axis=0), entropy_RW.clip(0, 1)


def _iter_margins(
    logits_KHW: Floats, rows: ComposedAxis, columns: ComposedAxis, temperature: float
) -> Iterator[tuple[int, Floats]]:
    """Strips of the resized logits (K, rows, W), less each pixel's largest and divided by the temperature; and the
    strips' first rows."""
    num_classes = len(logits_KHW)
    blocks = list(_column_blocks(columns))
    step = max(1, _PROBABILITY_FLOATS // (num_classes * columns.length))
    for top in range(0, rows.length, step):
        here = slice(top, min(top + step, rows.length))
        taps_TR = rows.taps_TG.take(rows.group_O[here], axis=1)
        needed, taps_TR = _needed(taps_TR)
        source_KRw = np.ascontiguousarray(logits_KHW[:, needed], dtype=np.float32)
        tall = [source_KRw.take(taps_R, axis=1) for taps_R in taps_TR]
        strip_KRW = np.empty((num_classes, here.stop - top, columns.length), np.float32)
        with np.errstate(invalid="ignore"):  # infinite logits give NaN here, and are refused just below
            tall_KRw = interpolate(tall, [weights_R[here, None] for weights_R in rows.weights_TO[1:]])
            for taps, outputs, weights in blocks:
                np.matmul(tall_KRw[..., taps], weights, out=strip_KRW[..., outputs])
        largest_RW = strip_KRW.max(axis=0)
        require_finite(largest_RW)
        strip_KRW -= largest_RW
        if temperature != 1:
            strip_KRW *= np.float32(1 / temperature)
        yield top, strip_KRW


def _column_blocks(columns: ComposedAxis) -> Iterator[tuple[slice | Indices, slice, Floats]]:
    """Source columns, a run of output columns that need no others, and the matrix from the one to the other."""
    taps_TO = columns.taps_TG.take(columns.group_O, axis=1)
    for start in range(0, columns.length, _COLUMNS_AT_ONCE):
        outputs = slice(start, min(start + _COLUMNS_AT_ONCE, columns.length))
        needed, taps_TP = _needed(taps_TO[:, outputs])
        weights = np.zeros((int(taps_TP.max()) + 1, outputs.stop - start), np.float32)
        np.add.at(weights, (taps_TP, np.arange(weights.shape[1])), columns.weights_TO[:, outputs])
        yield needed, outputs, weights


def _needed(taps: Indices) -> tuple[slice | Indices, Indices]:
    """The sources that taps refer to, as a run where they are one, and the taps counted among them."""
    sources, among = np.unique(taps, return_inverse=True)
    low, high = int(sources[0]), int(sources[-1]) + 1
    return slice(low, high) if high - low == sources.size else sources, among.reshape(taps.shape)


def _agree(winner: Classes, taps_TG: Indices, mixed: np.uint8 | np.uint16, axis: int) -> Classes:
    """The class that the taps of each group share along an axis, or ``mixed``, which is the largest value."""
    first = winner.take(taps_TG[0], axis=axis)
    agreed: Classes = first
    for taps in taps_TG[1:]:
        differs = winner.take(taps, axis=axis) != first
        agreed = np.maximum(agreed, differs.view(np.uint8) * mixed)
    return agreed
