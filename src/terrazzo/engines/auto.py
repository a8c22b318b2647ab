"""`auto`: the choice of an engine for a model and a workload.

The rules, over the rows of `terrazzo.engines.engine.ENGINES` that are installed:

1. With a CUDA GPU: PyTorch on it, in float16 if that predicts float32's classes (`engines/gpu.py`; written without a
   GPU, and not yet run on one).
2. For an exported file: the first engine that runs its format (for ``.onnx`` ONNX Runtime, else OpenVINO).
3. For few images: the first engine that is `best_for` them (ONNX Runtime, else OpenVINO), since it starts without
   importing torch. This needs the model's conversion in the cache folder; without it PyTorch runs, and the conversion
   is made for the next start.
4. For many images of one size: the engine that `terrazzo benchmark` found to be the fastest at the nearest size on this
   machine; where that has not been measured, the first engine that is `best_for` one size (OpenVINO).
5. Otherwise PyTorch.

A conversion that does not give PyTorch's outputs is not used, whatever the rules say (`engines/parity.py`).

Seconds of processor time for 200 photos of 360 x 480, resized to 480 x 640 for SegFormer-B0, from starting the program
to the last mask (`benchmarks/directory.py`, one thread of a Xeon at 2.5 GHz without bf16): PyTorch 65, ONNX Runtime 57,
OpenVINO 48. OpenVINO is no faster than PyTorch for sizes that it has not compiled for. At 1024 x 2048 a pass takes
PyTorch 2.8 s, ONNX Runtime 2.4 s and OpenVINO 2.3 s, and in bfloat16 PyTorch 2.3 s and OpenVINO 1.4 s (one thread of an
EPYC with AVX512-BF16, one timed pass each on a busy machine).

On a CPU all engines compute in float32 and give the same masks, except at exact ties. Of many images on a processor
with bfloat16 instructions the first are computed in both (`engines/precision_trial.py`).
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
from terrazzo.engines.measured import fastest_engine
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
"""Megapixels of all images together up to which the engine that starts fastest is the fastest.

Measured as above: one photo takes 3.7 s with PyTorch, 1.6 s with ONNX Runtime and 2.5 s with OpenVINO, if the
conversion is kept (4.3, 5.4 and 5.9 s with a new model); each further one takes 0.31, 0.28 and 0.23 s. A photo has 0.3
megapixels here.
"""

LEAST_TRIED = 32
"""Images from which on bfloat16 is tried on a CPU. Trying it takes as long as about 6 images, and preparing a second
network as long as a few more; each later image takes a little more than half of the time."""

SAMPLED = 10  # images of a directory whose sizes are read

AUTO = "auto"
PYTORCH = ENGINES["torch"]


@dataclass(frozen=True)
class Workload:
    """The images to be predicted, as far as the choice of an engine depends on them.

    Attributes:
        images: how many.
        size: (height, width) of a typical one.
        one_size: whether all have it, as far as is known.
        repeatable: whether an image must get the same mask whichever ones came before it.
    """

    images: int = 1
    size: tuple[int, int] = (512, 512)
    one_size: bool = False
    repeatable: bool = False

    @property
    def tries_bfloat16(self) -> bool:
        """Whether the precision may be chosen by the first images."""
        return self.images >= LEAST_TRIED and not self.repeatable

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Workload:
        """Describe the images at some paths, by the sizes of a sample of them."""
        paths = list(paths)
        sizes = []
        for path in paths[:: math.ceil(len(paths) / SAMPLED) or 1]:
            with suppress(ImageError):
                sizes.append(image_size(path))
        return cls(len(paths), sizes[0], len(set(sizes)) == 1) if sizes else cls(len(paths))

    def megapixels(self, preprocess: Preprocess) -> float:
        """Return the size of the network's input for a typical image."""
        try:
            height, width = preprocess.target_size(*self.size)
        except ConfigError:
            return math.inf  # too large for any engine; the image is refused later
        return height * width / 1e6

    def is_small(self, preprocess: Preprocess) -> bool:
        """Whether the images are so few that the engine that starts fastest finishes first."""
        return self.images * self.megapixels(preprocess) <= FEW_MEGAPIXELS

    def options(self, threads: int | None = None) -> EngineOptions:
        """Return options for low latency with one image, and for high throughput with several."""
        streams = 1 if self.images == 1 else min(threads or available_cores(), MOST_STREAMS)
        return EngineOptions(threads, streams)


def find_engine(name: str) -> EngineRecord | None:
    """Return the engine of this name; None for ``auto``.

    Raises:
        ConfigError: there is no engine of this name (code "engine-name").
    """
    if name != AUTO and name not in ENGINES:
        raise ConfigError(
            f"there is no engine {name!r}", fix=f"choose one of {', '.join([AUTO, *ENGINES])}", code="engine-name"
        )
    return ENGINES.get(name)


def gpu_at_hand() -> bool:
    """Whether the CUDA driver finds a GPU. Asks the driver directly, since importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def has_runtime() -> bool:
    """Whether an engine that runs converted models without torch is installed."""
    return any(engine.best_for and engine.is_installed for engine in ENGINES.values())


def auto_engine(workload: Workload, preprocess: Preprocess, threads: int | None = None) -> EngineRecord:
    """Return the engine for a model on a CPU; any but PyTorch runs the model converted to ONNX."""
    load: Load
    if workload.is_small(preprocess):
        load = "few images"
    elif workload.one_size:
        load = "one size"
        fastest = fastest_engine(threads or available_cores(), workload.megapixels(preprocess))
        if fastest is not None:
            return ENGINES[fastest]
    else:
        return PYTORCH
    return next((engine for engine in ENGINES.values() if load in engine.best_for and engine.is_installed), PYTORCH)


def engine_for_file(path: Path, chosen: EngineRecord | None) -> EngineRecord:
    """Return the engine for an exported file: the chosen one, or the first that is installed.

    Raises:
        ConfigError: the chosen engine does not run such files (code "engine-file").
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
