"""Models on disk: a folder with ``model.safetensors`` and ``config.json``, saved whole and loaded strictly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_safetensors

from terrazzo.errors import CheckpointError
from terrazzo.files import PARTIAL_PREFIX, make_folder, write_atomic
from terrazzo.labels import LabelSpec
from terrazzo.models import Segmenter, create_model
from terrazzo.preprocess import Preprocess

__all__ = ["FORMAT_VERSION", "TrainedModel", "load_folder", "save_folder"]

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


def save_folder(folder: Path, model: TrainedModel, dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder; a folder already there is replaced only once the new one is complete.

    Args:
        folder: where to; its parents are created.
        model: what to write.
        dtype: storage type of the floating-point tensors.

    Raises:
        OutputError: the place cannot be written.
    """
    make_folder(folder.parent)
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.network.state_dict().items()
    }
    weights = serialize_safetensors(state, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        "labels": model.labels.to_dict(),
        "preprocess": model.preprocess.to_dict(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "record": dict(model.record),
    }
    partial = folder.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}")
    old = folder.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}")
    try:
        make_folder(partial)
        write_atomic(partial / WEIGHTS_FILE, weights)
        write_atomic(partial / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
        if folder.exists():
            os.rename(folder, old)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def load_folder(folder: Path, name: str = "") -> TrainedModel:
    """Read a model folder.

    Raises:
        CheckpointError: a file is missing, damaged or from a newer version, or its tensors are not the architecture's.
    """
    config = _read_config(folder / CONFIG_FILE)
    try:
        data = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} cannot be read: {error.strerror}", fix="copy the whole folder again"
        ) from error
    if hashlib.sha256(data).hexdigest() != config["sha256"]:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is not the file that {CONFIG_FILE} was written for: the checksums differ",
            fix="copy the whole folder again from its origin",
            code="checkpoint-checksum",
        )
    try:
        state = parse_safetensors(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is not a valid safetensors file: {error}",
            fix="copy it again",
            code="checkpoint-damaged",
        ) from error
    labels = LabelSpec.from_dict(config["labels"])
    network = create_model(config["architecture"], labels.num_classes, image_size=_positions_size(state))
    network.drop_auxiliary()
    load_strictly(network, state, str(folder / WEIGHTS_FILE))
    return TrainedModel(
        architecture=config["architecture"],
        network=network.eval(),
        labels=labels,
        preprocess=Preprocess.from_dict(config["preprocess"]),
        record=config["record"],
        name=name or folder.name,
    )


def _positions_size(state: Mapping[str, torch.Tensor]) -> tuple[int, int] | None:
    """Return the image size that position embeddings were trained for, if there are any."""
    positions = state.get("encoder.pos_embed")
    if positions is None or positions.ndim != 4:
        return None
    height, width = positions.shape[1:3]
    return 16 * height, 16 * width


def load_strictly(network: Segmenter, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy tensors into a network, refusing any that are missing, unexpected, misshapen or not finite.

    Raises:
        CheckpointError: naming the first tensors of each kind.
    """
    expected = network.state_dict()
    problems = []
    if missing := [key for key in expected if key not in state]:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected := [key for key in state if key not in expected]:
        problems.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} misshapen ({_first(misshapen)})")
    if problems:
        raise CheckpointError(
            f"the tensors of {where} do not fit the model: {'; '.join(problems)}",
            fix="load the weights into the model they were made for",
            code="checkpoint-keys",
        )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{where} holds NaN or infinity in {key}",
                fix="use an earlier checkpoint: this training run had diverged",
                code="checkpoint-not-finite",
            )
    network.load_state_dict(dict(state))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}",
            fix="give a model folder that holds config.json and model.safetensors",
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", fix="copy the folder again") from error
    needed = {"format_version", "architecture", "labels", "preprocess", "sha256", "record"}
    if not isinstance(config, dict) or needed - config.keys():
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


def _first(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
