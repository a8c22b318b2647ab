"""Argmax of bilinearly upsampled logits along class boundaries, interpolating two or three candidate classes.

`argmax.py` explains why no other class can win, and what cells, corners and mixed cells are.

Letters in names: K classes, N source pixels of a strip, C mixed cells, T corners, P output rows or columns of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError
from terrazzo.inference.upsample.resize_axis import ComposedAxis, interpolate

__all__ = ["ClassMajor", "Painter", "PixelMajor", "in_memory_order", "require_finite"]

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]
Bools: TypeAlias = NDArray[np.bool_]
Classes: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16

# Chosen to suit a processor's second-level cache; the mask does not depend on them.
_PART_FLOATS = 1 << 16
_ROWS_AT_ONCE = 512
_PLANE_AT_ONCE = 1 << 15
# Up to this many classes, planes are searched faster even after a transposition: a search along pixels pays per pixel.
_FEW_CLASSES = 32


def require_finite(values: Floats) -> None:
    """Raise CheckpointError "logits-not-finite" if any value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise CheckpointError(
            "the model's output holds NaN or infinite values",
            fix="use intact weights, or run the model in float32 instead of half precision",
            code="logits-not-finite",
        )


@dataclass(frozen=True)
class PixelMajor:
    """Logits in memory order (pixels, classes)."""

    flat: Floats
    num_classes: int

    @property
    def strides(self) -> tuple[int, int]:
        """Steps in ``flat`` from a pixel to the next and from a class to the next."""
        return self.num_classes, 1

    def find_winners(self, pixels: slice, winner: Classes, top: Floats) -> None:
        """Write the winning class of a range of pixels and its logit, NaN if any class has it."""
        logits_NK = self.flat.reshape(-1, self.num_classes)
        origin = np.arange(0, _ROWS_AT_ONCE * self.num_classes, self.num_classes)
        for start in range(pixels.start, pixels.stop, _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, pixels.stop))
            at = logits_NK[part].argmax(axis=1)
            winner[part] = at
            at += origin[: at.size]
            top[part] = logits_NK[part].reshape(-1).take(at, mode="clip")

    def find_rivals(self, pixels: slice, threshold_N: Floats, winner_N: Classes) -> tuple[Indices, Classes]:
        """Pixels, counted from the range's first, and classes where a class but the winner reaches the threshold."""
        logits_NK = self.flat.reshape(-1, self.num_classes)[pixels]
        pixel = np.flatnonzero(threshold_N < np.inf)
        rows = np.empty((_ROWS_AT_ONCE, self.num_classes), np.float32)
        level, reached = np.empty_like(rows), np.empty(rows.shape, np.bool_)
        origin = np.arange(0, rows.size, self.num_classes)
        found, classes = [np.empty(0, np.intp)], [np.empty(0, winner_N.dtype)]
        for part in _parts(pixel, _ROWS_AT_ONCE):
            n = part.size
            np.take(logits_NK, part, axis=0, out=rows[:n], mode="clip")
            rows.reshape(-1)[origin[:n] + winner_N.take(part)] = -np.inf
            level[:n] = threshold_N.take(part)[:, None]  # one flat comparison is faster than one for each row
            np.greater_equal(rows[:n], level[:n], out=reached[:n])
            at = np.flatnonzero(reached[:n])
            if not at.size:
                continue
            row = at // self.num_classes
            found.append(part.take(row))
            classes.append((at - row * self.num_classes).astype(winner_N.dtype))
        return np.concatenate(found), np.concatenate(classes)


