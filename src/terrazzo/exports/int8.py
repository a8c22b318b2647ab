"""Int8: post-training quantisation, calibrated with the user's photos, and a gate on its loss of accuracy.

Matrix products and dense convolutions get int8 weights and activations. Depthwise convolutions, norms and softmax stay
in float32. If that loses too much, more layers stay in float32, first those at which the error grows most.

Without labelled photos (with them, see `accuracy_gate`) the gate is the share of mask pixels, at the network's own
stride, that keep float32's class. It is measured on photos held back from calibration, if there are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.choose_images import choose_images
from terrazzo.engines.engine import Engine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.imaging.read import ReadOptions
from terrazzo.weights.exported import ExportedDescription

__all__ = [
    "MAX_LOSS",
    "Quantised",
    "Quantiser",
    "agreement",
    "costliest_layers",
    "quantise",
    "read_input",
    "refuse_loss",
    "split_images",
]

MAX_LOSS = 2.0
"""Percent of mask pixels that may change class by default, without labels."""

MOST_CALIBRATION, MOST_CHECKED = 64, 16

RANKING_IMAGES = 2
"""Number of images on which the errors of single layers are measured."""

HARMLESS = 1e-4
"""A relative squared error that rounding to 8 bits causes anyway; growth is counted relative to it."""


class Quantiser(Protocol):
    """Quantises a model that gives logits. Networks are objects of its format, and layers are named."""

    @property
    def exact(self) -> Any:
        """The network in float32."""
        ...

    @property
    def inputs(self) -> Sequence[NDArray[np.float32]]:
        """(1, C, H, W) images to calibrate with."""
        ...

    def quantised(self, kept: Sequence[str] = ()) -> Any:
        """Return the network in int8, except for the layers `kept`."""
        ...

    def layers(self, network: Any) -> dict[str, str]:
        """Return the names of a network's int8 layers, each with the name of its input."""
        ...

    def results(
        self, network: Any, names: Sequence[str], inputs: Sequence[NDArray[np.float32]]
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield, for each input, the values of these names in a network."""
        ...


@dataclass(frozen=True)
class Quantised:
    """A model in int8.

    Attributes:
        network: the network, as its quantiser made it.
        score: in percent.
        layers: number of matrix products and convolutions that int8 is for.
        restored: how many of them stayed in float32.
    """

    network: Any
    score: float
    layers: int
    restored: int


def quantise(quantiser: Quantiser, score: Callable[[Any], float], exact_score: float, max_loss: float) -> Quantised:
    """Quantise a model; if that loses too much, with 1, 2, 4, ... of its layers in float32, up to half of them.

    Args:
        quantiser: of the model.
        score: gives a network's score in percent. Its last call is for the network that is returned.
        exact_score: the score of the model in float32.
        max_loss: how far below it the score may lie. If it stays lower, the caller decides.
    """
    whole = network = quantiser.quantised()
    layers, restored = len(quantiser.layers(whole)), 0
    costliest: list[str] = []
    while True:
        reached = score(network)
        if exact_score - reached <= max_loss or 2 * restored >= layers:
            return Quantised(network, reached, layers, restored)
        costliest = costliest or costliest_layers(quantiser, whole)
        restored = 2 * restored or 1
        network = quantiser.quantised(costliest[:restored])


def costliest_layers(quantiser: Quantiser, int8: Any) -> list[str]:
    """Return the layers of an int8 network, sorted by how much the relative error grows in them, most first.

    Args:
        quantiser: of the model.
        int8: the network that it made.
    """
    sources, inputs = quantiser.layers(int8), quantiser.inputs[:RANKING_IMAGES]
    names = sorted({*sources, *sources.values()})
    errors = np.zeros(len(names))
    pairs = zip(quantiser.results(quantiser.exact, names, inputs), quantiser.results(int8, names, inputs), strict=True)
    for wanted, found in pairs:
        errors += [_relative_error(a.astype(float), b.astype(float)) for a, b in zip(wanted, found, strict=True)]
    error = dict(zip(names, errors, strict=True))
    return sorted(sources, key=lambda name: error[name] / (error[sources[name]] + HARMLESS), reverse=True)


def split_images(arguments: Sequence[str], hold_back: bool = True) -> tuple[list[Path], list[Path]]:
    """Split photos into those for calibration and those for the gate; fewer than 8 are used for both.

    Args:
        arguments: files, folders and patterns.
        hold_back: whether the gate needs any; labelled photos take their place.

    Raises:
        ImageError: there are none.
    """
    images, _ = choose_images(arguments)
    if hold_back and len(images) < 8:
        return images, images
    # Spread over all of them, since photos of one sequence follow each other.
    checked = images[:: max(len(images) // MOST_CHECKED, 4)][:MOST_CHECKED] if hold_back else []
    rest = [image for image in images if image not in set(checked)]
    return rest[:: max(len(rest) // MOST_CALIBRATION, 1)][:MOST_CALIBRATION], checked


def agreement(exact: Engine, images: Sequence[Path], description: ExportedDescription) -> Callable[[Engine], float]:
    """Return a function that gives the percentage of mask pixels for which an engine has the class of `exact`."""
    inputs = [read_input(path, description) for path in images]
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
            f"int8 changes the class of {loss:.2f}% of the mask; {max_loss:g}% is allowed, so the file was removed",
            fix="calibrate with more photos like those it will see, keep fp16, or allow more with --max-loss",
            code="export-loss",
        )


def read_input(path: Path, description: ExportedDescription) -> NDArray[np.float32]:
    """Return a photo as the input of an exported file, (1, C, H, W).

    Raises:
        ConfigError: it is too small ("export-size").
        ImageError: it cannot be read.
    """
    image = description.preprocess(ReadOptions().for_model(description.preprocess.bands).read(path))
    if min(image.shape[1:]) < description.minimum_side:
        raise ConfigError(
            f"{path} has fewer than {description.minimum_side} pixels a side", fix="leave it out", code="export-size"
        )
    return np.ascontiguousarray(image[None])


def _relative_error(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(((found - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-12))
