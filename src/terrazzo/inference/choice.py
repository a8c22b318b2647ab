"""Which engine runs a model, where nobody has said so: `auto`.

1. Where CUDA finds a GPU: PyTorch on it. (Written without one at hand; never run.)
2. An exported file: ONNX Runtime for ``.onnx``, or OpenVINO where only that is installed; OpenVINO for ``.xml``.
3. Few photos: ONNX Runtime or OpenVINO, which start without importing torch, if the model's conversion is kept from
   before. If not, PyTorch, and the conversion is made and kept for the next time.
4. PyTorch.

In float32 the other engines are not much faster once they run. Seconds of processor time for a photo of 480 x 640,
one thread of a busy Xeon at 2.5 GHz without bf16, by PyTorch (SegFormers rewritten, `engines/fused_segformer.py`),
ONNX Runtime and OpenVINO: SegFormer-B0 0.25, 0.27, 0.21; OpenVINO only for a size that it has compiled for, and 0.3
for others.

Every choice computes in float32, and gives the same masks but for exact ties.
"""

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

__all__ = [
    "FEW_MEGAPIXELS",
    "Workload",
    "early_engine",
    "engine_for_file",
    "find_engine",
    "gpu_at_hand",
    "is_exported",
]

MOST_STREAMS = 4  # each holds a photo's feature maps

FEW_MEGAPIXELS = 10.0
"""How much may be predicted before PyTorch, which is faster for each photo, has made up for its later start.

SegFormer-B0, as above: to the first mask 3.2 s by PyTorch, 1.0 s by ONNX Runtime and 1.7 s by OpenVINO from what is
kept; then 0.6, 0.7 and 0.9 s for a megapixel. Converting took 0.35 s.
"""

EXPORTED: dict[str, tuple[EngineName, ...]] = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    ".pt2": ("torch",),
}
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


def find_engine(engine: str) -> EngineName:
    """Return the engine of a name.

    Raises:
        ConfigError: no engine is called so (code "engine-name").
    """
    for name in ENGINES:
        if name == engine:
            return name
    raise ConfigError(f"there is no engine {engine!r}", fix=f"choose one of {', '.join(ENGINES)}", code="engine-name")


def gpu_at_hand() -> bool:
    """Whether the CUDA driver sees a GPU: asked of the driver itself, for importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def early_engine() -> EngineName | None:
    """Return the engine that runs a conversion of the model without torch, or None if none is installed."""
    return next((name for name in EXPORTED[".onnx"] if find_spec(name) is not None), None)


def is_exported(model: str | Path) -> bool:
    """Whether this names an exported file, and not weights."""
    return Path(model).suffix.lower() in EXPORTED and not Path(model).is_dir()


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
