"""Which engine runs a model, where nobody has said so: `auto`.

The rules, over the rows of `terrazzo.engines.engine.ENGINES` that are installed:

1. Where CUDA finds a GPU: PyTorch on it, in float16 where that finds float32's classes (`engines/gpu.py`). (Written
   without one at hand; never run.)
2. An exported file: the first that runs its format (ONNX Runtime for ``.onnx``, else OpenVINO).
3. Few photos: the first that is `best_for` few images (ONNX Runtime, else OpenVINO), which start without importing
   torch, if the model's conversion is kept from before. If not, PyTorch, and the conversion is made and kept for the
   next time.
4. Many photos of one size, up to 1.2 megapixels: the first that is `best_for` one size (OpenVINO).
5. PyTorch.

Seconds of processor time for 200 photos of 360 x 480, shown to SegFormer-B0 as 480 x 640, from starting the program to
the last mask (`benchmarks/directory.py`, one thread of a Xeon at 2.5 GHz without bf16): PyTorch 65, ONNX Runtime 57,
OpenVINO 48. OpenVINO is no faster than PyTorch for sizes that it has not compiled for, nor for large ones: 4.4 s and
2.9 s at 1024 x 2048 (`benchmarks/results/engines_1024x2048.md`).

On a CPU every choice computes in float32, and gives the same masks but for exact ties.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from terrazzo.engines.engine import ENGINES, EngineOptions, EngineRecord, Load, available_cores
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.read import image_size
from terrazzo.preprocess import Preprocess
from terrazzo.text import shown_path
from terrazzo.weights.exported import exported_format

__all__ = [
    "Workload",
    "auto_engine",
    "engine_for_file",
    "find_engine",
    "gpu_at_hand",
    "has_runtime",
]

MOST_STREAMS = 4  # each holds a photo's feature maps

FEW_MEGAPIXELS = 10.0
"""How much the engine that starts first is best for.

As above: one photo takes 3.7 s by PyTorch, 1.6 s by ONNX Runtime and 2.5 s by OpenVINO from what is kept (4.3, 5.4 and
5.9 s with a model never seen); each further one 0.31, 0.28 and 0.23 s. A photo is 0.3 megapixels here.
"""

LARGE_MEGAPIXELS = 1.2
"""Of one photo: OpenVINO is as fast as PyTorch or faster up to 1024 x 1024, and slower at 1024 x 2048."""

SAMPLED = 10  # photos of a directory whose sizes are looked up

AUTO = "auto"
PYTORCH = ENGINES["torch"]


@dataclass(frozen=True)
class Workload:
    """What is to be predicted, as far as a choice of engine hangs on it.

    Attributes:
        images: how many.
        size: (height, width) of a typical one.
        one_size: whether all have it, as far as is known.
    """

    images: int = 1
    size: tuple[int, int] = (512, 512)
    one_size: bool = False

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Workload:
        """As many photos as there are paths, of the size of the first of some that can be read."""
        paths = list(paths)
        sizes = []
        for path in paths[:: math.ceil(len(paths) / SAMPLED) or 1]:
            with suppress(ImageError):
                sizes.append(image_size(path))
        return cls(len(paths), sizes[0], len(set(sizes)) == 1) if sizes else cls(len(paths))

    def megapixels(self, preprocess: Preprocess) -> float:
        """Of a typical photo, as the network sees it."""
        try:
            height, width = preprocess.target_size(*self.size)
        except ConfigError:
            return math.inf  # too large for any engine: refused in the photo's own turn
        return height * width / 1e6

    def is_small(self, preprocess: Preprocess) -> bool:
        """Whether it is done before an engine that starts later could make up for that."""
        return self.images * self.megapixels(preprocess) <= FEW_MEGAPIXELS

    def options(self, threads: int | None = None) -> EngineOptions:
        """One photo as soon as it can be, or many in the least time."""
        streams = 1 if self.images == 1 else min(threads or available_cores(), MOST_STREAMS)
        return EngineOptions(threads, streams)


def find_engine(name: str) -> EngineRecord | None:
    """Return the engine of a name; None for ``auto``.

    Raises:
        ConfigError: no engine is called so (code "engine-name").
    """
    if name != AUTO and name not in ENGINES:
        raise ConfigError(
            f"there is no engine {name!r}", fix=f"choose one of {', '.join([AUTO, *ENGINES])}", code="engine-name"
        )
    return ENGINES.get(name)


def gpu_at_hand() -> bool:
    """Whether the CUDA driver sees a GPU: asked of the driver itself, for importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def has_runtime() -> bool:
    """Whether an engine is installed that runs a conversion of a model without torch."""
    return any(engine.best_for and engine.is_installed for engine in ENGINES.values())


def auto_engine(workload: Workload, preprocess: Preprocess) -> EngineRecord:
    """Return the engine for weights on a CPU. One that is not PyTorch runs a conversion of them."""
    load: Load
    if workload.is_small(preprocess):
        load = "few images"
    elif workload.one_size and workload.megapixels(preprocess) <= LARGE_MEGAPIXELS:
        load = "one size"
    else:
        return PYTORCH
    return next((engine for engine in ENGINES.values() if load in engine.best_for and engine.is_installed), PYTORCH)


def engine_for_file(path: Path, chosen: EngineRecord | None) -> EngineRecord:
    """Return the engine that runs an exported file: the one that was chosen, or the first that is installed.

    Raises:
        ConfigError: the chosen one does not run such files (code "engine-file").
    """
    able = [engine for engine in ENGINES.values() if exported_format(path) in engine.formats]
    if chosen is None:
        return next((engine for engine in able if engine.is_installed), able[0])
    if chosen not in able:
        raise ConfigError(
            f"{shown_path(path)} is a file for {' and '.join(engine.name for engine in able)}, and not for "
            f"{chosen.name}",
            fix=f"use --engine {able[0].name}, or give the model that it was exported from",
            code="engine-file",
        )
    return chosen
