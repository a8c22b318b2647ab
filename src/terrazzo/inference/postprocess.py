"""From a network's logits to a mask at the photo's size: resize, then argmax, exactly and cheaply.

The papers resize the logits bilinearly to the network's input size, then to the photo's, and take the winning class of
every pixel. Done literally that builds K planes of the photo's size, 5 GB for a 4K photo and 150 classes, to keep one
byte per pixel of it. Here the resizes are composed first: along one axis every output row is a convex combination of a
few source rows (its *taps*), and consecutive output rows that share their taps form a *group*. A group of rows crossed
with a group of columns is a *cell*: every output pixel in it is a convex combination of the same few logits, the
cell's *corners*.

1. Where one class wins at all corners of a cell, it wins at every pixel of the cell. Nothing is interpolated.
2. In the other, *mixed* cells, let M be the mean, corner by corner, of the logits of two or three classes that win
   there. At each pixel the best class is at least the interpolation of M. So a class that lies below M at every corner
   is below it at every pixel, and cannot win. Almost always that leaves the two winners, whose difference alone is
   interpolated. (Neither class needs a high value of its own: M follows one winner's slope down and the other's up.)
3. In the few cells with more classes, a class must also reach, at some corner, the largest of the candidates' smallest
   corner values. What is left competes pixel by pixel.

Ties go to the lowest class index, as argmax does. The mask equals ``F.interpolate(mode="bilinear",
align_corners=False)`` for each size in turn followed by argmax, up to classes that are equal within float32 rounding.
Memory beyond the mask is a few strips' worth, whatever the number of classes.

Letters in names: K classes, H and W rows and columns; N source pixels, O outputs along an axis, G groups, P outputs of
one group, T taps, C mixed cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError

__all__ = ["confidence_maps", "iter_probability_strips", "upsample_argmax", "upsample_probabilities"]

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]
Classes: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Bools: TypeAlias = NDArray[np.bool_]

# Sizes that suit a processor's second-level (parts) and third-level (strips) cache; results do not depend on them.
_STRIP_FLOATS = 3 << 20
_PART_FLOATS = 1 << 15
_ROWS_AT_ONCE = 512
_PLANE_AT_ONCE = 1 << 15
# Longer groups are split, so that a cell never holds more than 16 x 16 pixels.
_LONGEST_GROUP = 16
# At most this many classes are searched as planes, because a search along pixels costs a call per pixel.
_FEW_CLASSES = 32


def upsample_argmax(logits_KHW: Floats, sizes: Sequence[tuple[int, int]]) -> Classes:
    """The winning class of every pixel after resizing the logits to each size in turn.

    Fast for either memory order without a copy: classes last (a ``(K, H, W)`` view of what a channels-last network
    gives) or C-contiguous planes (what exported models give). Any other order or dtype is copied once.

    Args:
        logits_KHW: the network's output for one image.
        sizes: (height, width) of each resize, usually the network's input and then the photo. May shrink or grow.

    Returns:
        A mask of the last size, uint8 for up to 255 classes, else uint16.

    Raises:
        CheckpointError: a logit that could decide a pixel is NaN or infinite (code "logits-not-finite").
    """
    num_classes, height, width = logits_KHW.shape
    rows = _compose_axis(height, tuple(size[0] for size in sizes))
    columns = _compose_axis(width, tuple(size[1] for size in sizes))
    logits = _in_memory_order(logits_KHW)
    dtype = np.dtype(np.uint8 if num_classes <= 255 else np.uint16)
    winner_N, top_N = np.empty(height * width, dtype), np.empty(height * width, np.float32)
    mask_HW = np.empty((rows.length, columns.length), dtype)
    mixed = dtype.type(np.iinfo(dtype).max)
    searched = 0
    for first, stop in rows.strips(_STRIP_FLOATS // (num_classes * width)):
        low, high = int(rows.taps_TG[0, first]), int(rows.last_G[stop - 1]) + 1
        fresh = slice(max(searched, low) * width, high * width)
        logits.find_winners(fresh, winner_N, top_N)
        _require_finite(top_N[fresh])
        searched = high
        strip = slice(low * width, high * width)
        cells = _agree(winner_N[strip].reshape(-1, width), rows.taps_TG[:, first:stop] - low, mixed, axis=0)
        cells = _agree(cells, columns.taps_TG, mixed, axis=1)
        here = slice(rows.start_G[first], rows.start_G[stop])
        wide = cells.take(columns.group_O, axis=1)
        np.take(wide, rows.group_O[here] - first, axis=0, out=mask_HW[here], mode="clip")
        cell = np.flatnonzero(cells == mixed)
        if cell.size:
            row_C = cell // columns.last_G.size
            column_C = cell - row_C * columns.last_G.size
            painter = _Painter(logits, strip, winner_N[strip], top_N[strip], width, rows, columns, mask_HW)
            painter.paint(row_C + first, column_C)
    return mask_HW


def iter_probability_strips(
    logits_KHW: Floats, sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, Floats]]:
    """Class probabilities (softmax of the resized logits) in strips of output rows, from the top.

    Args:
        logits_KHW: the network's output for one image.
        sizes: (height, width) of each resize in turn.

    Yields:
        The strip's first row and its (K, rows, W) probabilities.

    Raises:
        CheckpointError: a logit is NaN or infinite (code "logits-not-finite").
    """
    for top, margin_KRW in _iter_margins(logits_KHW, sizes):
        np.exp(margin_KRW, out=margin_KRW)
        margin_KRW /= margin_KRW.sum(axis=0)
        yield top, margin_KRW


def upsample_probabilities(logits_KHW: Floats, sizes: Sequence[tuple[int, int]]) -> Floats:
    """The (K, H, W) class probabilities of the last size; see :func:`iter_probability_strips`."""
    height, width = sizes[-1] if sizes else logits_KHW.shape[1:]
    out_KHW = np.empty((len(logits_KHW), height, width), np.float32)
    for top, strip_KRW in iter_probability_strips(logits_KHW, sizes):
        out_KHW[:, top : top + strip_KRW.shape[1]] = strip_KRW
    return out_KHW


def confidence_maps(logits_KHW: Floats, sizes: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
    """How sure the model is of each pixel, without ever holding (K, H, W) probabilities.

    Args:
        logits_KHW: the network's output for one image.
        sizes: (height, width) of each resize in turn.

    Returns:
        The (H, W) largest probability, and the (H, W) entropy divided by log K: 0 is certain, 1 is uniform.

    Raises:
        CheckpointError: a logit is NaN or infinite (code "logits-not-finite").
    """
    height, width = sizes[-1] if sizes else logits_KHW.shape[1:]
    highest_HW, entropy_HW = np.empty((height, width), np.float32), np.zeros((height, width), np.float32)
    for top, margin_KRW in _iter_margins(logits_KHW, sizes):
        here = slice(top, top + margin_KRW.shape[1])
        np.maximum(margin_KRW, -87, out=margin_KRW)  # exp of less is no normal float32, and slow
        share_KRW = np.exp(margin_KRW)
        total = share_KRW.sum(axis=0)
        highest_HW[here] = 1 / total
        if len(logits_KHW) > 1:
            share_KRW *= margin_KRW
            entropy = np.log(total) - share_KRW.sum(axis=0) / total
            entropy_HW[here] = np.clip(entropy / math.log(len(logits_KHW)), 0, 1)
    return highest_HW, entropy_HW


def _iter_margins(logits_KHW: Floats, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Floats]]:
    """Strips of the resized logits, (K, rows, W), less each pixel's largest."""
    num_classes, height, width = logits_KHW.shape
    rows = _compose_axis(height, tuple(size[0] for size in sizes))
    columns = _compose_axis(width, tuple(size[1] for size in sizes))
    step = max(1, _STRIP_FLOATS // (num_classes * columns.length))
    taps_TW = columns.taps_TG.take(columns.group_O, axis=1)
    for top in range(0, rows.length, step):
        here = slice(top, min(top + step, rows.length))
        taps_TR = rows.taps_TG.take(rows.group_O[here], axis=1)
        tall = [logits_KHW.take(taps, axis=1) for taps in taps_TR]
        tall_KRw = _interpolate(tall, [weights[here, None] for weights in rows.weights_TO[1:]])
        tall_KRw = np.ascontiguousarray(tall_KRw, dtype=np.float32)
        strip_KRW = _interpolate([tall_KRw.take(taps, axis=2) for taps in taps_TW], list(columns.weights_TO[1:]))
        largest = strip_KRW.max(axis=0)
        _require_finite(largest)
        yield top, strip_KRW - largest


# --- The two memory orders -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PixelMajor:
    """Logits with all classes of a pixel side by side."""

    flat: Floats
    num_classes: int

    @property
    def strides(self) -> tuple[int, int]:
        """Steps in ``flat`` from a pixel to the next and from a class to the next."""
        return self.num_classes, 1

    def find_winners(self, pixels: slice, winner_N: Classes, top_N: Floats) -> None:
        """Write the winning class and its logit for a range of pixels; NaN counts as the largest."""
        logits_NK = self.flat.reshape(-1, self.num_classes)
        origin = np.arange(0, _ROWS_AT_ONCE * self.num_classes, self.num_classes)
        for start in range(pixels.start, pixels.stop, _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, pixels.stop))
            winner = logits_NK[part].argmax(axis=1)
            winner_N[part] = winner
            winner += origin[: winner.size]
            top_N[part] = logits_NK[part].reshape(-1).take(winner, mode="clip")

    def find_rivals(self, pixels: slice, threshold_N: Floats, winner_N: Classes) -> tuple[Indices, Indices]:
        """Every class but the winner that reaches its pixel's threshold: pixels (from the range's first), classes."""
        logits_NK = self.flat.reshape(-1, self.num_classes)[pixels]
        pixel = np.flatnonzero(threshold_N < np.inf)
        rows = np.empty((_ROWS_AT_ONCE, self.num_classes), np.float32)
        level, reached = np.empty_like(rows), np.empty(rows.shape, np.bool_)
        pixels, classes = [], []
        for start in range(0, pixel.size, _ROWS_AT_ONCE):
            part = pixel[start : start + _ROWS_AT_ONCE]
            n = part.size
            np.take(logits_NK, part, axis=0, out=rows[:n], mode="clip")
            level[:n] = threshold_N.take(part)[:, None]  # a flat comparison is faster than one broadcast per row
            np.greater_equal(rows[:n], level[:n], out=reached[:n])
            at = np.flatnonzero(reached[:n])
            row = at // self.num_classes
            pixels.append(part.take(row))
            classes.append(at - row * self.num_classes)
        return _without_winners(np.concatenate(pixels), np.concatenate(classes), winner_N)


