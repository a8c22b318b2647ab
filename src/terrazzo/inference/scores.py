"""From the scores of an image's views to its pixels: the mask and, if wanted, probabilities, confidence and entropy.

Order of operations (the papers' code): logits are resized bilinearly to the size of what the network saw, blended where
windows overlap, resized to the image's size; then comes the softmax, a mirrored view's probabilities are mirrored back,
the mean over views is taken, and the winning class last. With a single view the softmax changes no winner and is left
out.

What is exact. Window positions form a grid, so blending windows is linear along rows and then along columns, as
resizing is (`upsample/resize_axis.py`). The masks of one view are therefore the argmax of the fully upsampled logits,
up to classes that are equal within float32 rounding, decided from the windows' small logits without upsampling them.
The mean of probabilities is not linear in the logits: it is taken at the image's size, in strips of rows.

Memory beyond what is kept and a few strips: for one view its logits; for several the small logits of all, or about
twice the K planes at the image's size if those are less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.inference.upsample.argmax import (
    confidence_along,
    confidence_of,
    probability_strips_along,
    upsample_argmax,
    winners_along,
)
from terrazzo.inference.upsample.resize_axis import ComposedAxis

__all__ = [
    "CERTAINTY",
    "NOTHING",
    "Block",
    "Classes",
    "Floats",
    "Keep",
    "Pixels",
    "Scores",
    "Size",
    "decide",
    "decide_together",
]

Floats: TypeAlias = NDArray[np.float32]
Classes: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Size: TypeAlias = tuple[int, int]
Keep: TypeAlias = frozenset[Literal["probabilities", "confidence", "entropy"]]

NOTHING: Keep = frozenset()
CERTAINTY: Keep = frozenset({"confidence", "entropy"})
STRIP_FLOATS = 1 << 20  # probabilities worked on at once


@dataclass(frozen=True, eq=False)
class Scores:
    """Small logits, and the pixels that they decide.

    Attributes:
        logits_KHW: of one image, or of the windows of one, side by side.
        rows: how their rows become rows of the image.
        columns: how their columns become columns of the image.
    """

    logits_KHW: Floats
    rows: ComposedAxis
    columns: ComposedAxis

    def mask(self) -> Classes:
        """The winning class of every pixel: argmax of the logits at the image's size."""
        return winners_along(self.logits_KHW, self.rows, self.columns)

    def probability_strips(self, temperature: float = 1.0) -> Iterator[tuple[int, Floats]]:
        """First rows and (K, rows, W) softmax of the logits at the image's size, from the top.

        Scores of as many classes and columns come in strips of equal heights.
        """
        return probability_strips_along(self.logits_KHW, self.rows, self.columns, temperature)

    def split(self, rows: int) -> Iterator[Scores]:
        """Yield the same in bands of at most `rows` rows, from the top."""
        if self.rows.length <= rows:
            yield self
            return
        for first in range(0, self.rows.length, rows):
            band, needed = self.rows.between(first, min(first + rows, self.rows.length))
            yield Scores(self.logits_KHW[:, needed], band, self.columns)

    def every(self, step: int, top: int = 0, left: int = 0) -> Scores:
        """The same of every `step`-th pixel of every `step`-th row alone, from this one on."""
        return Scores(self.logits_KHW, self.rows.every(step, top), self.columns.every(step, left))

    def probabilities(self, temperature: float = 1.0) -> Floats:
        """(K, H, W) softmax of the logits at the image's size, divided by the temperature."""
        planes_KHW = np.empty(self.shape, np.float32)
        for top, strip_KRW in self.probability_strips(temperature):
            planes_KHW[:, top : top + strip_KRW.shape[1]] = strip_KRW
        return planes_KHW

    def confidence(self, temperature: float = 1.0) -> tuple[Floats, Floats]:
        """The (H, W) largest probability of each pixel, and its entropy divided by log K."""
        return confidence_along(self.logits_KHW, self.rows, self.columns, temperature)

    def pixels(self, keep: Keep = NOTHING, temperature: float = 1.0) -> Pixels:
        """The mask, and what else is wanted of each pixel."""
        probabilities = self.probabilities(temperature) if "probabilities" in keep else None
        return Pixels(self.mask(), probabilities, *_certainty(keep, partial(self.confidence, temperature)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, H, W) of the probabilities."""
        return len(self.logits_KHW), self.rows.length, self.columns.length


@dataclass(frozen=True, eq=False)
class Block:
    """A rectangle of an image that is decided together.

    Attributes:
        top: its first row in the image.
        left: its first column.
        scores: of its pixels.
    """

    top: int
    left: int
    scores: Scores


@dataclass(frozen=True, eq=False)
class Pixels:
    """What was decided about the pixels of an image, or of a part of one.

    Attributes:
        mask: (H, W) winning classes.
        probabilities: (K, H, W) of all classes, where they were wanted; likewise below.
        confidence: (H, W) probability of the winning class.
        entropy: (H, W) entropy of the probabilities divided by log K: 0 is certain, 1 is the same for each class.
    """

    mask: Classes
    probabilities: Floats | None = None
    confidence: Floats | None = None
    entropy: Floats | None = None

    def planes(self) -> dict[str, NDArray[Any]]:
        """What is there, by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}

    def enlarged(self, size: Size) -> Pixels:
        """The same for an image of this (height, width), of which nothing is decided yet."""
        return Pixels(**{name: np.empty((*p.shape[:-2], *size), p.dtype) for name, p in self.planes().items()})

    def below(self, row: int) -> Pixels:
        """The same without the rows before one."""
        return self if row == 0 else Pixels(**{name: plane[..., row:, :] for name, plane in self.planes().items()})

    def put(self, top: int, left: int, part: Pixels) -> None:
        """Fill in a rectangle."""
        height, width = part.mask.shape
        for name, plane in self.planes().items():
            plane[..., top : top + height, left : left + width] = getattr(part, name)