@dataclass(frozen=True)
class ClassMajor:
    """Logits in memory order (classes, pixels)."""

    flat: Floats
    num_classes: int

    @property
    def strides(self) -> tuple[int, int]:
        """Steps in ``flat`` from a pixel to the next and from a class to the next."""
        return 1, self.flat.size // self.num_classes

    def find_winners(self, pixels: slice, winner: Classes, top: Floats) -> None:
        """Write the winning class of a range of pixels and its logit, NaN if any class has it."""
        logits_KN = self.flat.reshape(self.num_classes, -1)
        for start in range(pixels.start, pixels.stop, _PLANE_AT_ONCE):
            part = slice(start, min(start + _PLANE_AT_ONCE, pixels.stop))
            best, best_logit = winner[part], top[part]
            best[:], best_logit[:] = 0, logits_KN[0, part]
            ahead, index = np.empty(best.size, np.bool_), np.empty_like(best)
            for k in range(1, self.num_classes):
                plane = logits_KN[k, part]
                np.greater(plane, best_logit, out=ahead)
                np.maximum(plane, best_logit, out=best_logit)
                np.multiply(ahead.view(np.uint8), best.dtype.type(k), out=index)
                np.maximum(best, index, out=best)  # k only grows, so this assigns it wherever it is ahead

    def find_rivals(self, pixels: slice, threshold_N: Floats, winner_N: Classes) -> tuple[Indices, Classes]:
        """Pixels, counted from the range's first, and classes where a class but the winner reaches the threshold."""
        reached = np.empty(threshold_N.size, np.bool_)
        found = []
        for plane in self.flat.reshape(self.num_classes, -1)[:, pixels]:
            np.greater_equal(plane, threshold_N, out=reached)
            found.append(np.flatnonzero(reached))
        classes = np.repeat(np.arange(self.num_classes, dtype=winner_N.dtype), [pixel.size for pixel in found])
        pixel = np.concatenate(found)
        rival = np.flatnonzero(winner_N.take(pixel) != classes)
        return pixel.take(rival), classes.take(rival)


def in_memory_order(logits_KHW: Floats) -> PixelMajor | ClassMajor:
    """The logits without a copy where they are float32 and contiguous as (K, H, W) or (H, W, K)."""
    num_classes = len(logits_KHW)
    if logits_KHW.flags.c_contiguous:
        return ClassMajor(np.asarray(logits_KHW, dtype=np.float32).reshape(-1), num_classes)
    logits_NK = np.ascontiguousarray(logits_KHW.transpose(1, 2, 0), dtype=np.float32).reshape(-1, num_classes)
    if num_classes <= _FEW_CLASSES:
        import cv2

        logits_KN: Floats = np.asarray(cv2.transpose(logits_NK), dtype=np.float32)
        return ClassMajor(logits_KN.reshape(-1), num_classes)
    return PixelMajor(logits_NK.reshape(-1), num_classes)


@dataclass(frozen=True)
class _Cells:
    """Mixed cells with equally many taps per axis, and the two classes that win at their corners."""

    taps: tuple[int, int]
    outputs: tuple[int, int]  # most output rows and columns of any of the cells
    row_C: Indices
    column_C: Indices
    corner_TC: Indices  # pixels, counted from the strip's first
    bound_TC: Floats  # the mean of the winners' logits
    low_C: Classes  # the winner of lower index
    high_C: Classes
    lead_TC: Floats  # logit of the winner of higher index less that of the other
    third_C: Bools  # a third class wins somewhere; the bound takes it in


