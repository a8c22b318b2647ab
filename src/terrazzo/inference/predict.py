"""`predict`: the public function for one photo or many."""

from __future__ import annotations

from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terrazzo.engines.torch import TorchEngine, default_device
from terrazzo.images import ImageSource, find_images, read_image
from terrazzo.inference.predictor import Failure, Predictor
from terrazzo.inference.protocols import WHOLE, Protocol, find_protocol
from terrazzo.inference.result import Segmentation
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load

__all__ = ["make_predictor", "predict"]


def make_predictor(
    model: str | Path | TrainedModel = DEFAULT_MODEL,
    device: str | None = None,
    protocol: str | Protocol = WHOLE,
) -> Predictor:
    """Return a predictor for a model.

    Args:
        model: a loaded model, or what `terrazzo.load` takes.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        protocol: how photos are shown to the network, or the name of a protocol.

    Raises:
        ConfigError: no protocol is called so.
        CheckpointError: the model cannot be loaded.
    """
    protocol = find_protocol(protocol)
    trained = model if isinstance(model, TrainedModel) else load(model)
    engine = TorchEngine(trained.network, device or default_device())
    return Predictor(engine, trained.preprocess, trained.labels, trained.name, protocol)


@overload
def predict(
    photos: str | Path | bytes | Image.Image | NDArray[np.uint8],
    model: str | Path | TrainedModel = ...,
    *,
    probabilities: bool = ...,
    device: str | None = ...,
    protocol: str | Protocol = ...,
) -> Segmentation: ...
@overload
def predict(
    photos: list[str | Path],
    model: str | Path | TrainedModel = ...,
    *,
    probabilities: bool = ...,
    device: str | None = ...,
    protocol: str | Protocol = ...,
) -> list[Segmentation]: ...
def predict(
    photos: ImageSource | list[str | Path],
    model: str | Path | TrainedModel = DEFAULT_MODEL,
    *,
    probabilities: bool = False,
    device: str | None = None,
    protocol: str | Protocol = WHOLE,
) -> Segmentation | list[Segmentation]:
    """Segment one photo, or a list of files, folders and glob patterns.

    Args:
        photos: a path, encoded bytes, a PIL image or an (H, W, 3) uint8 RGB array for one result; a list of paths for a
            list of results.
        model: a loaded model, or what `terrazzo.load` takes.
        probabilities: keep the (K, H, W) class probabilities with the mask.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        protocol: how photos are shown to the network: by default whole; "slide" for windows, which large photos need
            less memory by; "multi-scale" for the mean of twelve views; or one of the papers'.

    Returns:
        A `Segmentation` whose mask has the photo's own size, or a list of them.

    Raises:
        ImageError: a photo is missing or cannot be read.
        CheckpointError: the model cannot be loaded.
        ConfigError: no protocol is called so.
    """
    predictor = make_predictor(model, device, protocol)
    if not isinstance(photos, list):
        path = Path(photos) if isinstance(photos, (str, Path)) else None
        return predictor.segment([read_image(photos)], [path], probabilities=probabilities)[0]
    results = []
    for result in predictor.segment_files(find_images(photos), probabilities=probabilities):
        if isinstance(result, Failure):
            raise result.error
        results.append(result)
    return results
