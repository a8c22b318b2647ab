"""From logits to a mask, exactly. (first, plain version)"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError

__all__ = ["confidence_maps", "iter_probability_strips", "upsample_argmax", "upsample_probabilities"]

Size = tuple[int, int]


@lru_cache(maxsize=64)
def _stencil(source: int, targets: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    taps = np.arange(source, dtype=np.intp)[:, None]
    weights = np.ones((source, 1))
    for target in targets:
        n = len(taps)
        if target == n:
            continue
        scale = np.float32(n) / np.float32(target)
        at = (float(scale) * (np.arange(target) + 0.5) - 0.5).astype(np.float32).clip(min=0)
        low = np.minimum(at.astype(np.intp), n - 1)
        high = np.minimum(low + 1, n - 1)
        share = (at - low).astype(np.float32).clip(0, 1)[:, None].astype(np.float64)
        taps = np.concatenate([taps[low], taps[high]], axis=1)
        weights = np.concatenate([weights[low] * (1 - share), weights[high] * share], axis=1)
    return taps, weights.astype(np.float32)


def _strips(logits_KHW: NDArray[np.float32], sizes: Sequence[Size]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    K, h, w = logits_KHW.shape
    taps_y, weights_y = _stencil(h, tuple(s[0] for s in sizes))
    taps_x, weights_x = _stencil(w, tuple(s[1] for s in sizes))
    height, width = len(taps_y), len(taps_x)
    rows = max(1, min(height, 4_000_000 // (K * width)))
    for top in range(0, height, rows):
        ty, wy = taps_y[top : top + rows], weights_y[top : top + rows]
        tall = sum(logits_KHW[:, ty[:, t]] * wy[:, t, None] for t in range(ty.shape[1]))
        yield top, sum(tall[:, :, taps_x[:, t]] * weights_x[:, t] for t in range(taps_x.shape[1]))


def upsample_argmax(logits_KHW: NDArray[np.float32], sizes: Sequence[Size]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    K, h, w = logits_KHW.shape
    height, width = sizes[-1] if sizes else (h, w)
    mask = np.empty((height, width), np.uint8 if K <= 255 else np.uint16)
    for top, strip in _strips(logits_KHW, sizes):
        if not np.isfinite(strip.max()):
            raise CheckpointError("the model's output is not finite", fix="check the weights", code="logits-not-finite")
        mask[top : top + strip.shape[1]] = strip.argmax(0)
    return mask


def iter_probability_strips(
    logits_KHW: NDArray[np.float32], sizes: Sequence[Size]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for top, strip in _strips(logits_KHW, sizes):
        strip = np.exp(strip - strip.max(0))
        strip /= strip.sum(0)
        yield top, strip


def upsample_probabilities(logits_KHW: NDArray[np.float32], sizes: Sequence[Size]) -> NDArray[np.float32]:
    K, h, w = logits_KHW.shape
    out = np.empty((K, *(sizes[-1] if sizes else (h, w))), np.float32)
    for top, strip in iter_probability_strips(logits_KHW, sizes):
        out[:, top : top + strip.shape[1]] = strip
    return out


def confidence_maps(
    logits_KHW: NDArray[np.float32], sizes: Sequence[Size]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    K, h, w = logits_KHW.shape
    size = sizes[-1] if sizes else (h, w)
    best, entropy = np.empty(size, np.float32), np.zeros(size, np.float32)
    for top, p in iter_probability_strips(logits_KHW, sizes):
        here = slice(top, top + p.shape[1])
        best[here] = p.max(0)
        if K > 1:
            entropy[here] = -(p * np.log(np.maximum(p, 1e-38))).sum(0) / math.log(K)
    return best, entropy
