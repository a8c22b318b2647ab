"""Models as ONNX files for engines that cannot run PyTorch's, each converted once and kept in the cache folder.

A kept conversion of one of our own folders is found without torch, so that the second start does without it altogether.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.config import MOST_JSON_BYTES, parse_json
from terrazzo.engines.cache import cached, keep
from terrazzo.engines.engine import Engine, release_memory
from terrazzo.errors import ConfigError, OutputError
from terrazzo.graphs import GRAPHS_VERSION
from terrazzo.regular_files import open_regular, read_regular
from terrazzo.weights.catalog import bundled_folder

if TYPE_CHECKING:
    from torch import nn

    from terrazzo.weights.files import TrainedModel

Model: TypeAlias = "str | Path | TrainedModel"

__all__ = ["FallingBack", "convert_once", "kept_conversion"]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # as weights/files.py, which imports torch, has them
WRITERS = ("torch", "onnx", "onnxscript", "transformers")  # the last two for traced networks


def kept_conversion(model: str | Path) -> Path | None:
    """Return the kept conversion of a shipped model, a model folder or a run's folder; None where there is none."""
    identity = _folder_identity(model)
    return None if identity is None else cached(_key(identity), ".onnx")


def convert_once(model: Model, trained: TrainedModel) -> Path:
    """Return a model as an ONNX file: the one that is kept, or a new one.

    Args:
        model: how the model was asked for.
        trained: the model.

    Raises:
        ConfigError: the model has an operation that ONNX cannot express.
        MissingExtraError: what writes ONNX files is not installed.
        OutputError: the cache folder cannot be written.
    """
    folder_identity = _folder_identity(model) if isinstance(model, (str, Path)) else None
    key = _key(folder_identity or _state_identity(trained))
    if (path := cached(key, ".onnx")) is not None:
        return path
    from terrazzo.graphs.onnx import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(trained, path)
        content = path.read_bytes()
    try:
        return keep(key, ".onnx", content)
    except OutputError as error:
        raise OutputError(
            f"the converted model has nowhere to go: {error.message}",
            fix="name a folder that you may write to in the environment variable TERRAZZO_CACHE, or use --engine torch",
            code=error.code,
        ) from error


def _key(identity: str) -> dict[str, Any]:
    return {"model": identity, "graphs": GRAPHS_VERSION, **{name: _version(name) for name in WRITERS}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _folder_identity(model: str | Path) -> str | None:
    """The hash of everything in one of our own folders, from its two files alone."""
    path = bundled_folder(str(model)) or Path(model)
    for folder in (path, path / "model"):
        try:
            config = read_regular(folder / CONFIG_FILE, MOST_JSON_BYTES)
            with open_regular(folder / WEIGHTS_FILE) as weights:
                digest = hashlib.file_digest(weights, "sha256").hexdigest()
        except OSError:
            continue
        try:
            ours = parse_json(config, str(folder / CONFIG_FILE))["sha256"] == digest
        except (ConfigError, KeyError, TypeError):
            return None
        return hashlib.sha256(config).hexdigest() if ours else None  # whose own hash covers that of the weights
    return None


def _state_identity(trained: TrainedModel) -> str:
    """The hash of a model in memory: its layers, their tensors, and what will stand beside them in the file."""
    digest = hashlib.sha256()
    about = [trained.architecture, trained.labels.to_dict(), trained.preprocess.to_dict(), dict(trained.record)]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for name, module in trained.network.named_modules():
        digest.update(f"{name} {type(module).__qualname__} {_settings(module)}".encode())
    for name, tensor in sorted(trained.network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.float().numpy().tobytes())
    return digest.hexdigest()


def _settings(module: nn.Module) -> str:
    """What a layer was built with, as far as its tensors do not show it: heads, strides, a configuration."""
    from terrazzo.models.encoders.backbone import Backbone

    plain = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str, tuple)) and name != "training" and not name.startswith("_")
    }
    of_transformers = module.configuration() if isinstance(module, Backbone) else {}
    return f"{sorted(plain.items())} {json.dumps(of_transformers, sort_keys=True)}"


class FallingBack:
    """A conversion, and PyTorch for the inputs below the least size that a graph of free sizes is written for.

    Args:
        converted: runs the conversion.
        minimum_side: the least height and width that it takes.
        make_plain: makes the engine for smaller inputs, the first time that one comes.
    """

    def __init__(self, converted: Engine, minimum_side: int, make_plain: Callable[[], Engine]) -> None:
        self.converted = converted
        self.minimum_side = minimum_side
        self.make_plain = make_plain
        self._plain: Engine | None = None
        self._making = Lock()

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        if min(images_B3HW.shape[2:]) >= self.minimum_side:
            return self.converted(images_B3HW)
        with self._making:
            self._plain = self._plain or self.make_plain()
        return self._plain(images_B3HW)

    def release_memory(self) -> None:
        """Let go of what the conversion's engine keeps."""
        release_memory(self.converted)
