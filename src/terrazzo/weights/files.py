"""Models on disk: a folder with ``model.safetensors`` and ``config.json``, saved whole and loaded strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize_safetensors

from terrazzo.atomic import replacing_folder, write_atomic
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import Segmenter
from terrazzo.models.encoders.backbones import Backbone
from terrazzo.preprocess import Preprocess
from terrazzo.text import printable
from terrazzo.weights.metadata import read_json
from terrazzo.weights.recognize import (
    architecture_of,
    empty_network,
    grid_in_ours,
    load_network,
    meta_network,
    refuse_differences,
    refuse_not_finite,
    shapes_of,
)
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["CONFIG_FILE", "FORMAT_VERSION", "WEIGHTS_FILE", "TrainedModel", "load_folder", "save_folder"]

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class TrainedModel:
    """A network with everything needed to use it.

    Attributes:
        architecture: the name that `create_model` built it by, such as ``segformer_b0``.
        network: the model, in evaluation mode.
        labels: its classes.
        preprocess: how a photo becomes its input.
        record: where it comes from: recipe, data, licence, hours, machine, measured mIoU. Plain JSON values.
        name: how it was asked for.
    """

    architecture: str
    network: Segmenter
    labels: LabelSpec
    preprocess: Preprocess
    record: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __repr__(self) -> str:
        # The network's own has a line for every layer; `print(model.network)` shows it.
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        named = f" {printable(self.name)}" if self.name else ""
        about = f"{self.architecture}, {millions:.1f} M parameters, {self.labels.num_classes} classes"
        return f"<TrainedModel{named}: {about}>"


def save_folder(
    folder: Path, model: TrainedModel, dtype: torch.dtype = torch.float32, *, keep_others: bool = False
) -> None:
    """Write a model folder; a folder already there is replaced only once the new one is complete.

    Args:
        folder: where to; its parents are created.
        model: what to write.
        dtype: storage type of the floating-point tensors.
        keep_others: leave other files in it, such as an export that somebody has put there.

    Raises:
        OutputError: the place cannot be written.
    """
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.network.state_dict().items()
    }
    weights = serialize_safetensors(state, metadata={"format": "pt"})
    encoder = model.network.encoder
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        **({"encoder": encoder.configuration()} if isinstance(encoder, Backbone) else {}),
        "labels": model.labels.to_dict(),
        "preprocess": model.preprocess.to_dict(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "record": dict(model.record),
    }
    with replacing_folder(folder, keep_others=keep_others) as partial:
        write_atomic(partial / WEIGHTS_FILE, weights)
        write_atomic(partial / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def load_folder(folder: Path, name: str = "") -> TrainedModel:
    """Read a model folder.

    Raises:
        CheckpointError: a file is missing, damaged or from a newer version, or its tensors are not the architecture's.
    """
    config = _read_config(folder / CONFIG_FILE)
    where, architecture = str(folder / WEIGHTS_FILE), config["architecture"]
    file = read_tensor_file(folder / WEIGHTS_FILE)
    if file.sha256 != config["sha256"]:
        raise CheckpointError(
            f"{where} is not the file that {CONFIG_FILE} was written for: the checksums differ",
            fix="copy the whole folder again from its origin",
            code="checkpoint-checksum",
        )
    labels = LabelSpec.from_dict(config["labels"])
    try:
        preprocess = Preprocess.from_dict(config["preprocess"])
    except ConfigError as error:
        where = str(folder / CONFIG_FILE)
        raise CheckpointError(f"{where}: {error.message}", fix=error.fix, code="checkpoint-preprocess") from error
    encoder, described = config.get("encoder"), f"a {architecture}"
    if encoder is None:
        network = meta_network(architecture, labels.num_classes, grid_in_ours(file.tensors))
    else:
        described += f" whose encoder was written by transformers {encoder.get('transformers_version')}"
        try:
            network = empty_network(architecture, labels.num_classes, encoder)
        except ConfigError as error:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} cannot be built: {error.message}", fix=error.fix, code=error.code
            ) from error
    if not any(key.startswith("auxiliary.") for key in file.tensors):
        network.drop_auxiliary()
    expected = shapes_of(network.state_dict())
    if shapes_of(file.tensors) != expected:
        if (really := architecture_of(file.tensors)) not in (None, architecture):
            raise CheckpointError(
                f"{where} is a {really}, and {CONFIG_FILE} says {architecture}",
                fix="copy the whole folder again from its origin",
                code="checkpoint-architecture",
            )
        refuse_differences(file.tensors, expected, where, described)
    refuse_not_finite(file.tensors, where)
    return TrainedModel(
        architecture=architecture,
        network=load_network(network, file.tensors),
        labels=labels,
        preprocess=preprocess,
        record=config["record"],
        name=name or folder.name,
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    needed = {"format_version", "architecture", "labels", "preprocess", "sha256", "record"}
    kinds = {"architecture": str, "labels": dict, "preprocess": dict, "record": dict}
    fits = not needed - config.keys() and all(isinstance(config[key], kind) for key, kind in kinds.items())
    if not fits or not isinstance(config.get("encoder", {}), dict):
        raise CheckpointError(
            f"{path} is not the configuration of a Terrazzo model", fix="give a folder written by terrazzo"
        )
    if config["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {config['format_version']}, and this program reads {FORMAT_VERSION}",
            fix="update terrazzo",
            code="checkpoint-version",
        )
    return config
