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
from typing import TYPE_CHECKING, Any, TypeAlias

from terrazzo import __version__
from terrazzo.engines.cache import cache_folder, cached, keep
from terrazzo.errors import OutputError
from terrazzo.weights.catalog import bundled_folder

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

Model: TypeAlias = "str | Path | TrainedModel"

__all__ = ["convert_once", "kept_conversion"]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # as weights/files.py, which imports torch, has them
WRITERS = ("torch", "onnx", "onnxscript")


def kept_conversion(model: str | Path) -> Path | None:
    """Return the kept conversion of a shipped model, a model folder or a run's folder; None where there is none."""
    identity = _folder_identity(model)
    return None if identity is None else cached(_key(identity), ".onnx")


def convert_once(model: Model, trained: TrainedModel, tell: Callable[[str], None]) -> Path:
    """Return a model as an ONNX file: the one that is kept, or a new one.

    Args:
        model: how the model was asked for.
        trained: the model.
        tell: called before the work begins, which takes about half a minute, with a line that says so.

    Raises:
        ConfigError: the model has an operation that ONNX cannot express.
        MissingExtraError: what writes ONNX files is not installed.
        OutputError: the cache folder cannot be written.
    """
    folder_identity = _folder_identity(model) if isinstance(model, (str, Path)) else None
    key = _key(folder_identity or _state_identity(trained))
    if (path := cached(key, ".onnx")) is not None:
        return path
    from terrazzo.exports.onnx import write_onnx

    tell(f"{trained.name or trained.architecture}: converting it to ONNX, once; it is kept in {cache_folder()}")
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
    return {"model": identity, "terrazzo": __version__, **{name: _version(name) for name in WRITERS}}


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
            config, weights = (folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes()
        except OSError:
            continue
        digest = hashlib.sha256(weights).hexdigest()
        try:
            ours = json.loads(config)["sha256"] == digest
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return hashlib.sha256(config).hexdigest() if ours else None  # whose own hash covers that of the weights
    return None


def _state_identity(trained: TrainedModel) -> str:
    """The hash of a model in memory: its tensors, and what will stand beside them in the file."""
    digest = hashlib.sha256()
    about = [trained.architecture, trained.labels.to_dict(), trained.preprocess.to_dict(), dict(trained.record)]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(trained.network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.float().numpy().tobytes())
    return digest.hexdigest()
