"""Temporal smoothing: an exponential moving average of a video's logits, which calms masks that flicker.

Where a protocol shows a frame in windows, each window's logits are averaged with those of the same window of the frames
before. Blending windows is linear, so that is the average of the blended logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.errors import ConfigError
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Shown
from terrazzo.inference.scores import Block

__all__ = ["smoothed"]


class _Smoothed:
    """An engine whose logits are averaged with those of the frames before; each size of frame begins a new average."""

    def __init__(self, engine: Engine, weight: float) -> None:
        self._engine, self._weight = engine, np.float32(weight)
        self._means_KHW: dict[int | None, NDArray[np.float32]] = {}
        self.window: int | None = None  # which one of a frame comes next; None where a frame comes as a whole

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        logits_BKHW = np.array(self._engine(images_B3HW), dtype=np.float32)
        for logits_KHW in logits_BKHW:
            mean_KHW = self._means_KHW.get(self.window)
            if mean_KHW is not None and mean_KHW.shape == logits_KHW.shape:
                logits_KHW += self._weight * (mean_KHW - logits_KHW)
            self._means_KHW[self.window] = logits_KHW
            if self.window is not None:
                self.window += 1
        return logits_BKHW


@dataclass(frozen=True)
class _SmoothedPredictor(Predictor):
    """A predictor that tells its engine where a frame's windows begin."""

    def _windows(
        self, view: Shown, size: tuple[int, int], folder: Path | None = None, done: int = 0
    ) -> Iterator[Block]:
        engine: Any = self.engine
        engine.window = 0
        try:
            yield from super()._windows(view, size, folder, done)
        finally:
            engine.window = None


def smoothed(predictor: Predictor, weight: float) -> Predictor:
    """Return a predictor for the frames of one video, in order, that gives earlier frames this weight.

    mean = weight x mean before + (1 - weight) x logits. The masks lag by weight / (1 - weight) frames on average.

    Raises:
        ConfigError: the weight is not from 0 to below 1, or the protocol shows frames in several views.
    """
    if not 0 <= weight < 1:
        raise ConfigError(
            f"the weight of earlier frames is {weight:g}", fix="give a number from 0 (none) to below 1, such as 0.6"
        )
    if weight == 0:
        return predictor
    if not predictor.protocol.single_view or predictor.output != "logits":
        raise ConfigError(
            "logits can be smoothed where each frame has one view, and logits come out of the network",
            fix="leave smoothing out; or use the protocol whole or slide, and a model that gives logits",
            code="video-smoothing",
        )
    values = {field.name: getattr(predictor, field.name) for field in fields(predictor) if field.init}
    engine = _Smoothed(predictor.engine, weight)
    return replace(_SmoothedPredictor(**values), engine=engine, streams=1)
