"""Int8 for OpenVINO: post-training quantisation with the user's own photos, and a gate on what it costs.

Needs the extra ``quant``. Matrix products and dense convolutions get int8 weights and activations. Depthwise
convolutions, norms and softmax stay in float32. (For the shipped model that changes little: NNCF's settings for
transformers are what saves its accuracy.)

The gate where there are no labelled photos (`judgement` is the one where there are): the share of mask pixels, at the
network's own stride, that keep the class they have in float32, on photos that were not used for calibration where there
are enough of them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError
from terrazzo.images import find_images, read_image
from terrazzo.preprocess import Preprocess
from terrazzo.weights.exported import ExportedDescription

__all__ = ["MAX_LOSS", "agreement", "quantised", "refuse_loss", "split_photos"]

MAX_LOSS = 2.0
"""Percent of mask pixels that may change class, by default, where there are no labels."""

MOST_CALIBRATION, MOST_CHECKED = 64, 16
KEPT = ["GroupConvolution", "MVN", "Softmax"]
"""OpenVINO's operations that stay in float32."""


def quantised(network: Any, photos: Sequence[Path], description: ExportedDescription) -> Any:
    """Return an `openvino.Model` in int8.

    Args:
        network: the model in float32, giving logits.
        photos: for calibration.
        description: of the file that it is for.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "quant") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    inputs = [_input(photo, description.preprocess, description.minimum_side) for photo in photos]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nncf about its own dependencies
        return nncf.quantize(
            network,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(types=KEPT, validate=False),
        )


def split_photos(arguments: Sequence[str], hold_back: bool = True) -> tuple[list[Path], list[Path]]:
    """Return photos for calibration and photos for the gate; of fewer than 8, all serve as both.

    Args:
        arguments: files, folders and patterns.
        hold_back: whether the gate needs photos at all; labelled ones take their place.

    Raises:
        ImageError: there are none.
    """
    photos = find_images(list(arguments))
    if hold_back and len(photos) < 8:
        return photos, photos
    # Spread over all of them, for photos of one drive follow each other.
    checked = photos[:: max(len(photos) // MOST_CHECKED, 4)][:MOST_CHECKED] if hold_back else []
    rest = [photo for photo in photos if photo not in set(checked)]
    return rest[:: max(len(rest) // MOST_CALIBRATION, 1)][:MOST_CALIBRATION], checked


def agreement(
    exact: Callable[[NDArray[np.float32]], NDArray[Any]],
    quantised: Callable[[NDArray[np.float32]], NDArray[Any]],
    photos: Sequence[Path],
    preprocess: Preprocess,
    minimum_side: int,
) -> float:
    """Return the share of mask pixels that two engines give the same class."""
    equal = total = 0
    for photo in photos:
        images = _input(photo, preprocess, minimum_side)
        same = exact(images).argmax(1) == quantised(images).argmax(1)
        equal, total = equal + int(same.sum()), total + same.size
    return equal / total


def refuse_loss(agreed: float, max_loss: float) -> None:
    """Raise CheckpointError "export-loss" where more than `max_loss` percent of the mask changed."""
    loss = 100 * (1 - agreed)
    if not loss <= max_loss:
        raise CheckpointError(
            f"int8 changes the class of {loss:.2f}% of the mask, and {max_loss:g}% is allowed; the file was removed",
            fix="calibrate with more photos like those it will see, keep fp16, or allow more with --max-loss",
            code="export-loss",
        )


def _input(photo: Path, preprocess: Preprocess, minimum_side: int) -> NDArray[np.float32]:
    image = preprocess(read_image(photo))
    if min(image.shape[1:]) < minimum_side:
        raise ConfigError(
            f"{photo} has fewer than {minimum_side} pixels a side", fix="leave it out", code="export-size"
        )
    return np.ascontiguousarray(image[None])
