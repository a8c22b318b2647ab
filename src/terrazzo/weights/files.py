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
from terrazzo.models import ModelSpec, Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.text import printable, show
from terrazzo.weights.format1 import spec_in_format1
from terrazzo.weights.metadata import read_json
from terrazzo.weights.recognize import (
    architecture_of,
    empty_network,
    load_network,
    refuse_differences,
    refuse_not_finite,
    refuse_whole_numbers,
    shapes_of,
)
from terrazzo.weights.temperature import read_temperature
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["CONFIG_FILE", "FORMAT_VERSION", "WEIGHTS_FILE", "TrainedModel", "load_folder", "save_folder"]

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class TrainedModel:
    """A network with everything needed to use it.

    Attributes:
        architecture: its name for people, such as ``segformer_b0``; `spec` says what it is.
        network: the model, in evaluation mode.
        labels: its classes.
        preprocess: how a photo becomes its input.
        record: where it comes from: recipe, data, licence, hours, machine, measured mIoU. Plain JSON values.
        name: how it was asked for.
        temperature: that logits are divided by for probabilities, as `terrazzo.calibrate` fits it; 1 leaves them. Masks
            do not depend on it.
    """

    architecture: str
    network: Segmenter
    labels: LabelSpec
    preprocess: Preprocess
    record: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    temperature: float = 1.0

    @property
    def spec(self) -> ModelSpec:
        """What the network is.

        Raises:
            ConfigError: it was put together by hand.
        """
        if self.network.spec is None:
            raise ConfigError(
                f"the network of {printable(self.name) or self.architecture} was put together by hand, and nothing "
                "says how to build it again",
                fix="describe it by a ModelSpec and build it with terrazzo.create_model",
                code="model-spec",
            )
        return self.network.spec

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
        ConfigError: the network was put together by hand, so that it could not be loaded again.
        OutputError: the place cannot be written.
    """
    spec = model.spec
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.network.state_dict().items()
    }
    weights = serialize_safetensors(state, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        "model": spec.to_dict(),
        "labels": model.labels.to_dict(),
        "preprocess": model.preprocess.to_dict(),
        **({} if model.temperature == 1 else {"temperature": model.temperature}),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "record": dict(model.record),
    }
    with replacing_folder(folder, keep_others=keep_others) as partial:
        write_atomic(partial / WEIGHTS_FILE, weights)
        write_atomic(partial / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def load_folder(folder: Path, name: str = "") -> TrainedModel:
    """Read a model folder.

    Args:
        folder: where it is.
        name: how it was asked for; by default the folder's name.

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
    temperature = read_temperature(config, str(folder / CONFIG_FILE))
    try:
        preprocess = Preprocess.from_dict(config["preprocess"])
    except ConfigError as error:
        where = str(folder / CONFIG_FILE)
        raise CheckpointError(f"{where}: {error.message}", fix=error.fix, code="checkpoint-preprocess") from error
    try:
        if config["format_version"] == 1:
            spec = spec_in_format1(config, labels.num_classes, file.tensors)
        else:
            spec = ModelSpec.from_dict(config["model"])
        network = empty_network(spec)
    except ConfigError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} cannot be built: {error.message}", fix=error.fix, code=error.code
        ) from error
    if spec.num_classes != labels.num_classes:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} names {labels.num_classes} classes, "
            f"and its network tells {spec.num_classes} apart",
            fix="copy the whole folder again from its origin",
            code="checkpoint-labels",
        )
    described = f"a {spec.title}"
    if encoder := spec.encoder.fields.get("config"):
        described += f" whose encoder was written by transformers {encoder.get('transformers_version')}"
    expected = shapes_of(network.state_dict())
    if shapes_of(file.tensors) != expected:
        if (really := architecture_of(file.tensors)) not in (None, spec.title):
            raise CheckpointError(
                f"{where} is a {really}, and {CONFIG_FILE} says {spec.title}",
                fix="copy the whole folder again from its origin",
                code="checkpoint-architecture",
            )
        refuse_differences(file.tensors, expected, where, described)
    refuse_not_finite(file.tensors, where)
    refuse_whole_numbers(file.tensors, network, where)
    return TrainedModel(
        architecture=architecture,
        network=load_network(network, file.tensors),
        labels=labels,
        preprocess=preprocess,
        record=config["record"],
        name=name or folder.name,
        temperature=temperature,
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    version = config.get("format_version")
    needed = {"format_version", "architecture", "labels", "preprocess", "sha256", "record"}
    needed |= {"model"} if version == FORMAT_VERSION else set()
    kinds = {"architecture": str, "labels": dict, "preprocess": dict, "record": dict}
    if "encoder_of" in config:
        raise CheckpointError(
            f"{path.parent} is an encoder alone, which cannot segment anything",
            fix=f"train a model that starts from it: terrazzo train --weights {path.parent}",
            code="checkpoint-encoder",
        )
    if needed - config.keys() or not all(isinstance(config[key], kind) for key, kind in kinds.items()):
        raise CheckpointError(
            f"{path} is not the configuration of a Terrazzo model", fix="give a folder written by terrazzo"
        )
    if version not in READ_VERSIONS:
        raise CheckpointError(
            f"{path} has format version {show(version)}, and this program reads "
            f"{' and '.join(map(str, READ_VERSIONS))}",
            fix="update terrazzo",
            code="checkpoint-version",
        )
    return config
