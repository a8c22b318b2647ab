"""Temporal smoothing: an exponential moving average of a video's logits, which calms masks that flicker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.errors import ConfigError
from terrazzo.inference.predictor import Predictor

__all__ = ["smoothed"]


class _Smoothed:
    """An engine whose logits are averaged with those of the frames before; each size of frame begins a new average."""

    def __init__(self, engine: Engine, weight: float) -> None:
        self._engine, self._weight = engine, np.float32(weight)
        self._mean_KHW: NDArray[np.float32] | None = None

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        logits_BKHW = np.array(self._engine(images_B3HW), dtype=np.float32)
        for logits_KHW in logits_BKHW:
            if self._mean_KHW is not None and self._mean_KHW.shape == logits_KHW.shape:
                logits_KHW += self._weight * (self._mean_KHW - logits_KHW)
            self._mean_KHW = logits_KHW
        return logits_BKHW


def smoothed(predictor: Predictor, weight: float) -> Predictor:
    """Return a predictor for the frames of one video, in order, that gives earlier frames this weight.

    mean = weight x mean before + (1 - weight) x logits. The masks lag by weight / (1 - weight) frames on average.

    Raises:
        ConfigError: the weight is not from 0 to below 1, or the protocol shows frames in several parts.
    """
    if not 0 <= weight < 1:
        raise ConfigError(
            f"the weight of earlier frames is {weight:g}", fix="give a number from 0 (none) to below 1, such as 0.6"
        )
    if weight == 0:
        return predictor
    if not predictor.protocol.single_view or predictor.protocol.window is not None or predictor.output != "logits":
        raise ConfigError(
            "logits can be smoothed where each frame goes through the network once and as a whole, and come out of it",
            fix="leave smoothing out; or use the protocol whole, and a model that gives logits",
            code="video-smoothing",
        )
    return replace(predictor, engine=_Smoothed(predictor.engine, weight), streams=1)
