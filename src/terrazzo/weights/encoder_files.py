"""Encoders on disk without a decoder: a folder as a model's, which training starts from and which segments nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialize_safetensors
from torch import Tensor, nn

from terrazzo.atomic import replacing_folder, write_atomic
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models import ModelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE
from terrazzo.weights.metadata import read_json
from terrazzo.weights.recognize import empty_network, refuse_differences, refuse_not_finite, shapes_of
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["PretrainedEncoder", "find_encoder", "load_encoder", "save_encoder"]

PREFIX = "encoder."


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder's tensors and what belongs to them.

    Attributes:
        spec: a network that has this encoder.
        tensors: under the names that they have in such a network.
        preprocess: how photos became its input.
        record: where it comes from.
        sha256: of its weights.
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    preprocess: Preprocess
    record: Mapping[str, Any]
    sha256: str


def save_encoder(
    folder: Path, encoder: nn.Module, spec: ModelSpec, preprocess: Preprocess, record: Mapping[str, Any]
) -> None:
    """Write an encoder's folder; one already there is replaced only once the new one is complete.

    Raises:
        OutputError: the place cannot be written.
    """
    state = {f"{PREFIX}{key}": value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    weights = serialize_safetensors(state, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "encoder_of": replace(spec, name=None).to_dict(),
        "preprocess": preprocess.to_dict(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "record": dict(record),
    }
    with replacing_folder(folder, keep_others=True) as partial:
        write_atomic(partial / WEIGHTS_FILE, weights)
        write_atomic(partial / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def find_encoder(path: Path) -> Path | None:
    """Return the folder of an encoder alone that a path leads to, itself or the run that holds it; else None."""
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder if "encoder_of" in read_json(folder / CONFIG_FILE) else None
    return None


def load_encoder(folder: Path) -> PretrainedEncoder:
    """Read what `save_encoder` wrote.

    Raises:
        CheckpointError: a file is missing, damaged or from a newer version, or its tensors are not the encoder's.
    """
    config, where = read_json(folder / CONFIG_FILE), str(folder / WEIGHTS_FILE)
    kinds = {"encoder_of": dict, "preprocess": dict, "record": dict, "sha256": str, "format_version": int}
    if wrong := [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not the configuration of an encoder: {wrong[0]} is missing or of another type",
            fix="give a folder written by `terrazzo pretrain`",
        )
    if config["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} has format version {config['format_version']}, and this program reads "
            f"{FORMAT_VERSION}",
            fix="update terrazzo",
            code="checkpoint-version",
        )
    file = read_tensor_file(folder / WEIGHTS_FILE)
    if file.sha256 != config["sha256"]:
        raise CheckpointError(
            f"{where} is not the file that {CONFIG_FILE} was written for: the checksums differ",
            fix="copy the whole folder again from its origin",
            code="checkpoint-checksum",
        )
    try:
        preprocess, spec = Preprocess.from_dict(config["preprocess"]), ModelSpec.from_dict(config["encoder_of"])
        expected = shapes_of(empty_network(spec).state_dict())
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error.message}", fix=error.fix, code=error.code) from error
    expected = {key: shape for key, shape in expected.items() if key.startswith(PREFIX)}
    if shapes_of(file.tensors) != expected:
        refuse_differences(file.tensors, expected, where, f"the encoder of a {spec.title}")
    refuse_not_finite(file.tensors, where)
    return PretrainedEncoder(spec, file.tensors, preprocess, config["record"], config["sha256"])