@dataclass(frozen=True)
class _ClassMajor:
    """Logits as one plane of pixels per class."""

    flat: Floats
    num_classes: int

    @property
    def strides(self) -> tuple[int, int]:
        """Steps in ``flat`` from a pixel to the next and from a class to the next."""
        return 1, self.flat.size // self.num_classes

    def find_winners(self, pixels: slice, winner_N: Classes, top_N: Floats) -> None:
        """Write the winning class and its logit for a range of pixels; NaN stays as the logit."""
        logits_KN = self.flat.reshape(self.num_classes, -1)
        for start in range(pixels.start, pixels.stop, _PLANE_AT_ONCE):
            part = slice(start, min(start + _PLANE_AT_ONCE, pixels.stop))
            winner, top = winner_N[part], top_N[part]
            winner[:], top[:] = 0, logits_KN[0, part]
            ahead = np.empty(top.size, np.bool_)
            index = np.empty_like(winner)
            for k in range(1, self.num_classes):
                plane = logits_KN[k, part]
                np.greater(plane, top, out=ahead)
                np.maximum(plane, top, out=top)
                np.multiply(ahead.view(np.uint8), winner.dtype.type(k), out=index)
                np.maximum(winner, index, out=winner)  # k only grows, so this assigns it wherever it is ahead

    def find_rivals(self, pixels: slice, threshold_N: Floats, winner_N: Classes) -> tuple[Indices, Indices]:
        """Every class but the winner that reaches its pixel's threshold: pixels (from the range's first), classes."""
        reached = np.empty(threshold_N.size, np.bool_)
        found = []
        for plane in self.flat.reshape(self.num_classes, -1)[:, pixels]:
            np.greater_equal(plane, threshold_N, out=reached)
            found.append(np.flatnonzero(reached))
        classes = np.repeat(np.arange(self.num_classes), [pixel.size for pixel in found])
        return _without_winners(np.concatenate(found), classes, winner_N)