def decide(blocks: Iterable[Block], size: Size, keep: Keep = NOTHING, temperature: float = 1.0) -> Pixels:
    """Decide an image's pixels from one view of it.

    Args:
        blocks: the scores of the image; one alone, for all of it, will do.
        size: (height, width) of the image.
        keep: what is wanted beside the mask.
        temperature: that the logits are divided by for it; the mask does not depend on it.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite").
    """
    pixels: Pixels | None = None
    for block in blocks:
        part = block.scores.pixels(keep, temperature)
        if part.mask.shape == size:  # the usual case, without a copy
            return part
        if pixels is None:
            pixels = part.enlarged(size)
        pixels.put(block.top, block.left, part)
    assert pixels is not None
    return pixels


def decide_together(views: Iterable[tuple[Scores, bool]], keep: Keep = NOTHING, temperature: float = 1.0) -> Pixels:
    """Decide an image's pixels from several views of it: by the mean of their probabilities.

    Args:
        views: each view's scores, and whether it was mirrored left to right.
        keep: what is wanted beside the mask; that of the mean probabilities.
        temperature: for what is wanted beside the mask, the logarithms of the mean are divided by it.

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
        if total_KHW is None and ("probabilities" in keep or held_floats > math.prod(shape)):
            total_KHW = np.zeros(shape, np.float32)
        if total_KHW is not None:
            for top, strip_KRW in _summed_strips(held):
                total_KHW[:, top : top + strip_KRW.shape[1]] += strip_KRW
            held.clear()
    pixels: Pixels | None = None
    for top, strip_KRW in _summed_strips(held) if total_KHW is None else _strips_of(total_KHW):
        mask_RW = upsample_argmax(strip_KRW, [])
        strip_KRW /= count
        if temperature != 1:
            np.power(strip_KRW, np.float32(1 / temperature), out=strip_KRW)
            strip_KRW /= strip_KRW.sum(axis=0)
        part = Pixels(mask_RW, None, *_certainty(keep, lambda: confidence_of(strip_KRW)))  # noqa: B023  called at once
        if pixels is None:
            pixels = part.enlarged(shape[1:])
        pixels.put(top, 0, part)
    assert pixels is not None
    return replace(pixels, probabilities=total_KHW) if "probabilities" in keep else pixels


def _certainty(keep: Keep, confidence: Callable[[], tuple[Floats, Floats]]) -> tuple[Floats | None, Floats | None]:
    """The confidence and the entropy, where they are wanted."""
    if not keep & CERTAINTY:
        return None, None
    highest, entropy = confidence()
    return highest if "confidence" in keep else None, entropy if "entropy" in keep else None


def _strips_of(planes_KHW: Floats) -> Iterator[tuple[int, Floats]]:
    rows = max(1, STRIP_FLOATS // (planes_KHW.shape[0] * planes_KHW.shape[2]))
    for top in range(0, planes_KHW.shape[1], rows):
        yield top, planes_KHW[:, top : top + rows]


def _summed_strips(views: Sequence[tuple[Scores, bool]]) -> Iterator[tuple[int, Floats]]:
    """First rows and (K, rows, W) of the sum of the views' probabilities, each turned the image's way round."""
    first, *others = [_turned_strips(scores, mirrored) for scores, mirrored in views]
    for top, total_KRW in first:
        for strips in others:
            total_KRW += next(strips)[1]
        yield top, total_KRW


def _turned_strips(scores: Scores, mirrored: bool) -> Iterator[tuple[int, Floats]]:
    for top, strip_KRW in scores.probability_strips():
        yield top, strip_KRW[:, :, ::-1] if mirrored else strip_KRW
