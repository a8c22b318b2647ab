"""Bilinear interpolation along one axis: several resizes composed into one, after a mean over overlapping windows.

Resizing is separable and linear, so along one axis each output position is a weighted mean of a few source positions,
its *taps*: two after one resize, two or three after two growing ones, and never more than two to the power of the
number of resizes. Consecutive outputs with the same taps form a *group*; growing by 4 makes groups of 4.

A mean over windows is composed in the same way. Windows stand in a grid, and a window's weight at a pixel is its weight
along rows times that along columns, so the mean is taken along one axis after the other; where n windows overlap, a
position has n times the taps. The source is then the windows' own sources, one after the other.

Letters in names: O outputs, G groups, P outputs of one group, T taps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blend", "ComposedAxis", "compose_axis", "compose_windows", "interpolate"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Blend: TypeAlias = Literal["mean", "linear"]

# Longer groups are split, so that the cells of two axes never hold more than 16 x 16 pixels.
_LONGEST_GROUP = 16


@dataclass(frozen=True)
class ComposedAxis:
    """Taps and weights of every output, with outputs of equal taps in groups.

    The taps of a group ascend. A group with fewer than T repeats its first one, at weight 0.
    """

    length: int
    taps_TG: Indices
    last_G: Indices  # the largest tap
    start_G: Indices  # first output of each group, and at the end the number of outputs
    outputs_PG: Indices  # outputs of each group, the last repeated where a group has fewer
    group_O: Indices
    weights_TO: Floats
    kinds: tuple[tuple[int, int], ...]  # number of taps (2 for 1), and most outputs of a group with that many
    kind_G: Indices

    def strips(self, most_sources: int) -> Iterator[tuple[int, int]]:
        """Ranges of groups, from the first to before the second, that need about this many source positions each.

        Where windows overlap a single group reaches from one window's source into the next one's. Ranges need twice
        that, so that neighbours do not look at nearly the same positions again and again.
        """
        reach = int((self.last_G - self.taps_TG[0]).max()) + 1
        most_sources = max(most_sources, 2 * reach)
        first = 0
        while first < self.last_G.size:
            stop = int(np.searchsorted(self.last_G, self.taps_TG[0, first] + most_sources))
            stop = max(stop, first + 1)
            yield first, stop
            first = stop

    def between(self, first: int, stop: int) -> tuple[ComposedAxis, slice]:
        """The axis of some of the outputs alone, and the range of sources that it counts its taps from."""
        here = self.group_O[first:stop]
        low, high = int(self.taps_TG[0, here].min()), int(self.last_G[here].max()) + 1
        return _grouped(self.taps_TG[:, here].T - low, self.weights_TO[:, first:stop].T), slice(low, high)

    def every(self, step: int, first: int = 0) -> ComposedAxis:
        """The axis of every `step`-th output alone, from the `first` on."""
        here = self.group_O[first::step]
        return _grouped(self.taps_TG[:, here].T, self.weights_TO[:, first::step].T)

    def outputs_of(self, group_C: Indices, taps: int, outputs: int) -> tuple[Indices, list[Floats]]:
        """Outputs (P, C) of the groups, and the weights there of each tap but the first."""
        output_PC = self.outputs_PG[:outputs].take(group_C, axis=1)
        return output_PC, [weights.take(output_PC, mode="clip") for weights in self.weights_TO[1:taps]]


@lru_cache(maxsize=64)
def compose_axis(source: int, targets: tuple[int, ...]) -> ComposedAxis:
    """Resize an axis of length ``source`` to each target in turn, as ``F.interpolate(align_corners=False)`` does."""
    return _grouped(*_resized(np.arange(source)[:, None], np.ones((source, 1)), targets))


@lru_cache(maxsize=64)
def compose_windows(
    source: int, starts: tuple[int, ...], window: int, targets: tuple[int, ...], blend: Blend = "mean"
) -> ComposedAxis:
    """Resize each window's source to the window's length, blend where windows overlap, and resize to each target.

    Args:
        source: length of one window's source; the windows' sources follow one another.
        starts: where the windows begin, in ascending order, leaving no gap; the last one ends the axis.
        window: length of a window.
        targets: length after each resize of the blended axis.
        blend: what the mean over windows is weighted by; see `_window_weights`.
    """
    taps_WT, weights_WT = _resized(np.arange(source)[:, None], np.ones((source, 1)), (window,))
    position_NW = np.array(starts)[:, None] + np.arange(window)
    share_NW = _window_weights(starts, window, blend)
    most, taps = int(np.bincount(position_NW.ravel()).max()), taps_WT.shape[1]
    total_O = np.bincount(position_NW.ravel(), share_NW.ravel())
    taps_OT = np.zeros((total_O.size, most * taps), np.intp)
    weights_OT = np.zeros(taps_OT.shape)
    for number, (position_W, share_W) in enumerate(zip(position_NW, share_NW, strict=True)):
        # Windows over one position follow one another, so each finds columns of its own.
        column = slice(number % most * taps, (number % most + 1) * taps)
        taps_OT[position_W, column] = taps_WT + number * source
        weights_OT[position_W, column] = weights_WT * (share_W / total_O[position_W])[:, None]
    return _grouped(*_resized(*_merge_taps(taps_OT, weights_OT, source * len(starts)), targets))


def _window_weights(starts: tuple[int, ...], window: int, blend: Blend) -> Doubles:
    """The weight of each window at each of its positions, (windows, window).

    "mean" is 1 everywhere. "linear" rises where windows overlap, from 0 to 1 over the middle half of the overlap: the
    outer quarter, where a network's padding shows most, does not count. No window is blended at the image's own edges.
    """
    weights_NW = np.ones((len(starts), window))
    if blend == "mean" or len(starts) == 1 or (overlap := window - (starts[1] - starts[0])) < 1:
        return weights_NW
    rise_W = (np.arange(window) + 0.5 - overlap / 4) / (overlap / 2)
    weights_NW[1:] = rise_W
    weights_NW[:-1] = np.minimum(weights_NW[:-1], rise_W[::-1])
    return weights_NW.clip(0, 1)


def _resized(taps_OT: Indices, weights_OT: Doubles, targets: tuple[int, ...]) -> tuple[Indices, Doubles]:
    """Resize an axis, given by the taps of its positions in some source, to each target in turn."""
    source = int(taps_OT.max()) + 1
    for target in targets:
        length = len(taps_OT)
        # The source position to the bit as F.interpolate has it: a float32 scale, and one rounding at the end.
        scale = float(np.float32(length) / np.float32(target))
        at = (scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32).clip(0, length - 1)
        low = at.astype(np.intp)
        high = np.minimum(low + 1, length - 1)
        share = (at - low).astype(np.float64)[:, None]
        taps_OT = np.concatenate([taps_OT[low], taps_OT[high]], axis=1)
        weights_OT = np.concatenate([weights_OT[low] * (1 - share), weights_OT[high] * share], axis=1)
        taps_OT, weights_OT = _merge_taps(taps_OT, weights_OT, source)
    return taps_OT, weights_OT


def _grouped(taps_OT: Indices, weights_OT: NDArray[np.floating[Any]]) -> ComposedAxis:
    output_O = np.arange(len(taps_OT))
    differs_O = np.concatenate([[True], (taps_OT[1:] != taps_OT[:-1]).any(axis=1)])
    since_O = output_O - np.maximum.accumulate(np.where(differs_O, output_O, 0))
    start_G = np.flatnonzero(since_O % _LONGEST_GROUP == 0)
    size_G = np.diff(start_G, append=output_O.size)
    taps_TG = np.ascontiguousarray(taps_OT[start_G].T)
    count_G = np.maximum((np.diff(taps_TG, axis=0) > 0).sum(axis=0) + 1, min(2, len(taps_TG)))
    counts = np.flatnonzero(np.bincount(count_G))  # np.unique would import numpy.ma, for 20 ms of a start
    return ComposedAxis(
        length=output_O.size,
        taps_TG=taps_TG,
        last_G=taps_TG.max(axis=0),
        start_G=np.append(start_G, output_O.size),
        outputs_PG=start_G + np.minimum(np.arange(size_G.max())[:, None], size_G - 1),
        group_O=np.repeat(np.arange(start_G.size), size_G),
        weights_TO=np.ascontiguousarray(weights_OT.T, dtype=np.float32),
        kinds=tuple((int(count), int(size_G[count_G == count].max())) for count in counts),
        kind_G=np.searchsorted(counts, count_G),
    )


def interpolate(values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    """The weighted sum of the taps' values; ``weights`` leaves out the first tap's, which is the rest of 1."""
    first = values[0]
    if not weights:
        return first
    total: Floats = weights[0] * (values[1] - first)
    for value, weight in zip(values[2:], weights[1:], strict=True):
        total += weight * (value - first)
    total += first
    return total


def _merge_taps(taps_OT: Indices, weights_OT: Doubles, source: int) -> tuple[Indices, Doubles]:
    """Add up the weights of an output's equal taps, drop taps of no weight and sort the rest."""
    output, column = np.nonzero(weights_OT)
    key, entry = np.unique(output * source + taps_OT[output, column], return_inverse=True)
    weight = np.bincount(entry, weights_OT[output, column])
    output, tap = np.divmod(key, source)
    count = np.bincount(output)
    first = np.cumsum(count) - count
    column = np.arange(key.size) - first[output]
    taps_OT = np.repeat(tap[first][:, None], count.max(), axis=1)
    weights_OT = np.zeros(taps_OT.shape)
    taps_OT[output, column], weights_OT[output, column] = tap, weight
    return taps_OT, weights_OT
