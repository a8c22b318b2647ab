"""Int8 for OpenVINO: post-training quantisation with the user's own photos, and a gate on what it costs.

Needs the extra ``quant``. Matrix products and dense convolutions get int8 weights and activations. Depthwise
convolutions, norms and softmax stay in float32. (For the shipped model that changes little: NNCF's settings for
transformers are what saves its accuracy.) Where that loses too much, more layers stay in float32, those first by which
the error grows most.

The gate where there are no labelled photos (`judgement` is the one where there are): the share of mask pixels, at the
network's own stride, that keep the class they have in float32, on photos that were not used for calibration where there
are enough of them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
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
    "costliest_layers",
    "int8_layers",
    "quantised",
    "refuse_loss",
    "split_photos",
    "write_int8",
]

MAX_LOSS = 2.0
"""Percent of mask pixels that may change class, by default, where there are no labels."""

MOST_CALIBRATION, MOST_CHECKED = 64, 16

RANKING_PHOTOS = 2
"""Photos on which the errors of single layers are measured."""

HARMLESS = 1e-4
"""A relative squared error from which no growth is counted: what rounding to 8 bits comes to anyway."""

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
    """Write a model in int8; where that loses too much, with 1, 2, 4, ... of its layers in float32, up to half of them.

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
    whole = network = quantised(exact, photos, description)
    layers, restored = len(int8_layers(whole)), 0
    costliest: list[str] = []
    while True:
        save_openvino(network, path, description)
        reached = score(OpenVINOEngine(path))
        if exact_score - reached <= max_loss or 2 * restored >= layers:
            return Quantised(network, reached, layers, restored)
        costliest = costliest or costliest_layers(
            exact, whole, [_input(photo, description) for photo in photos[:RANKING_PHOTOS]]
        )
        restored = 2 * restored or 1
        network = quantised(exact, photos, description, costliest[:restored])


def quantised(network: Any, photos: Sequence[Path], description: ExportedDescription, kept: Sequence[str] = ()) -> Any:
    """Return an `openvino.Model` in int8.

    Args:
        network: the model in float32, giving logits. It is not changed.
        photos: for calibration.
        description: of the file that it is for.
        kept: names of layers that stay in float32, as `int8_layers` has them.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "quant") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    inputs = [_input(photo, description) for photo in photos]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nncf about its own dependencies
        return nncf.quantize(
            network,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(types=KEPT, names=list(kept), validate=False),
        )


def int8_layers(network: Any) -> list[str]:
    """Return the names of an `openvino.Model`'s matrix products and convolutions that have int8 weights."""
    return [
        operation.get_friendly_name()
        for operation in network.get_ops()
        if operation.get_type_name() in ("MatMul", "Convolution")
        and operation.input_value(1).get_node().get_type_name() == "Multiply"  # integers, times their scale
    ]


def costliest_layers(exact: Any, int8: Any, inputs: Sequence[NDArray[np.float32]]) -> list[str]:
    """Return the names of int8 layers, those first by which the relative error of what goes into them grows most.

    Args:
        exact: the model in float32.
        int8: what `quantised` made of it.
        inputs: images.
    """
    operations = {operation.get_friendly_name(): operation for operation in exact.get_ops()}
    # The operation whose result goes into each layer.
    sources = {name: operations[name].input_value(0).get_node().get_friendly_name() for name in int8_layers(int8)}
    names = sorted({*sources, *sources.values()})
    errors = np.zeros(len(names))
    for wanted, found in zip(_results(exact, names, inputs), _results(int8, names, inputs), strict=True):
        errors += [((b - a) ** 2).sum() / max((a**2).sum(), 1e-12) for a, b in zip(wanted, found, strict=True)]
    error = dict(zip(names, errors, strict=True))
    return sorted(sources, key=lambda name: error[name] / (error[sources[name]] + HARMLESS), reverse=True)


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


def _results(
    network: Any, names: Sequence[str], inputs: Sequence[NDArray[np.float32]]
) -> Iterator[list[NDArray[np.float64]]]:
    """Yield, for each input, what the operations of these names give."""
    import openvino as ov

    probed = network.clone()
    operations = {operation.get_friendly_name(): operation for operation in probed.get_ops()}
    probed.add_outputs([operations[name].output(0) for name in names])  # behind the logits
    compiled = ov.compile_model(probed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for images in inputs:
        results = compiled([images])
        yield [np.array(results[1 + number], np.float64) for number in range(len(names))]


def _input(photo: Path, description: ExportedDescription) -> NDArray[np.float32]:
    image = description.preprocess(read_image(photo))
    if min(image.shape[1:]) < description.minimum_side:
        raise ConfigError(
            f"{photo} has fewer than {description.minimum_side} pixels a side", fix="leave it out", code="export-size"
        )
    return np.ascontiguousarray(image[None])