@dataclass(frozen=True)
class Painter:
    """Writes the pixels of one strip's mixed cells into the mask.

    Args:
        logits: the whole map's logits.
        strip: the range of the map's pixels that the strip's cells have their corners in, whole rows.
        winner_N: the winning class of the strip's pixels.
        top_N: its logit.
        width: of the map.
        rows: how the map's rows become the mask's.
        columns: how the map's columns become the mask's.
        mask_HW: what to write into.
    """

    logits: PixelMajor | ClassMajor
    strip: slice
    winner_N: Classes
    top_N: Floats
    width: int
    rows: ComposedAxis
    columns: ComposedAxis
    mask_HW: Classes

    def paint(self, row_C: Indices, column_C: Indices) -> None:
        """Decide every pixel of the mixed cells at these groups of rows and columns."""
        batches = [self._compare_winners(*batch) for batch in self._of_one_kind(row_C, column_C)]
        threshold_N = np.full(self.top_N.size, np.inf, np.float32)
        for cells in batches:
            np.minimum.at(threshold_N, cells.corner_TC.reshape(-1), cells.bound_TC.reshape(-1))
        pixel, rival = self.logits.find_rivals(self.strip, threshold_N, self.winner_N)
        strongest_N = np.full(self.top_N.size, -np.inf, np.float32)
        np.maximum.at(strongest_N, pixel, self._logits_of(pixel, rival))
        contested = np.flatnonzero(strongest_N > -np.inf)
        slot_N = np.zeros(self.top_N.size, np.intp)  # pixels without rivals share the empty row 0 of rivals_SK
        slot_N[contested] = np.arange(1, contested.size + 1)
        rivals_SK = np.zeros((contested.size + 1, self.logits.num_classes), np.bool_)
        rivals_SK.reshape(-1)[slot_N.take(pixel) * self.logits.num_classes + rival] = True
        candidates = 2 + pixel.size // max(1, contested.size)  # per corner, about

        for cells in batches:
            crowded_C = cells.third_C | (strongest_N.take(cells.corner_TC) >= cells.bound_TC).any(axis=0)
            step = _PART_FLOATS // math.prod(cells.outputs)
            for part in _parts(np.flatnonzero(~crowded_C), step):
                self._decide_between_two(cells, part)
            step = min(step, max(1, 32 * _PART_FLOATS // (candidates * len(cells.corner_TC) ** 2)))
            for part in _parts(np.flatnonzero(crowded_C), step):
                self._decide_between_many(cells, part, slot_N, rivals_SK)

    def _of_one_kind(
        self, row_C: Indices, column_C: Indices
    ) -> Iterator[tuple[tuple[int, int], tuple[int, int], Indices, Indices]]:
        """Taps, outputs, rows and columns of the cells with equally many taps on both axes."""
        row_kind_C, column_kind_C = self.rows.kind_G.take(row_C), self.columns.kind_G.take(column_C)
        for i, (row_taps, row_outputs) in enumerate(self.rows.kinds):
            for j, (column_taps, column_outputs) in enumerate(self.columns.kinds):
                here = np.flatnonzero((row_kind_C == i) & (column_kind_C == j))
                if here.size:
                    taps, outputs = (row_taps, column_taps), (row_outputs, column_outputs)
                    yield taps, outputs, row_C.take(here), column_C.take(here)

    def _compare_winners(
        self, taps: tuple[int, int], outputs: tuple[int, int], row_C: Indices, column_C: Indices
    ) -> _Cells:
        row_tap_TC = self.rows.taps_TG[: taps[0]].take(row_C, axis=1) * self.width - self.strip.start
        column_tap_TC = self.columns.taps_TG[: taps[1]].take(column_C, axis=1)
        corner_TC = (row_tap_TC[:, None] + column_tap_TC).reshape(math.prod(taps), -1)
        winner_TC = self.winner_N.take(corner_TC)
        one_C, two_C = winner_TC[0], winner_TC[-1]
        for winner_C in winner_TC[-2:0:-1]:
            two_C = _choose(two_C == one_C, winner_C, two_C)
        is_one_TC = winner_TC == one_C
        third_C = ~(is_one_TC | (winner_TC == two_C)).all(axis=0)

        # Of two winners one has the corner's top logit, which is at hand, so only the other's is fetched.
        top_TC = self.top_N.take(corner_TC)
        other_TC = self._logits_of(corner_TC, _choose(is_one_TC, two_C, one_C))
        bound_TC = _mean(top_TC, other_TC)
        low_C, high_C = np.minimum(one_C, two_C), np.maximum(one_C, two_C)
        sign_TC = (winner_TC == high_C).astype(np.float32) * 2 - 1
        lead_TC = (top_TC - other_TC) * sign_TC

        three = np.flatnonzero(third_C)
        if three.size:
            corner, winner_TC = corner_TC.take(three, axis=1), winner_TC.take(three, axis=1)
            one_C, two_C, three_C = one_C.take(three), two_C.take(three), one_C.take(three)
            for winner_C in winner_TC[1:-1]:
                three_C = _choose((winner_C != one_C) & (winner_C != two_C), winner_C, three_C)
            mean_TC = _mean(self._logits_of(corner, one_C), self._logits_of(corner, two_C))
            bound_TC[:, three] = _mean(mean_TC, self._logits_of(corner, three_C))
        require_finite(bound_TC)
        return _Cells(taps, outputs, row_C, column_C, corner_TC, bound_TC, low_C, high_C, lead_TC, third_C)

    def _decide_between_two(self, cells: _Cells, part: Indices) -> None:
        patch = self._patch(cells, part)
        higher = patch.interpolate(cells.lead_TC.take(part, axis=1)) > 0
        patch.write(self.mask_HW, _choose(higher, cells.high_C.take(part), cells.low_C.take(part)))

    def _decide_between_many(self, cells: _Cells, part: Indices, slot_N: Indices, rivals_SK: Bools) -> None:
        num_classes = self.logits.num_classes
        corner_TC = cells.corner_TC.take(part, axis=1)
        candidate_CK = rivals_SK.take(slot_N.take(corner_TC[0]), axis=0)
        for corner_C in corner_TC[1:]:
            candidate_CK |= rivals_SK.take(slot_N.take(corner_C), axis=0)
        candidate_CK.reshape(-1)[np.arange(part.size) * num_classes + self.winner_N.take(corner_TC)] = True

        # One entry per cell and candidate: pixels share thresholds, so each must still pass its own cell's.
        at = np.flatnonzero(candidate_CK)
        cell = at // num_classes
        candidate = (at - cell * num_classes).astype(self.winner_N.dtype)
        logit = self._logits_of(corner_TC.take(cell, axis=1), candidate)
        require_finite(logit)
        count_C = np.bincount(cell)
        floor_C = np.maximum.reduceat(logit.min(axis=0), np.cumsum(count_C) - count_C)
        able = logit.max(axis=0) >= floor_C.take(cell)
        able &= (logit >= cells.bound_TC.take(part, axis=1).take(cell, axis=1)).any(axis=0)
        able = np.flatnonzero(able)
        cell, candidate, logit = cell.take(able), candidate.take(able), logit.take(able, axis=1)

        # With the most contested cells first, those that have an n-th candidate are a leading run.
        count_C = np.bincount(cell)
        order = np.argsort(-count_C, kind="stable")
        entry_C = (np.cumsum(count_C) - count_C).take(order)
        count_C = count_C.take(order)
        patch = self._patch(cells, part.take(order))
        label_PPC = np.empty((*cells.outputs, part.size), self.winner_N.dtype)
        label_PPC[:] = candidate.take(entry_C)
        base_TC = logit.take(entry_C, axis=1)
        best_PPC = np.zeros(label_PPC.shape, np.float32)  # leads over the cell's first candidate
        for nth, n in enumerate(np.searchsorted(-count_C, -np.arange(1, count_C[0])), start=1):
            at = entry_C[:n] + nth
            lead = patch.interpolate(logit.take(at, axis=1) - base_TC[:, :n])
            label, best = label_PPC[..., :n], best_PPC[..., :n]
            label[:] = _choose(lead > best, candidate.take(at), label)
            np.maximum(best, lead, out=best)
        patch.write(self.mask_HW, label_PPC)

    def _patch(self, cells: _Cells, part: Indices) -> _Patch:
        row_PC, row_weights = self.rows.outputs_of(cells.row_C.take(part), cells.taps[0], cells.outputs[0])
        column_PC, column_weights = self.columns.outputs_of(cells.column_C.take(part), cells.taps[1], cells.outputs[1])
        return _Patch(cells.taps, row_PC, column_PC, row_weights, column_weights)

    def _logits_of(self, pixel: Indices, classes: Classes) -> Floats:
        pixel_stride, class_stride = self.logits.strides
        at = pixel * pixel_stride
        at += self.strip.start * pixel_stride
        return self.logits.flat.take(at + classes * np.intp(class_stride), mode="clip")


@dataclass(frozen=True)
class _Patch:
    """The output pixels of some cells, and how to interpolate there."""

    taps: tuple[int, int]
    row_PC: Indices
    column_PC: Indices
    row_weights: list[Floats]  # (P, C) of each tap but the first
    column_weights: list[Floats]

    def interpolate(self, corner_TC: Floats) -> Floats:
        """From values at the corners of the first n cells to values (P, P, n) at their pixels.

        An axis with a single tap stays at length 1, to be broadcast.
        """
        row_taps, column_taps = self.taps
        n = corner_TC.shape[1]
        corners = corner_TC.reshape(row_taps, 1, column_taps, n)
        between_rows = interpolate(list(corners), [weights[:, None, :n] for weights in self.row_weights])
        columns = [between_rows[:, None, t] for t in range(column_taps)]
        return interpolate(columns, [weights[:, :n] for weights in self.column_weights])

    def write(self, mask_HW: Classes, label_PPC: Classes) -> None:
        mask_HW.reshape(-1)[(self.row_PC * mask_HW.shape[1])[:, None] + self.column_PC] = label_PPC


def _choose(where: Bools, new: Classes, old: Classes) -> Classes:
    """``np.where`` for small unsigned integers, by arithmetic that wraps around, which is ten times faster."""
    chosen: Classes = where.view(np.uint8) * (new - old)
    chosen += old
    return chosen


def _mean(one: Floats, two: Floats) -> Floats:
    """Rounds to no more than the larger, so that a corner's winner always reaches it."""
    half = np.float32(0.5)
    mean: Floats = one * half
    mean += two * half
    return mean


def _parts(items: Indices, step: int) -> Iterator[Indices]:
    for start in range(0, items.size, step):
        yield items[start : start + step]
