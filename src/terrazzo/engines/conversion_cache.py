"""The cache of converted models: ONNX files for engines that do not run PyTorch networks, each made once.

An engine runs a conversion only after its outputs have been compared once with those of the PyTorch network
(`engines/parity.py`); a file beside the conversion records that. A kept conversion of one of our own folders is found
without importing torch, so that the second start needs no torch at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import temporary_folder
from terrazzo.config import MOST_JSON_BYTES, parse_json
from terrazzo.engines.cache import cached, keep
from terrazzo.engines.engine import ENGINES, Engine, EngineOptions, EngineRecord, release_memory
from terrazzo.engines.layer_times import LayerTime, layer_times
from terrazzo.engines.modes import keeps_mode
from terrazzo.errors import ConfigError, OutputError
from terrazzo.graphs import GRAPHS_VERSION, Target
from terrazzo.regular_files import open_regular, read_regular
from terrazzo.weights.catalog import bundled_folder

if TYPE_CHECKING:
    from torch import nn

    from terrazzo.weights.files import TrainedModel

Model: TypeAlias = "str | Path | TrainedModel"

__all__ = ["WRONG", "FallingBack", "convert_once", "is_checked", "kept_conversions", "package_version"]

WRONG = "conversion-parity"
"""The code of the error for a conversion that does not compute what its model does."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # as in weights/files.py, which imports torch
WRITERS = ("torch", "onnx", "onnxscript", "transformers")  # the last two are for traced networks


def kept_conversions(model: str | Path) -> dict[Target, Path]:
    """Return the kept conversions of a shipped model, a model folder or a run's folder, by what they are for."""
    identity = _folder_identity(model)
    if identity is None:
        return {}
    targets = {engine.graph for engine in ENGINES.values() if engine.runs_conversions}
    found = {target: cached(_key(identity, target), ".onnx") for target in sorted(targets)}
    return {target: path for target, path in found.items() if path is not None}


def is_checked(conversion: Path, engine: EngineRecord) -> bool:
    """Whether an engine, in its installed version, has passed the parity check with a kept conversion."""
    return cached(_check_key(conversion, engine), ".parity") is not None


@keeps_mode
def convert_once(model: Model, trained: TrainedModel, engine: EngineRecord) -> Path:
    """Return a model as an ONNX file that an engine computes rightly: the one that is kept, or a new one.

    Args:
        model: how the model was asked for.
        trained: the model.
        engine: which will run it.

    Raises:
        CheckpointError: the engine's outputs are not the model's (code `WRONG`); a new file is not kept then.
        ConfigError: the model has an operation that ONNX cannot express, or memory ran out.
        MissingExtraError: what writes or runs ONNX files is not installed.
        OutputError: the cache folder cannot be written.
    """
    folder_identity = _folder_identity(model) if isinstance(model, (str, Path)) else None
    key = _key(folder_identity or _state_identity(trained), engine.graph)
    kept = cached(key, ".onnx")
    from terrazzo.graphs.onnx import on_cpu, write_onnx
    from terrazzo.models.layers import has_hooks

    # The key does not include what a hook does, so a network with hooks is compared every time.
    if kept is not None and is_checked(kept, engine) and not has_hooks(trained.network):
        return kept

    trained = on_cpu(trained)
    with temporary_folder() as folder:
        path = kept or folder / "model.onnx"
        if kept is None:
            write_onnx(trained, path, target=engine.graph)
        compared = _compared(trained, path, engine)
        try:
            kept = kept or keep(key, ".onnx", path.read_bytes())
            keep(_check_key(kept, engine), ".parity", compared.encode())
        except OutputError as error:
            raise OutputError(
                f"the converted model cannot be kept: {error.message}",
                fix="name a folder that you may write to in the environment variable TERRAZZO_CACHE, or use --engine "
                "torch",
                code=error.code,
            ) from error
    return kept


def _compared(trained: TrainedModel, path: Path, engine: EngineRecord) -> str:
    """Compare an engine that runs a conversion with the model; return the comparisons as text."""
    from terrazzo.engines.parity import FEW_INPUTS, check_parity

    opened = engine.open_file(path, EngineOptions())
    what = f"the model converted for {engine.name}"
    parity = check_parity(
        trained.network, opened, opened.description, FEW_INPUTS, what=what, fix="use --engine torch", code=WRONG
    )
    return parity.table()


def _key(identity: str, target: Target) -> dict[str, Any]:
    return {
        "model": identity,
        "graphs": GRAPHS_VERSION,
        "target": target,
        **{name: package_version(name) for name in WRITERS},
    }


def _check_key(conversion: Path, engine: EngineRecord) -> dict[str, Any]:
    # The file's name is a hash of its making and a checksum of its content.
    return {"conversion": conversion.name, "engine": engine.name, "version": package_version(engine.package)}


def package_version(package: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _folder_identity(model: str | Path) -> str | None:
    """Return a hash of one of our own model folders, from its two files; None for anything else."""
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
    """Return a hash of a model in memory: its layers, their tensors and the file's description."""
    digest = hashlib.sha256()
    about: list[Any] = [trained.architecture, trained.labels.to_dict(), trained.preprocess.to_dict()]
    about += [dict(trained.record), trained.temperature]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for name, module in trained.network.named_modules():
        kind = type(module)
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {_settings(module)}".encode())
    for name, tensor in sorted(trained.network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.float().numpy().tobytes())
    return digest.hexdigest()


def _settings(module: nn.Module) -> str:
    """Return the arguments of a layer that its tensors do not show, such as heads and strides."""
    from terrazzo.models.encoders.backbone import Backbone

    plain = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str, tuple)) and name != "training" and not name.startswith("_")
    }
    of_transformers = module.configuration() if isinstance(module, Backbone) else {}
    return f"{sorted(plain.items())} {json.dumps(of_transformers, sort_keys=True)}"


class FallingBack:
    """A converted model, and PyTorch for inputs that are too small for its graph.

    Args:
        converted: the engine that runs the converted model.
        minimum_side: smallest height and width that it takes.
        make_plain: opens the engine for smaller inputs; called with the first of them.
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

    def layer_times(self, images_B3HW: NDArray[np.float32]) -> list[LayerTime]:
        """Return the times of the layers of the engine that runs images of this size."""
        small = min(images_B3HW.shape[2:]) < self.minimum_side
        return layer_times(self.make_plain() if small else self.converted, images_B3HW)

    def release_memory(self) -> None:
        """Free what the converted model's engine keeps between runs."""
        release_memory(self.converted)
