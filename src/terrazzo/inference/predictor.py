"""Photos in, masks out: preprocess, engine, exact upsampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from terrazzo.inference.postprocess import upsample_argmax
from terrazzo.preprocess import Preprocess

__all__ = ["Engine", "predict_masks"]

Engine = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Normalised images (B, 3, H, W) float32 to logits (B, K, h, w) float32."""


def predict_masks(engine: Engine, preprocess: Preprocess, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.integer]]:
    """Segment photos whose preprocessed sizes are equal, as one batch.

    Args:
        engine: runs the network.
        preprocess: the weights' own.
        images: (H, W, 3) uint8 RGB photos.

    Returns:
        One (H, W) mask of class indices per photo, at the photo's own size: logits are resized to the network's input
        size, then to the photo's, and the argmax is taken last.
    """
    inputs = [preprocess(image) for image in images]
    logits_BKhw = engine(np.stack(inputs))
    return [
        upsample_argmax(logits, [x.shape[1:], image.shape[:2]])
        for logits, x, image in zip(logits_BKhw, inputs, images, strict=True)
    ]