def _without_winners(pixel: Indices, classes: Indices, winner_N: Classes) -> tuple[Indices, Indices]:
    rival = np.flatnonzero(winner_N.take(pixel) != classes)
    return pixel.take(rival), classes.take(rival)


def _in_memory_order(logits_KHW: Floats) -> _PixelMajor | _ClassMajor:
    num_classes = len(logits_KHW)
    logits_HWK = np.asarray(logits_KHW, dtype=np.float32).transpose(1, 2, 0)
    if logits_KHW.flags.c_contiguous:
        return _ClassMajor(np.ascontiguousarray(logits_KHW, dtype=np.float32).reshape(-1), num_classes)
    logits_NK = np.ascontiguousarray(logits_HWK).reshape(-1, num_classes)
    if num_classes <= _FEW_CLASSES:
        import cv2

        return _ClassMajor(cv2.transpose(logits_NK).reshape(-1), num_classes)
    return _PixelMajor(logits_NK.reshape(-1), num_classes)


# --- Mixed cells -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cells:
    """Mixed cells with equally many taps and, at most, equally many pixels."""

    taps: tuple[int, int]
    outputs: tuple[int, int]
    row_C: Indices
    column_C: Indices
    corner_TC: Indices  # pixels, from the strip's first
    bound_TC: Floats  # M of the module's docstring
    lead_TC: Floats  # logit of the higher less that of the lower of two winning classes, by index
    low_C: Classes
    high_C: Classes
    third_C: Bools  # more than two classes win at the corners


