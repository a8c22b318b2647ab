"""How a network is run over a photo: whole, in sliding windows, at several scales and mirrored.

Order of operations (the papers' code): logits are resized bilinearly to the size of what the network saw, averaged
where windows overlap, resized to the photo's size; then comes the softmax, a mirrored view's probabilities are mirrored
back, the mean over views is taken, and the winning class last. With a single view the softmax changes no winner and is
left out.

What is exact. Window positions form a grid, so averaging windows is linear along rows and then along columns, as
resizing is (`resampling.py`). Whole and sliding-window masks are therefore the argmax of the fully upsampled logits, up
to classes that are equal within float32 rounding, decided from the windows' small logits without upsampling them. The
mean of probabilities is not linear in the logits: it is taken at the photo's size, in strips of rows.

Memory beyond the mask and a few strips: for `whole`, the network's own logits; for `slide_in_bands`, the pixels of a
row of windows and the logits of those that overlap with it, whatever the image's height; for `decide_together`, the
small logits of all views, or about twice the K planes at the photo's size if those are less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.inference.upsample.argmax import (
    confidence_along,
    probability_strips_along,
    upsample_argmax,
    winners_along,
)
from terrazzo.inference.upsample.resize_axis import ComposedAxis, compose_axis, compose_windows

__all__ = ["Scores", "View", "decide", "decide_together", "slide", "slide_in_bands", "whole", "window_starts"]

Floats: TypeAlias = NDArray[np.float32]
Classes: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Size: TypeAlias = tuple[int, int]


class View(Protocol):
    """An image as the network is shown it: of its size, and normalised.

    Attributes:
        size: (height, width).
    """

    @property
    def size(self) -> Size: ...

    def read_window(self, rows: slice, columns: slice) -> Floats:
        """Return a part, (rows, columns, 3). Windows are asked for from the left, and rows of windows from the top."""
        ...


@dataclass(frozen=True, eq=False)
class Scores:
    """Small logits, and the pixels that they decide.

    Attributes:
        logits_KHW: of one image, or of the windows of one, side by side.
        rows: how their rows become rows of the photo.
        columns: how their columns become columns of the photo.
    """

    logits_KHW: Floats
    rows: ComposedAxis
    columns: ComposedAxis

    def mask(self) -> Classes:
        """The winning class of every pixel: argmax of the logits at the photo's size."""
        return winners_along(self.logits_KHW, self.rows, self.columns)

    def probability_strips(self) -> Iterator[tuple[int, Floats]]:
        """First rows and (K, rows, W) softmax of the logits at the photo's size, from the top.

        Scores of as many classes and columns come in strips of equal heights.
        """
        return probability_strips_along(self.logits_KHW, self.rows, self.columns)

    def split(self, rows: int) -> Iterator[Scores]:
        """Yield the same in bands of at most so many rows, from the top."""
        if self.rows.length <= rows:
            yield self
            return
        for first in range(0, self.rows.length, rows):
            band, needed = self.rows.between(first, min(first + rows, self.rows.length))
            yield Scores(self.logits_KHW[:, needed], band, self.columns)

    def probabilities(self) -> Floats:
        """(K, H, W) softmax of the logits at the photo's size."""
        planes_KHW = np.empty(self.shape, np.float32)
        for top, strip_KRW in self.probability_strips():
            planes_KHW[:, top : top + strip_KRW.shape[1]] = strip_KRW
        return planes_KHW

    def confidence(self) -> tuple[Floats, Floats]:
        """The (H, W) largest probability of each pixel, and its entropy divided by log K."""
        return confidence_along(self.logits_KHW, self.rows, self.columns)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, H, W) of the probabilities."""
        return len(self.logits_KHW), self.rows.length, self.columns.length


def whole(engine: Engine, images_B3HW: Floats, size: Size) -> Iterator[Scores]:
    """Run the network once, over a batch of whole images, and yield each one's scores.

    Args:
        engine: the network.
        images_B3HW: the inputs.
        size: (height, width) of the photos.
    """
    height, width = images_B3HW.shape[2:]
    for logits_KHW in engine(images_B3HW):
        rows = compose_axis(logits_KHW.shape[1], (height, size[0]))
        yield Scores(logits_KHW, rows, compose_axis(logits_KHW.shape[2], (width, size[1])))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where the windows along one side begin; the last one is moved back to end with the image.

    A side shorter than a window has one, of the side's own length.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(number * stride, length - window), 0) for number in range(count)]


def slide(engine: Engine, view: View, size: Size, window: int, stride: int) -> Scores:
    """Run the network over overlapping square windows of one image and keep all of their logits.

    Each window's logits are resized to the window; where windows overlap the mean counts.

    Args:
        engine: the network.
        view: the input, which is read a row of windows at a time.
        size: (height, width) of the photo.
        window: side of a window in pixels of the input; a side of the input that is shorter is taken as it is.
        stride: from one window to the next.
    """
    rows_KHW = list(_window_rows(engine, view, window, stride))
    return Scores(np.concatenate(rows_KHW, axis=1), *_window_axes(view, rows_KHW[0], size, window, stride))


def slide_in_bands(engine: Engine, view: View, size: Size, window: int, stride: int) -> Iterator[Scores]:
    """As `slide`, but yield the photo in bands of rows from the top, each as soon as its windows have been seen.

    Only rows of windows that later bands need are held.
    """
    held_KhW: Floats | None = None
    first = done = 0  # row of all windows' logits that is held first, and row of the photo that is not yet yielded
    for row_KHW in _window_rows(engine, view, window, stride):
        held_KhW = row_KHW if held_KhW is None else np.concatenate([held_KhW, row_KHW], axis=1)
        rows, columns = _window_axes(view, row_KHW, size, window, stride)
        stop = int(np.searchsorted(rows.last_G[rows.group_O], first + held_KhW.shape[1]))
        if stop == done:
            continue
        band, needed = rows.between(done, stop)
        yield Scores(held_KhW[:, needed.start - first : needed.stop - first], band, columns)
        done = stop
        if done == rows.length:
            return
        needed_next = int(rows.taps_TG[0, rows.group_O[done:]].min())
        held_KhW = held_KhW[:, needed_next - first :].copy(order="K")
        first = needed_next


def decide(bands: Iterable[Scores], *, probabilities: bool = False) -> tuple[Classes, Floats | None]:
    """Decide a photo's pixels from one view of it.

    Args:
        bands: the scores of the photo, from the top; one alone, for the whole photo, will do.
        probabilities: keep the class probabilities.

    Returns:
        The (H, W) mask, and the (K, H, W) probabilities or None.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite").
    """
    masks, kept = [], []
    for band in bands:
        masks.append(band.mask())
        if probabilities:
            kept.append(band.probabilities())
    if len(masks) == 1:  # the usual case, without a copy
        return masks[0], kept[0] if probabilities else None
    return np.concatenate(masks), np.concatenate(kept, axis=1) if probabilities else None


def decide_together(
    views: Iterable[tuple[Scores, bool]], *, probabilities: bool = False
) -> tuple[Classes, Floats | None]:
    """Decide a photo's pixels from several views of it: by the mean of their probabilities.

    Args:
        views: each view's scores, and whether it was mirrored left to right.
        probabilities: keep the means.

    Returns:
        The (H, W) mask, and the (K, H, W) mean probabilities or None.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite").
    """
    count = 0
    held: list[tuple[Scores, bool]] = []
    total_KHW: Floats | None = None
    for view in views:
        count += 1
        held.append(view)
        shape, held_floats = view[0].shape, sum(scores.logits_KHW.size for scores, _ in held)
        if total_KHW is None and (probabilities or held_floats > math.prod(shape)):
            total_KHW = np.zeros(shape, np.float32)
        if total_KHW is not None:
            for top, strip_KRW in _summed_strips(held):
                total_KHW[:, top : top + strip_KRW.shape[1]] += strip_KRW
            held.clear()
    if total_KHW is None:
        return np.concatenate([upsample_argmax(strip_KRW, []) for _, strip_KRW in _summed_strips(held)]), None
    mask_HW = upsample_argmax(total_KHW, [])
    if not probabilities:
        return mask_HW, None
    total_KHW /= count
    return mask_HW, total_KHW


def _window_rows(engine: Engine, view: View, window: int, stride: int) -> Iterator[Floats]:
    """The logits (K, h, n w) of each row of n windows."""
    height, width = view.size
    for y in window_starts(height, window, stride):
        logits = []
        for x in window_starts(width, window, stride):
            part_HW3 = view.read_window(slice(y, min(y + window, height)), slice(x, min(x + window, width)))
            part_HW3 = np.ascontiguousarray(part_HW3)  # as networks take it fastest
            logits.append(engine(part_HW3.transpose(2, 0, 1)[None])[0])
        yield np.concatenate(logits, axis=2)


def _window_axes(
    view: View, row_KHW: Floats, size: Size, window: int, stride: int
) -> tuple[ComposedAxis, ComposedAxis]:
    """How the logits of all windows, side by side, become a photo's rows and columns."""
    height, width = view.size
    ys, xs = window_starts(height, window, stride), window_starts(width, window, stride)
    rows = compose_windows(row_KHW.shape[1], tuple(ys), min(window, height), (size[0],))
    return rows, compose_windows(row_KHW.shape[2] // len(xs), tuple(xs), min(window, width), (size[1],))


def _summed_strips(views: Sequence[tuple[Scores, bool]]) -> Iterator[tuple[int, Floats]]:
    """First rows and (K, rows, W) of the sum of the views' probabilities, each turned the photo's way round."""
    first, *others = [_turned_strips(scores, mirrored) for scores, mirrored in views]
    for top, total_KRW in first:
        for strips in others:
            total_KRW += next(strips)[1]
        yield top, total_KRW


def _turned_strips(scores: Scores, mirrored: bool) -> Iterator[tuple[int, Floats]]:
    for top, strip_KRW in scores.probability_strips():
        yield top, strip_KRW[:, :, ::-1] if mirrored else strip_KRW
