"""Int8: post-training quantisation with the user's own photos, and a gate on what it costs.

Matrix products and dense convolutions get int8 weights and activations. Depthwise convolutions, norms and softmax stay
in float32. Where that loses too much, more layers stay in float32, those first by which the error grows most.

The gate where there are no labelled photos (where there are, it is `accuracy_gate`): the share of mask pixels, at the
network's own stride, that keep the class they have in float32, on photos that were not used for calibration where there
are enough of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.imaging.find_images import find_images
from terrazzo.imaging.read import ReadOptions
from terrazzo.ownership import leave_out_results
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
"""Percent of mask pixels that may change class, by default, where there are no labels."""

MOST_CALIBRATION, MOST_CHECKED = 64, 16

RANKING_IMAGES = 2
"""Photos on which the errors of single layers are measured."""

HARMLESS = 1e-4
"""A relative squared error from which no growth is counted: what rounding to 8 bits comes to anyway."""


class Quantiser(Protocol):
    """Makes int8 of a model that gives logits. Networks are what its format has for them; layers are known by names."""

    @property
    def exact(self) -> Any:
        """The network in float32."""
        ...

    @property
    def inputs(self) -> Sequence[NDArray[np.float32]]:
        """(1, C, H, W) images to calibrate with."""
        ...

    def quantised(self, kept: Sequence[str] = ()) -> Any:
        """Return the network in int8, but for the layers `kept`."""
        ...

    def layers(self, network: Any) -> dict[str, str]:
        """Return the layers of a network that are in int8, each with the name of what it is given."""
        ...

    def results(
        self, network: Any, names: Sequence[str], inputs: Sequence[NDArray[np.float32]]
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield, for each input, what goes by these names in a network."""
        ...


@dataclass(frozen=True)
class Quantised:
    """A model in int8.

    Attributes:
        network: as its quantiser made it.
        score: in percent.
        layers: matrix products and convolutions that int8 is for.
        restored: how many of them are in float32 after all.
    """

    network: Any
    score: float
    layers: int
    restored: int


def quantise(quantiser: Quantiser, score: Callable[[Any], float], exact_score: float, max_loss: float) -> Quantised:
    """Make int8 of a model; where that loses too much, with 1, 2, 4, ... of its layers in float32, up to half of them.

    Args:
        quantiser: of the model.
        score: what is to be kept, in percent, of a network. It is asked last for the one that is returned.
        exact_score: that of the model in float32.
        max_loss: how far it may lie below it. If it still does, that is for the caller to judge.
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
    """Return the layers of an int8 network, those first by which the relative error of what they are given grows most.

    Args:
        quantiser: of the model.
        int8: what it made.
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
    """Return photos for calibration and photos for the gate; of fewer than 8, all serve as both.

    Args:
        arguments: files, folders and patterns.
        hold_back: whether the gate needs photos at all; labelled ones take their place.

    Raises:
        ImageError: there are none.
    """
    images, _ = leave_out_results(find_images(list(arguments)), arguments)
    if hold_back and len(images) < 8:
        return images, images
    # Spread over all of them, for photos of one drive follow each other.
    checked = images[:: max(len(images) // MOST_CHECKED, 4)][:MOST_CHECKED] if hold_back else []
    rest = [image for image in images if image not in set(checked)]
    return rest[:: max(len(rest) // MOST_CALIBRATION, 1)][:MOST_CALIBRATION], checked


def agreement(exact: Engine, images: Sequence[Path], description: ExportedDescription) -> Callable[[Engine], float]:
    """Return what measures the percentage of mask pixels to which an engine gives the class that `exact` gives."""
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
            f"int8 changes the class of {loss:.2f}% of the mask, and {max_loss:g}% is allowed; the file was removed",
            fix="calibrate with more photos like those it will see, keep fp16, or allow more with --max-loss",
            code="export-loss",
        )


def read_input(path: Path, description: ExportedDescription) -> NDArray[np.float32]:
    """Return a photo as an exported file is given it, (1, C, H, W).

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