@dataclass(frozen=True)
class _Painter:
    """Decides the mixed cells of one strip and writes their pixels into the mask."""

    logits: _PixelMajor | _ClassMajor
    strip: slice
    winner_N: Classes
    top_N: Floats
    width: int
    rows: _Axis
    columns: _Axis
    mask_HW: Classes

    def paint(self, row_C: Indices, column_C: Indices) -> None:
        """Write every pixel of the mixed cells at these row and column groups."""
        batches = list(self._compare_winners(row_C, column_C))
        threshold_N = np.full(self.top_N.size, np.inf, np.float32)
        for cells in batches:
            np.minimum.at(threshold_N, cells.corner_TC.reshape(-1), cells.bound_TC.reshape(-1))
        pixel, rival = self.logits.find_rivals(self.strip, threshold_N, self.winner_N)
        strongest_N = np.full(self.top_N.size, -np.inf, np.float32)
        np.maximum.at(strongest_N, pixel, self._logits_of(pixel, rival))
        contested = np.flatnonzero(strongest_N > -np.inf)
        slot_N = np.zeros(self.top_N.size, np.intp)  # row 0 of rivals_SK is the pixels without any
        slot_N[contested] = np.arange(1, contested.size + 1)
        rivals_SK = np.zeros((contested.size + 1, self.logits.num_classes), np.bool_)
        rivals_SK.reshape(-1)[slot_N.take(pixel) * self.logits.num_classes + rival] = True
        for cells in batches:
            crowded_C = cells.third_C | (strongest_N.take(cells.corner_TC) >= cells.bound_TC).any(axis=0)
            step = _PART_FLOATS // math.prod(cells.outputs)
            for part in _parts(np.flatnonzero(~crowded_C), step):
                patch = self._patch(cells, part)
                ahead = patch.interpolate(cells.lead_TC.take(part, axis=1)) > 0
                patch.write(self.mask_HW, _choose(ahead, cells.high_C.take(part), cells.low_C.take(part)))
            for part in _parts(np.flatnonzero(crowded_C), step):
                self._let_compete(cells, part, slot_N, rivals_SK)

    def _compare_winners(self, row_C: Indices, column_C: Indices) -> Iterator[_Cells]:
        for i, (row_taps, row_outputs) in enumerate(self.rows.kinds):
            for j, (column_taps, column_outputs) in enumerate(self.columns.kinds):
                here = np.flatnonzero((self.rows.kind_G.take(row_C) == i) & (self.columns.kind_G.take(column_C) == j))
                if here.size:
                    taps, outputs = (row_taps, column_taps), (row_outputs, column_outputs)
                    yield self._compare_two(taps, outputs, row_C.take(here), column_C.take(here))

    def _compare_two(
        self, taps: tuple[int, int], outputs: tuple[int, int], row_C: Indices, column_C: Indices
    ) -> _Cells:
        row_taps = self.rows.taps_TG[: taps[0]].take(row_C, axis=1) * self.width - self.strip.start
        column_taps = self.columns.taps_TG[: taps[1]].take(column_C, axis=1)
        corner_TC = (row_taps[:, None] + column_taps).reshape(math.prod(taps), -1)
        winner_TC = self.winner_N.take(corner_TC)
        one, two = winner_TC[0], winner_TC[-1]
        for winner in winner_TC[-2:0:-1]:
            two = _choose(two == one, winner, two)
        is_one = winner_TC == one
        third_C = ~(is_one | (winner_TC == two)).all(axis=0)
        top_TC = self.top_N.take(corner_TC)
        other_TC = self._logits_of(corner_TC, _choose(is_one, two, one))
        bound_TC = _mean(top_TC, other_TC)
        low, high = np.minimum(one, two), np.maximum(one, two)
        sign_TC = (winner_TC == high).astype(np.float32) * 2 - 1
        lead_TC = (top_TC - other_TC) * sign_TC
        odd = np.flatnonzero(third_C)
        if odd.size:
            corner, winner_, one, two = corner_TC.take(odd, axis=1), winner_TC.take(odd, axis=1), one[odd], two[odd]
            three = one
            for winner in winner_[1:-1]:
                three = _choose((winner != one) & (winner != two), winner, three)
            mean = _mean(self._logits_of(corner, one), self._logits_of(corner, two))
            bound_TC[:, odd] = _mean(mean, self._logits_of(corner, three))
        _require_finite(bound_TC)
        return _Cells(taps, outputs, row_C, column_C, corner_TC, bound_TC, lead_TC, low, high, third_C)

    def _let_compete(self, cells: _Cells, part: Indices, slot_N: Indices, rivals_SK: Bools) -> None:
        """Point 3 of the module's docstring; ``part`` picks the cells."""
        num_classes = self.logits.num_classes
        corner_TC = cells.corner_TC.take(part, axis=1)
        candidate_CK = rivals_SK.take(slot_N.take(corner_TC[0]), axis=0)
        for corner in corner_TC[1:]:
            candidate_CK |= rivals_SK.take(slot_N.take(corner), axis=0)
        candidate_CK.reshape(-1)[np.arange(part.size) * num_classes + self.winner_N.take(corner_TC)] = True
        at = np.flatnonzero(candidate_CK)
        cell = at // num_classes
        candidate = at - cell * num_classes
        logit_T = self._logits_of(corner_TC.take(cell, axis=1), candidate)
        _require_finite(logit_T)
        count_C = np.bincount(cell)
        floor_C = np.maximum.reduceat(logit_T.min(axis=0), np.cumsum(count_C) - count_C)
        able = logit_T.max(axis=0) >= floor_C.take(cell)
        able &= (logit_T >= cells.bound_TC.take(part, axis=1).take(cell, axis=1)).any(axis=0)
        keep = np.flatnonzero(able)
        cell, logit_T = cell.take(keep), logit_T.take(keep, axis=1)
        candidate_of = candidate.take(keep).astype(self.winner_N.dtype)

        # With the most contested cells first, those that still have an n-th candidate are a leading run.
        count_C = np.bincount(cell)
        order = np.argsort(-count_C, kind="stable")
        first_C = (np.cumsum(count_C) - count_C).take(order)
        count_C = count_C.take(order)
        patch = self._patch(cells, part.take(order))
        base_TC = logit_T.take(first_C, axis=1)
        best = np.zeros((*cells.outputs, part.size), np.float32)  # all leads are over a cell's first candidate
        label = np.empty(best.shape, candidate_of.dtype)
        label[:] = candidate_of.take(first_C)
        for nth, n in enumerate(np.searchsorted(-count_C, -np.arange(1, count_C[0])), start=1):
            at = first_C[:n] + nth
            lead = patch.interpolate(logit_T.take(at, axis=1) - base_TC[:, :n])
            label[..., :n] = _choose(lead > best[..., :n], candidate_of.take(at), label[..., :n])
            np.maximum(best[..., :n], lead, out=best[..., :n])
        patch.write(self.mask_HW, label)

    def _patch(self, cells: _Cells, part: Indices) -> _Patch:
        row, row_weights = self.rows.outputs_of(cells.row_C.take(part), cells.taps[0], cells.outputs[0])
        column, column_weights = self.columns.outputs_of(cells.column_C.take(part), cells.taps[1], cells.outputs[1])
        return _Patch(cells.taps, row, column, row_weights, column_weights)

    def _logits_of(self, pixel: Indices, classes: Classes | Indices) -> Floats:
        pixel_stride, class_stride = self.logits.strides
        at = classes * np.intp(class_stride) + pixel * pixel_stride
        at += self.strip.start * pixel_stride
        return self.logits.flat.take(at, mode="clip")


