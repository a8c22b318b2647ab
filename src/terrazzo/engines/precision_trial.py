"""The choice between float32 and bfloat16 on a CPU, by computing the first images in both.

`auto` makes it where many images are to be predicted on a processor with bfloat16 instructions. float32's results are
returned meanwhile. bfloat16 is kept for the other images if it found the same classes in clearly less time; what was
chosen, and why, is told once.

Processor time of a pass of the shipped model at 480 x 640 as a share of float32's, one thread of an EPYC with
AVX512-BF16 and without AMX: 0.55 in OpenVINO, 0.62 in PyTorch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine, release_memory
from terrazzo.engines.layer_times import LayerTime, layer_times
from terrazzo.notes import note

__all__ = ["PrecisionTrial"]

COMPARED_PASSES = 4
"""Passes that are computed in both precisions before bfloat16 is trusted."""

LEAST_SAME = 0.998
"""Smallest share of positions with float32's class, in each compared pass, for which bfloat16 is used.

With the shipped model it is 99.85% to 99.94% on photos of CamVid.
"""

MOST_TIME = 0.9
"""Largest share of float32's time for which bfloat16 is used."""


@dataclass(frozen=True)
class _Pass:
    """One compared pass: seconds for each number of the input in both precisions, and the share of equal classes."""

    exact_seconds: float
    lower_seconds: float
    same: float


class PrecisionTrial:
    """An engine in float32, until the same engine in bfloat16 has proved equal and faster.

    Images that are computed at once, each in its own thread, are all compared as long as nothing is decided.

    Args:
        exact: the engine in float32.
        lower: the same engine in bfloat16.
        name: of the engine, for the note.
        clock: gives seconds.

    Attributes:
        chosen: the engine that computes from now on; None while both do.
    """

    def __init__(self, exact: Engine, lower: Engine, name: str, *, clock: Callable[[], float] = perf_counter) -> None:
        self.chosen: Engine | None = None
        self._exact, self._lower, self._name, self._clock = exact, lower, name, clock
        self._lock = threading.Lock()  # guards the attributes
        self._passes: list[_Pass] = []

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        if self.chosen is not None:
            return self.chosen(images_B3HW)
        started = self._clock()
        expected = self._exact(images_B3HW)
        between = self._clock()
        try:
            found = self._lower(images_B3HW)
        except Exception as error:  # such as too little memory for both; float32 has what it needs
            self._choose(self._exact, f"float32: in bfloat16 it failed ({type(error).__name__})")
            return expected
        ended, count = self._clock(), images_B3HW.size
        self._compare(_Pass((between - started) / count, (ended - between) / count, _same_classes(found, expected)))
        return expected

    def layer_times(self, images_B3HW: NDArray[np.float32]) -> list[LayerTime]:
        """Return the times of the layers in the precision that computes images now."""
        return layer_times(self.chosen or self._exact, images_B3HW)

    def release_memory(self) -> None:
        """Free what the engines keep; where nothing is decided yet, float32 goes on alone."""
        self._choose(self._exact, "float32: there is too little memory to try bfloat16")
        if self.chosen is not None:
            release_memory(self.chosen)

    def _compare(self, one: _Pass) -> None:
        if one.same < LEAST_SAME:
            self._choose(self._exact, f"float32: bfloat16 finds other classes at {1 - one.same:.2%} of an image")
            return
        with self._lock:
            self._passes.append(one)
            passes = list(self._passes)
        if len(passes) < COMPARED_PASSES:
            return
        # The least: an engine prepares itself for a size in its first passes, and the machine may be busy.
        share = min(each.lower_seconds for each in passes) / min(each.exact_seconds for each in passes)
        if share > MOST_TIME:
            self._choose(self._exact, f"float32: bfloat16 takes {share:.0%} of its time here")
        else:
            same = min(each.same for each in passes)
            self._choose(
                self._lower,
                f"bfloat16: it takes {share:.0%} of float32's time and finds the same classes at {same:.2%} or more of "
                f"each of the first {COMPARED_PASSES} images (--precision fp32 for float32)",
            )

    def _choose(self, engine: Engine, why: str) -> None:
        """Decide, once; the other engine is given up with its memory."""
        with self._lock:
            if self.chosen is not None:
                return
            self.chosen = self._exact = self._lower = engine
        note(f"{self._name} computes in {why}")


def _same_classes(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the share of positions at which two logits (B, K, h, w), or masks (B, H, W), have the same class."""
    if found.shape != expected.shape:
        return 0.0
    if expected.ndim == 4:
        if not np.isfinite(found).all():
            return 0.0
        found, expected = found.argmax(1), expected.argmax(1)
    return float((found == expected).mean())
