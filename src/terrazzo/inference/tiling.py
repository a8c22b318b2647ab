"""How a network is run over an image: whole, or in sliding windows whose logits are blended where they overlap.

Memory: for `whole` and `slide`, the network's logits. For `slide_in_blocks`, the logits of the windows that overlap in
one place, and of a row of windows those that the next row overlaps with, in a `Scratch`: however large the image is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.inference.scores import Block, Scores
from terrazzo.inference.scratch import Scratch
from terrazzo.inference.threads import ahead
from terrazzo.inference.upsample.resize_axis import Blend, ComposedAxis, compose_axis, compose_windows

__all__ = ["View", "slide", "slide_in_blocks", "whole", "window_starts"]

READ_AHEAD = 2  # windows of 12 MB, of three bands

Floats: TypeAlias = NDArray[np.float32]
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


def whole(engine: Engine, images_B3HW: Floats, sizes: Sequence[Size]) -> Iterator[Scores]:
    """Run the network once, over a batch of whole images, and yield each one's scores.

    Args:
        engine: the network.
        images_B3HW: the inputs.
        sizes: (height, width) of each image.
    """
    height, width = images_B3HW.shape[2:]
    for logits_KHW, size in zip(engine(images_B3HW), sizes, strict=True):
        rows = compose_axis(logits_KHW.shape[1], (height, size[0]))
        yield Scores(logits_KHW, rows, compose_axis(logits_KHW.shape[2], (width, size[1])))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where the windows along one side begin; the last one is moved back to end with the image.

    A side shorter than a window has one, of the side's own length.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(number * stride, length - window), 0) for number in range(count)]


def slide(engine: Engine, view: View, size: Size, window: int, stride: int, blend: Blend = "mean") -> Scores:
    """Run the network over overlapping square windows of one image and keep all of their logits.

    Each window's logits are resized to the window; where windows overlap their mean counts.

    Args:
        engine: the network.
        view: the input, which is read a row of windows at a time.
        size: (height, width) of the image.
        window: side of a window in pixels of the input; a side of the input that is shorter is taken as it is.
        stride: from one window to the next.
        blend: whether windows count alike in the mean ("mean"), or less towards their edges ("linear").
    """
    ys, xs = (window_starts(side, window, stride) for side in view.size)
    windows = [[_window_logits(engine, _window(view, y, x, window)) for x in xs] for y in ys]
    logits = windows[0][0].shape[1], windows[0][0].shape[2]
    together_KHW = np.concatenate([np.concatenate(row, axis=2) for row in windows], axis=1)
    return Scores(together_KHW, *_window_axes(view, logits, size, window, stride, blend))


def slide_in_blocks(
    engine: Engine,
    view: View,
    size: Size,
    window: int,
    stride: int,
    blend: Blend = "mean",
    folder: Path | None = None,
    is_empty: Callable[[slice, slice], bool] | None = None,
    done: int = 0,
    *,
    reads_ahead: bool = False,
) -> Iterator[Block]:
    """As `slide`, but yield the image in blocks, each as soon as all windows that decide its pixels have been seen.

    Blocks come row by row, from the top and the left. Of the windows' logits only those that later blocks need are
    held; what that is of a whole row of windows is put into a `Scratch`.

    Args:
        engine: the network.
        view: the input.
        size: (height, width) of the image.
        window: as for `slide`.
        stride: as for `slide`.
        blend: as for `slide`.
        folder: where a temporary file may be made.
        is_empty: tells of rows and columns of the input whether nothing there needs a class. Such windows do not go
            through the network, and have logits of zero.
        done: rows of the image that are decided already. Blocks begin with those that hold the next one, and windows
            that decide nothing else are left out.
        reads_ahead: read the next windows in a thread of its own while the network works. The view is then asked in
            that thread alone.
    """
    corners_Y, corners_X = (window_starts(side, window, stride) for side in view.size)
    stages: tuple[list[_Stage], list[_Stage]] | None = None
    shape: tuple[int, ...] | None = None  # of a window's logits
    first_row = 0  # of all windows' logits, that is held
    first_shown = first_wanted = 0  # rows of windows
    if done:
        shape = _window_logits(engine, _window(view, corners_Y[0], corners_X[0], window)).shape
        rows_axis, _ = _window_axes(view, (shape[1], shape[2]), size, window, stride, blend)
        planned = _stages(rows_axis, len(corners_Y), shape[1])
        first_wanted = next(number for number, stage in enumerate(planned) if stage.stop > done)
        first_shown = min(stage.needed.start for stage in planned[first_wanted:] if stage.axis is not None) // shape[1]
        first_row = first_shown * shape[1]
    places = (_place(view, y, x, window) for y in corners_Y[first_shown:] for x in corners_X)  # of which there are many
    inputs = _inputs(view, places, is_empty, shape is None)
    with Scratch(folder) as above, closing(ahead(inputs, READ_AHEAD) if reads_ahead else inputs) as shown:
        for number_y, y in list(enumerate(corners_Y))[first_shown:]:
            beside_KHW: Floats | None = None
            first_column = 0
            for number_x in range(len(corners_X)):
                (input_HWC,) = next(shown)
                if input_HWC is None:
                    assert shape is not None
                    logits_KHW = np.zeros(shape, np.float32)
                else:
                    logits_KHW = _window_logits(engine, input_HWC)
                    shape = logits_KHW.shape
                if stages is None:
                    _, height, width = logits_KHW.shape
                    along_rows, along_columns = _window_axes(view, (height, width), size, window, stride, blend)
                    stages = (
                        _stages(along_rows, len(corners_Y), height),
                        _stages(along_columns, len(corners_X), width),
                    )
                rows, columns = stages[0][number_y], stages[1][number_x]
                if number_y > first_shown:
                    logits_KHW = np.concatenate([above[number_x], logits_KHW], axis=1)
                if y != corners_Y[-1]:
                    above[number_x] = logits_KHW[:, max(rows.kept - first_row, 0) :]
                if beside_KHW is not None:
                    logits_KHW = np.concatenate([beside_KHW, logits_KHW], axis=2)
                if rows.axis is not None and columns.axis is not None and number_y >= first_wanted:
                    needed_KHW = logits_KHW[:, _since(rows.needed, first_row), _since(columns.needed, first_column)]
                    yield Block(rows.first, columns.first, Scores(needed_KHW, rows.axis, columns.axis))
                beside_KHW = logits_KHW[:, :, columns.kept - first_column :].copy(order="K")
                first_column = columns.kept
            first_row = max(rows.kept, first_row)


@dataclass(frozen=True)
class _Stage:
    """What is decided along one axis once one more window has been seen.

    Attributes:
        first: the image's first row or column of these.
        axis: how they come from `needed`; None where there are none.
        needed: the windows' logits that decide them.
        kept: the first of the windows' logits that later ones need.
    """

    first: int
    axis: ComposedAxis | None
    needed: slice
    kept: int

    @property
    def stop(self) -> int:
        """The row or column after the last of these."""
        return self.first + (0 if self.axis is None else self.axis.length)


def _stages(axis: ComposedAxis, windows: int, per_window: int) -> list[_Stage]:
    """Return the stages of an axis that is composed of a number of windows, each with the same number of logits."""
    first_O, last_O = axis.taps_TG[0, axis.group_O], axis.last_G[axis.group_O]
    stages, done = [], 0
    for number in range(1, windows + 1):
        stop = int(np.searchsorted(last_O, number * per_window)) if number < windows else axis.length
        band, needed = axis.between(done, stop) if stop > done else (None, slice(0, 0))
        kept = int(first_O[stop:].min(initial=number * per_window))
        stages.append(_Stage(done, band, needed, kept))
        done = stop
    return stages


def _since(needed: slice, first: int) -> slice:
    return slice(needed.start - first, needed.stop - first)


def _inputs(
    view: View,
    places: Iterable[tuple[slice, slice]],
    is_empty: Callable[[slice, slice], bool] | None,
    needs_first: bool,
) -> Generator[tuple[Floats | None], None, None]:
    """Yield the windows that the network is to see, None for those that need no class; the first in any case, if asked.

    Each is in a tuple, since `ahead` takes None for the end.
    """
    for number, (rows, columns) in enumerate(places):
        if is_empty is not None and not (needs_first and number == 0) and is_empty(rows, columns):
            yield (None,)
        else:
            yield (np.ascontiguousarray(view.read_window(rows, columns)),)  # as networks take it fastest


def _window(view: View, y: int, x: int, window: int) -> Floats:
    """The window whose corner is there."""
    return np.ascontiguousarray(view.read_window(*_place(view, y, x, window)))


def _window_logits(engine: Engine, input_HWC: Floats) -> Floats:
    """The logits (K, h, w) of a window."""
    logits_KHW: Floats = engine(input_HWC.transpose(2, 0, 1)[None])[0]
    return logits_KHW


def _place(view: View, y: int, x: int, window: int) -> tuple[slice, slice]:
    """The rows and columns of the window whose corner is there."""
    height, width = view.size
    return slice(y, min(y + window, height)), slice(x, min(x + window, width))


def _window_axes(
    view: View, logits: Size, size: Size, window: int, stride: int, blend: Blend
) -> tuple[ComposedAxis, ComposedAxis]:
    """How the logits of all windows, side by side and each of this (height, width), become rows and columns."""
    rows, columns = (
        compose_windows(length, tuple(window_starts(side, window, stride)), min(window, side), (target,), blend)
        for length, side, target in zip(logits, view.size, size, strict=True)
    )
    return rows, columns