@dataclass(frozen=True)
class _Patch:
    """The output pixels of some cells, and how to interpolate there."""

    taps: tuple[int, int]
    row_PC: Indices
    column_PC: Indices
    row_weights: list[Floats]  # (P, C) of each tap but the first
    column_weights: list[Floats]

    def interpolate(self, corner_TC: Floats) -> Floats:
        """From values at the corners of the first n cells to values (P, P, n) at their pixels."""
        row_taps, column_taps = self.taps
        n = corner_TC.shape[1]
        corners = corner_TC.reshape(row_taps, 1, column_taps, n)
        between_rows = _interpolate(list(corners), [weights[:, None, :n] for weights in self.row_weights])
        columns = [between_rows[:, None, t] for t in range(column_taps)]
        return _interpolate(columns, [weights[:, :n] for weights in self.column_weights])

    def write(self, mask_HW: Classes, label: Classes) -> None:
        mask_HW.reshape(-1)[(self.row_PC * mask_HW.shape[1])[:, None] + self.column_PC] = label


# --- Resizing one axis -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """Several bilinear resizes of one axis as one: taps and weights, with outputs of equal taps in groups.

    Taps ascend; a group with fewer than T repeats its first, at weight 0.
    """

    length: int
    taps_TG: Indices
    last_G: Indices  # the largest tap
    start_G: Indices  # first output of each group, and at the end the number of outputs
    outputs_PG: Indices  # outputs of each group, the last repeated where a group has fewer
    group_O: Indices
    weights_TO: Floats
    kinds: tuple[tuple[int, int], ...]  # number of taps, and most outputs of a group with that many
    kind_G: Indices

    def strips(self, most_sources: int) -> Iterator[tuple[int, int]]:
        """Ranges of groups that need about so many source positions."""
        first = 0
        while first < self.last_G.size:
            stop = int(np.searchsorted(self.last_G, self.taps_TG[0, first] + most_sources))
            stop = max(stop, first + 1)
            yield first, stop
            first = stop

    def outputs_of(self, group_C: Indices, taps: int, outputs: int) -> tuple[Indices, list[Floats]]:
        """Outputs (P, C) of the groups, and the weights there of each tap but the first."""
        output_PC = self.outputs_PG[:outputs].take(group_C, axis=1)
        return output_PC, [weights.take(output_PC, mode="clip") for weights in self.weights_TO[1:taps]]


@lru_cache(maxsize=64)
def _compose_axis(source: int, targets: tuple[int, ...]) -> _Axis:
    taps_OT, weights_OT = np.arange(source)[:, None], np.ones((source, 1))
    for target in targets:
        length = len(taps_OT)
        # The source position as F.interpolate computes it, to the bit: a float32 scale and one rounding at the end.
        scale = float(np.float32(length) / np.float32(target))
        at = (scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32).clip(0, length - 1)
        low = at.astype(np.intp)
        high = np.minimum(low + 1, length - 1)
        share = (at - low).astype(np.float64)[:, None]
        taps_OT = np.concatenate([taps_OT[low], taps_OT[high]], axis=1)
        weights_OT = np.concatenate([weights_OT[low] * (1 - share), weights_OT[high] * share], axis=1)
        taps_OT, weights_OT = _merge_taps(taps_OT, weights_OT, source)
    length = len(taps_OT)
    differs = (taps_OT[1:] != taps_OT[:-1]).any(axis=1)
    start = np.flatnonzero(np.concatenate([[True], differs]))
    group_O = np.cumsum(np.concatenate([[False], differs]))
    start = np.union1d(start, np.flatnonzero((np.arange(length) - start[group_O]) % _LONGEST_GROUP == 0))
    size_G = np.diff(start, append=length)
    taps_TG = np.ascontiguousarray(taps_OT[start].T)
    count_G = np.maximum((np.diff(taps_TG, axis=0) > 0).sum(axis=0) + 1, min(2, len(taps_TG)))
    counts = np.unique(count_G)
    return _Axis(
        length=length,
        taps_TG=taps_TG,
        last_G=taps_TG.max(axis=0),
        start_G=np.append(start, length),
        outputs_PG=start + np.minimum(np.arange(size_G.max())[:, None], size_G - 1),
        group_O=np.repeat(np.arange(start.size), size_G),
        weights_TO=np.ascontiguousarray(weights_OT.T, dtype=np.float32),
        kinds=tuple((int(count), int(size_G[count_G == count].max())) for count in counts),
        kind_G=np.searchsorted(counts, count_G),
    )


def _merge_taps(
    taps_OT: Indices, weights_OT: NDArray[np.float64], source: int
) -> tuple[Indices, NDArray[np.float64]]:
    """Add up the weights of equal taps, drop those of no weight and sort the rest."""
    output, tap = np.nonzero(weights_OT)
    key, index = np.unique(output * source + taps_OT[output, tap], return_inverse=True)
    weight = np.bincount(index, weights_OT[output, tap])
    output, tap = np.divmod(key, source)
    count = np.bincount(output)
    first = np.cumsum(count) - count
    slot = np.arange(key.size) - first[output]
    taps_OT = np.repeat(tap[first][:, None], count.max(), axis=1)
    weights_OT = np.zeros(taps_OT.shape)
    taps_OT[output, slot], weights_OT[output, slot] = tap, weight
    return taps_OT, weights_OT


# --- Small pieces ----------------------------------------------------------------------------------------------------


def _interpolate(values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    """The sum of weighted values, where the first value's weight is what the others leave of 1."""
    base = values[0]
    if not weights:
        return base
    total: Floats = weights[0] * (values[1] - base)
    for value, weight in zip(values[2:], weights[1:], strict=True):
        total += weight * (value - base)
    total += base
    return total


