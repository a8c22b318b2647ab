"""Finds encoders of Hugging Face transformers named ``hf:`` and a hub id, a folder or a config.json, and loads them.

The network itself is `models/encoders/backbone.py`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from terrazzo.config import read_json
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models import ON
from terrazzo.models.encoders.backbone import NEW_NORMS, Backbone
from terrazzo.preprocess import Preprocess
from terrazzo.text import said_by, show, shown_path
from terrazzo.weights.bands import fitted_bands
from terrazzo.weights.hub import download
from terrazzo.weights.processor import normalisation, read_processor

__all__ = [
    "PREFIX",
    "brings_weights",
    "is_named",
    "load_backbone",
    "locate",
    "normalisation_for",
    "split_name",
    "weights_folder",
]

PREFIX = "hf:"


def is_named(encoder: object) -> bool:
    """Whether this is the name of an encoder of transformers."""
    return isinstance(encoder, str) and encoder.startswith(PREFIX)


def split_name(model: str, encoder: Any = None) -> tuple[Any, str]:
    """Return the encoder and the decoder of a name such as ``hf:microsoft/resnet-50+fcn``; others stay as they are.

    Raises:
        ConfigError: an encoder is named beside it.
    """
    if not is_named(model):
        return encoder, model
    named, _, decoder = model.rpartition(ON)
    if encoder is not None:
        raise ConfigError(f"{model} has an encoder of its own", fix="leave the other encoder out", code="model-encoder")
    return named, decoder


def brings_weights(encoder: str) -> bool:
    """Whether an encoder comes with weights: one of transformers that is not a ``config.json`` alone."""
    return is_named(encoder) and not os.path.isfile(_path(encoder))


def weights_folder(encoder: str) -> Path | None:
    """Return the folder with an encoder's weights, fetched from the hub where that is needed; None for random weights.

    Raises:
        ConfigError: the encoder is not named as this page says.
        CheckpointError: the hub does not give it.
    """
    if not brings_weights(encoder):
        return None
    path = _path(encoder)
    if path.suffix == ".json":
        raise ConfigError(f"there is no file {path}", fix="check the path of the config.json", code="encoder-config")
    return path if os.path.isdir(path) else download(encoder.removeprefix(PREFIX))


def normalisation_for(encoder: str) -> Preprocess | None:
    """Return how photos are normalised for the weights that an encoder brings; None where it brings none.

    Raises:
        ConfigError: as `weights_folder`.
        CheckpointError: as `weights_folder`, or what its folder says of photos cannot be read.
    """
    folder = weights_folder(encoder)
    if folder is None:
        return None
    theirs = read_processor(folder)
    return Preprocess() if theirs is None else normalisation(theirs, f"the image processor in {shown_path(folder)}")


def locate(encoder: str) -> tuple[dict[str, Any], Path | None]:
    """Return an encoder's configuration, and the folder of its weights if it brings any.

    Raises:
        ConfigError: it is not named as this page says, or has no configuration.
        CheckpointError: the hub does not give it.
    """
    folder = weights_folder(encoder)
    path = _path(encoder) if folder is None else folder / "config.json"
    values = read_json(path, code="encoder-config")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds no configuration", fix="give a config.json of transformers", code="encoder-config"
        )
    return values, folder


def load_backbone(backbone: Backbone, folder: Path, bands: int) -> None:
    """Give a backbone the weights in a folder of transformers.

    Args:
        backbone: changed in place.
        folder: where they are.
        bands: of the images that they are for; see `bands.py` for what happens where the backbone has others.

    Raises:
        CheckpointError: they cannot be read, or do not fit its configuration.
    """
    network: Any = backbone.backbone
    config = copy.deepcopy(network.config)
    config.num_channels = bands
    try:
        with _quiet(), torch.inference_mode(False), torch.enable_grad():
            loaded, report = type(network).from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # transformers raises whatever its readers do
        raise CheckpointError(
            f"the weights in {folder} cannot be loaded: {said_by(error)}",
            fix=f"copy the folder again; for random weights give {PREFIX}{folder / 'config.json'}",
            code="encoder-weights",
        ) from error
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(NEW_NORMS)):
        raise CheckpointError(
            f"the weights in {folder} lack {len(missing)} of the {network.config.model_type}'s tensors: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            fix="give the folder of a whole model, with the config.json that belongs to it",
            code="encoder-weights",
        )
    module: nn.Module = network
    state = fitted_bands(loaded.state_dict(), module.state_dict(), bands, backbone.in_channels)
    module.load_state_dict(state, assign=True)


def _path(encoder: str) -> Path:
    name = encoder.removeprefix(PREFIX)
    if name == encoder or not name:
        raise ConfigError(
            f"unknown encoder {show(encoder)}",
            fix=f"write {PREFIX} and then a model of the Hugging Face hub, a folder with one, or a config.json: "
            f"{PREFIX}facebook/dinov2-base",
            code="encoder-name",
        )
    return Path(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and tables; what matters in them is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
