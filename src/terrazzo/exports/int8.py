"""Int8 for OpenVINO: post-training quantisation with the user's own photos, and a gate on what it costs.

Needs the extra ``quant``. Matrix products and dense convolutions get int8 weights and activations. Depthwise
convolutions, norms and softmax stay in float32. (For the shipped model that changes little: NNCF's settings for
transformers are what saves its accuracy.) Where that loses too much, single layers follow them, those first whose int8
changes the logits most.

The gate where there are no labelled photos (`judgement` is the one where there are): the share of mask pixels, at the
network's own stride, that keep the class they have in float32, on photos that were not used for calibration where there
are enough of them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError
from terrazzo.exports.openvino import openvino_model, save_openvino
from terrazzo.images import find_images, read_image
from terrazzo.weights.exported import ExportedDescription
from terrazzo.weights.files import TrainedModel

__all__ = [
    "MAX_LOSS",
    "Quantised",
    "agreement",
    "count_int8_layers",
    "quantised",
    "quantised_in_part",
    "refuse_loss",
    "split_photos",
    "write_int8",
]

MAX_LOSS = 2.0
"""Percent of mask pixels that may change class, by default, where there are no labels."""

MOST_CALIBRATION, MOST_CHECKED = 64, 16

MOST_RANKED = 4
"""Photos by which layers are ranked, for each of which every layer is once computed in float32."""

MOST_RESTORED = 24
"""Layers that may go back to float32; with more, little of int8 would be left of the smaller models."""

KEPT = ["GroupConvolution", "MVN", "Softmax"]
"""OpenVINO's operations that stay in float32."""


@dataclass(frozen=True)
class Quantised:
    """A model in int8.

    Attributes:
        network: an `openvino.Model`.
        score: in percent, of its file.
        layers: matrix products and convolutions that int8 is for.
        restored: how many of them are in float32 after all.
    """

    network: Any
    score: float
    layers: int
    restored: int


def write_int8(
    model: TrainedModel,
    path: Path,
    description: ExportedDescription,
    photos: Sequence[Path],
    score: Callable[[Engine], float],
    exact_score: float,
    max_loss: float,
) -> Quantised:
    """Write a model in int8, and where that loses too much, in part.

    Args:
        model: the model.
        path: of the file.
        description: that goes into it.
        photos: for calibration.
        score: what is to be kept, in percent, of an engine.
        exact_score: that of the model in float32.
        max_loss: how far the file's may lie below it. If it still does, that is for the caller to judge.

    Raises:
        ConfigError: the model has an operation that cannot be expressed, or a photo is too small.
        MissingExtraError: openvino, onnx or nncf is not installed.
        OutputError: the place cannot be written.
    """
    exact = openvino_model(model, description)
    network = quantised(exact, photos, description)
    save_openvino(network, path, description)
    reached, layers = score(OpenVINOEngine(path)), count_int8_layers(network)
    if not exact_score - reached <= max_loss:
        network = quantised_in_part(exact, photos, description, score, max_loss)
        save_openvino(network, path, description)
        reached = score(OpenVINOEngine(path))
    return Quantised(network, reached, layers, layers - count_int8_layers(network))


def quantised(network: Any, photos: Sequence[Path], description: ExportedDescription) -> Any:
    """Return an `openvino.Model` in int8.

    Args:
        network: the model in float32, giving logits. It is not changed.
        photos: for calibration.
        description: of the file that it is for.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    nncf = _nncf()
    inputs = [_input(photo, description) for photo in photos]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nncf about its own dependencies
        return nncf.quantize(network, nncf.Dataset(inputs), **_settings(nncf, len(inputs)))


def quantised_in_part(
    network: Any,
    photos: Sequence[Path],
    description: ExportedDescription,
    score: Callable[[Engine], float],
    max_loss: float,
) -> Any:
    """Return an `openvino.Model` in int8, but for as many layers in float32 as it takes, or `MOST_RESTORED`.

    Each layer is tried in float32, and the one that brings the logits nearest to float32's stays so; then the next,
    until the score is high enough. This takes some minutes for a small model.

    Args:
        network: the model in float32, giving logits. It is not changed.
        photos: for calibration; the layers are ranked by some of them.
        description: of the file that it is for.
        score: what is to be kept of an engine.
        max_loss: how far the score may lie below that of the model in float32.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    nncf = _nncf()
    inputs = [_input(photo, description) for photo in photos]

    def validate(compiled: Any, ranked: Iterable[Any]) -> tuple[float, list[list[NDArray[Any]]]]:
        def run(images: NDArray[np.float32], /) -> NDArray[Any]:
            return np.array(compiled([images])[0])  # a copy: the next run writes there

        return score(run), [[run(images)] for images in ranked]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nncf.quantize_with_accuracy_control(
            network,
            nncf.Dataset(inputs),
            nncf.Dataset(inputs[:: -(-len(inputs) // MOST_RANKED)]),
            validate,
            max_drop=max_loss,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=MOST_RESTORED
            ),
            **_settings(nncf, len(inputs)),
        )


def count_int8_layers(network: Any) -> int:
    """Return how many matrix products and convolutions of an `openvino.Model` have int8 weights."""
    return sum(
        operation.get_type_name() in ("MatMul", "Convolution")
        and operation.input_value(1).get_node().get_type_name() == "Multiply"  # integers, times their scale
        for operation in network.get_ops()
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


def agreement(exact: Engine, photos: Sequence[Path], description: ExportedDescription) -> Callable[[Engine], float]:
    """Return what measures the percentage of mask pixels to which an engine gives the class that `exact` gives."""
    inputs = [_input(photo, description) for photo in photos]
    expected = [exact(images).argmax(1) for images in inputs]

    def measure(engine: Engine) -> float:
        same = [engine(images).argmax(1) == mask for images, mask in zip(inputs, expected, strict=True)]
        kept, pixels = sum(int(part.sum()) for part in same), sum(int(part.size) for part in same)
        return 100 * kept / pixels

    return measure


def refuse_loss(agreed: float, max_loss: float) -> None:
    """Raise CheckpointError "export-loss" where less than all but `max_loss` percent of the mask agreed, in percent."""
    loss = 100 - agreed
    if not loss <= max_loss:
        raise CheckpointError(
            f"int8 changes the class of {loss:.2f}% of the mask, and {max_loss:g}% is allowed; the file was removed",
            fix="calibrate with more photos like those it will see, keep fp16, or allow more with --max-loss",
            code="export-loss",
        )


def _nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "quant") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def _settings(nncf: Any, photos: int) -> dict[str, Any]:
    return {
        "subset_size": photos,
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "ignored_scope": nncf.IgnoredScope(types=KEPT, validate=False),
    }


def _input(photo: Path, description: ExportedDescription) -> NDArray[np.float32]:
    image = description.preprocess(read_image(photo))
    if min(image.shape[1:]) < description.minimum_side:
        raise ConfigError(
            f"{photo} has fewer than {description.minimum_side} pixels a side", fix="leave it out", code="export-size"
        )
    return np.ascontiguousarray(image[None])
