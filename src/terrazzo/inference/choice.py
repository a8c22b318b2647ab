"""Which engine runs a model, where nobody has said so."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from terrazzo.engines.engine import ENGINES, EngineName, EngineOptions, available_cores
from terrazzo.errors import ConfigError, ImageError
from terrazzo.images import image_size
from terrazzo.preprocess import Preprocess

__all__ = ["Workload", "check_engine", "gpu_at_hand", "worth_converting"]

MOST_STREAMS = 4  # each holds a photo's feature maps

EXPORTED = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".pt2": ("torch",)}
"""Suffixes of exported files, and which engines run them, the first one unless another is asked for."""


@dataclass(frozen=True)
class Workload:
    """What is to be predicted, as far as a choice of engine hangs on it.

    Attributes:
        photos: how many.
        size: (height, width) of a typical one.
    """

    photos: int = 1
    size: tuple[int, int] = (512, 512)

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Workload:
        """As many photos as there are paths, of the size of the first that can be read."""
        paths = list(paths)
        for path in paths[:10]:
            try:
                return cls(len(paths), image_size(path))
            except ImageError:
                continue
        return cls(len(paths))

    def megapixels(self, preprocess: Preprocess) -> float:
        """Pixels that the network will see, in millions."""
        height, width = preprocess.target_size(*self.size)
        return self.photos * height * width / 1e6

    def options(self, threads: int | None = None) -> EngineOptions:
        """One photo as soon as it can be, or many in the least time."""
        streams = 1 if self.photos == 1 else min(threads or available_cores(), MOST_STREAMS)
        return EngineOptions(threads, streams)


def check_engine(engine: str) -> None:
    """Raise ConfigError "engine-name" if no engine is called so."""
    if engine not in ENGINES:
        raise ConfigError(f"there is no engine {engine!r}", fix=f"choose one of {', '.join(ENGINES)}", code="engine-name")


def engine_for_file(path: Path, engine: EngineName) -> EngineName:
    """Return the engine that runs an exported file.

    Raises:
        ConfigError: it is not the one asked for (code "engine-file").
    """
    able = EXPORTED[path.suffix.lower()]
    if engine == "auto":
        return next((name for name in able if name == "torch" or find_spec(name) is not None), able[0])
    if engine not in able:
        raise ConfigError(
            f"{path} is a file for {' and '.join(able)}, and not for {engine}",
            fix=f"use --engine {able[0]}, or give the model that it was exported from",
            code="engine-file",
        )
    return engine