def _agree(winner: Classes, taps_TG: Indices, mixed: np.unsignedinteger, axis: int) -> Classes:
    """The class that all taps of each group share along an axis, or ``mixed``."""
    first = winner.take(taps_TG[0], axis=axis)
    agreed = first
    for taps in taps_TG[1:]:
        differs = winner.take(taps, axis=axis) != first
        agreed = np.maximum(agreed, differs.view(np.uint8) * mixed)
    return agreed


def _choose(where: Bools, new: Classes, old: Classes) -> Classes:
    """``np.where`` for small unsigned integers, in arithmetic that wraps around: ten times faster."""
    chosen: Classes = where.view(np.uint8) * (new - old)
    chosen += old
    return chosen


def _mean(one: Floats, two: Floats) -> Floats:
    """Rounded so that it is never above the larger, which keeps winners among the candidates."""
    half = np.float32(0.5)
    mean: Floats = one * half
    mean += two * half
    return mean


def _parts(items: Indices, step: int) -> Iterator[Indices]:
    for start in range(0, items.size, step):
        yield items[start : start + step]


def _require_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        _refuse()


def _refuse() -> NoReturn:
    raise CheckpointError(
        "the model's output holds NaN or infinite values",
        fix="load intact weights, or run the model in float32 instead of half precision",
        code="logits-not-finite",
    )
