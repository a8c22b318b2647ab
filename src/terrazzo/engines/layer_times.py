"""Times of a network's layers in one pass, by an engine's own counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine

__all__ = ["PASSES", "LayerTime", "layer_times", "mean_of_passes"]

PASSES = 4  # of which the first is not counted


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer, as an engine ran it.

    Attributes:
        layer: the engine's name for it; for PyTorch, the sizes of the operator's inputs.
        kind: of operation, such as ``Convolution``.
        kernel: the code that ran and the type that it computed in, as far as the engine says.
        seconds: in one pass.
    """

    layer: str
    kind: str
    kernel: str
    seconds: float


def layer_times(engine: Engine, images_B3HW: NDArray[np.float32]) -> list[LayerTime]:
    """Return the times of an engine's layers in a pass; an empty list for an engine that does not count them."""
    count = getattr(engine, "layer_times", None)
    times: list[LayerTime] = [] if count is None else count(images_B3HW)
    return times


def mean_of_passes(passes: Sequence[Iterable[LayerTime]]) -> list[LayerTime]:
    """Return the mean time of each layer in all passes but the first, in which an engine prepares its memory.

    Layers with the same name, kind and kernel are added up; those that took no time are left out.
    """
    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for time in chain.from_iterable(passes[1:]):
        seconds[time.layer, time.kind, time.kernel] += time.seconds
    return [LayerTime(*of, total / (len(passes) - 1)) for of, total in seconds.items() if total > 0]
