"""Engines: the table `ENGINES`, the protocol that each one implements, and the options that they share.

An engine is a callable over numpy arrays, so a plain function is one too. Engines may be called from several threads at
once.

A new engine is one file with the functions that its `EngineRecord` names, and one row of `ENGINES`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError
from terrazzo.graphs import Target
from terrazzo.text import show
from terrazzo.weights.exported import ExportedDescription, Format

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = [
    "ENGINES",
    "Engine",
    "EngineOptions",
    "EngineRecord",
    "FileEngine",
    "Precision",
    "Side",
    "at_least",
    "available_cores",
    "device_kind",
    "refuse_other_ports",
    "refuse_size",
    "release_memory",
]

MOST_THREADS = 1024  # computing libraries end the process when they are asked for very many

Precision = Literal["auto", "fp32", "bf16"]
Load = Literal["few images", "one size"]

Side: TypeAlias = tuple[int, int | None]
"""The smallest and the largest length of one dimension; None for no upper limit."""

TOPOLOGY = Path("/sys/devices/system/cpu")


class Engine(Protocol):
    """Runs a network.

    An engine that keeps memory between runs also has a method ``release_memory()``, which frees it. It is called after
    a computation ran out of memory, while no run is in progress.
    """

    def __call__(self, images_B3HW: NDArray[np.float32], /) -> NDArray[Any]:
        """Return (B, K, h, w) float32 logits of normalised images, in any memory layout.

        An exported file whose output is a mask gives (B, H, W) class indices instead.
        """
        ...


class FileEngine(Engine, Protocol):
    """Runs an exported file."""

    description: ExportedDescription
    """What the file says about itself."""


def release_memory(engine: Engine) -> None:
    """Free the memory that an engine keeps between runs, if it keeps any."""
    release = getattr(engine, "release_memory", None)
    if release is not None:
        release()


@dataclass(frozen=True)
class EngineOptions:
    """How an engine uses the processor.

    Attributes:
        threads: computing threads in total; None for `available_cores`.
        streams: photos that are computed at once, each with its share of the threads. One stream gives the lowest
            latency, several the highest throughput, since a thread that works alone waits for no other.
        precision: ``fp32``; ``bf16``, on processors with bfloat16 instructions; or ``auto``: fp32 on a CPU, and on a
            GPU float16 if it predicts the classes that fp32 predicts.
    """

    threads: int | None = None
    streams: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for what, number in (("threads", self.threads), ("streams", self.streams)):
            if number is not None and not 1 <= number <= MOST_THREADS:
                raise ConfigError(f"{what} is {number}", fix=f"give 1 to {MOST_THREADS}", code="engine-threads")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"there is no precision {self.precision!r}",
                fix=f"choose one of {', '.join(get_args(Precision))}",
                code="engine-precision",
            )

    @property
    def all_threads(self) -> int:
        """Computing threads of all streams together."""
        return max(self.threads or available_cores(), self.streams)

    @property
    def threads_per_stream(self) -> int:
        """Computing threads of one stream."""
        return self.all_threads // self.streams


@dataclass(frozen=True)
class EngineRecord:
    """A row of the table of engines: what is known of an engine without importing it.

    Attributes:
        name: as ``--engine`` takes it.
        package: the package that it needs.
        formats: formats of the exported files that it runs.
        file_module: the module whose ``open_file(path, options, device, trust)`` opens such a file.
        model_module: the module whose ``open_model(model, options, device, compiled)`` opens a `TrainedModel`. None for
            an engine that runs the model converted to ONNX instead.
        devices: kinds of device that it computes on.
        precisions: values of `EngineOptions.precision` that it supports.
        best_for: workloads for which ``auto`` prefers it to PyTorch: ``few images`` (it starts fast) or ``one size``
            (it compiles the network for one size).
        extra: the extra of terrazzo that installs its package.
        imports_torch: whether opening anything with it imports torch.
        graph: which graph of a model it runs fastest, if it runs conversions.
    """

    name: str
    package: str
    formats: tuple[Format, ...] = ()
    file_module: str | None = None
    model_module: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[Precision, ...] = ("auto", "fp32")
    best_for: tuple[Load, ...] = ()
    extra: str | None = None
    imports_torch: bool = False
    graph: Target = "onnx"

    @property
    def runs_conversions(self) -> bool:
        """Whether it runs a model converted to ONNX, rather than the PyTorch network."""
        return self.model_module is None

    @property
    def is_installed(self) -> bool:
        """Whether its package is installed; nothing is imported."""
        return find_spec(self.package) is not None

    def require(self, precision: Precision = "fp32", device: str | None = None) -> None:
        """Check that it is installed and supports a precision and a device, before anything is opened or converted.

        Raises:
            MissingExtraError: its package is not installed.
            ConfigError: it does not have the precision (code "engine-precision") or the device ("engine-device").
        """
        if self.extra is not None and not self.is_installed:
            raise MissingExtraError(self.package, self.extra)
        if precision not in self.precisions:
            raise ConfigError(
                f"the engine {self.name} does not support {precision}",
                fix=f"use --engine {_others(lambda engine: precision in engine.precisions)}, or leave --precision out",
                code="engine-precision",
            )
        if device is not None and (kind := device_kind(device)) not in self.devices:
            others = _others(lambda engine: kind in engine.devices)
            raise ConfigError(
                f"{self.name} runs on {' and '.join(self.devices)} here, and not on {show(device)}",
                fix=f"use --engine {others}, or leave --device out" if others else "leave --device out",
                code="engine-device",
            )

    def open_file(
        self, path: Path, options: EngineOptions, device: str | None = None, trust: bool = False
    ) -> FileEngine:
        """Open an exported file of one of its formats."""
        assert self.file_module is not None, f"{self.name} runs no files"
        opened: FileEngine = import_module(self.file_module).open_file(path, options, device, trust)
        return opened

    def open_model(
        self, model: TrainedModel, options: EngineOptions, device: str | None = None, compiled: bool = False
    ) -> Engine:
        """Open a model's own network."""
        assert self.model_module is not None, f"{self.name} runs conversions"
        opened: Engine = import_module(self.model_module).open_model(model, options, device, compiled)
        return opened


ENGINES: Mapping[str, EngineRecord] = MappingProxyType(
    {
        record.name: record
        for record in (
            EngineRecord(
                name="torch",
                package="torch",
                formats=("torch",),
                file_module="terrazzo.engines.torch_export",
                model_module="terrazzo.engines.torch",
                devices=("cpu", "cuda", "mps", "xpu"),
                precisions=("auto", "fp32", "bf16"),
                imports_torch=True,
            ),
            EngineRecord(
                name="onnxruntime",
                package="onnxruntime",
                formats=("onnx",),
                file_module="terrazzo.engines.onnxruntime",
                devices=("cpu", "cuda"),
                best_for=("few images",),
                extra="export",
                graph="onnxruntime",
            ),
            EngineRecord(
                name="openvino",
                package="openvino",
                formats=("openvino", "onnx"),
                file_module="terrazzo.engines.openvino",
                precisions=("auto", "fp32", "bf16"),
                best_for=("few images", "one size"),
                extra="export",
                graph="openvino",
            ),
        )
    }
)
"""All engines. Where several fit, the first one is taken."""


def device_kind(device: str) -> str:
    """Return the kind of a device: ``cuda`` of ``cuda:1``, and of ``1``."""
    return "cuda" if device.isdecimal() else device.partition(":")[0]


def _others(can: Callable[[EngineRecord], bool]) -> str:
    return " or ".join(engine.name for engine in ENGINES.values() if can(engine))


def available_cores() -> int:
    """Return the number of cores that this process may use.

    ``OMP_NUM_THREADS`` takes precedence where it is set, as in PyTorch. Two hardware threads of one core count once:
    one thread of matrix products keeps a core busy.
    """
    if (wished := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and len(wished) <= 4 and int(wished) > 0:
        return int(wished)
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    mine = os.sched_getaffinity(0)
    try:
        siblings = {(TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in mine}
    except OSError:
        return len(mine)
    return len(siblings)


def at_least(sides: Sequence[Side], description: ExportedDescription) -> list[Side]:
    """Return the limits of each dimension that a file declares, with its description's least height and width."""
    smallest = (1, 1, description.minimum_side, description.minimum_side)
    return [(max(least, small), most) for (least, most), small in zip(sides, smallest, strict=True)]


def refuse_size(shape: Sequence[int], sides: Sequence[Side], where: str | Path) -> None:
    """Raise ConfigError "export-size" for an input of a size that a file does not take.

    Args:
        shape: of the input, (B, C, H, W).
        sides: the limits of each dimension, as `at_least` gives them.
        where: the file.
    """
    for name, length, (least, most) in zip(("batch", "channels", "height", "width"), shape, sides, strict=True):
        if length < least or (most is not None and length > most):
            taken = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            if name == "channels":
                message = f"{where} takes {taken} channel{'' if taken == '1' else 's'}, and this image has {length}"
                fix = "give images of the bands that the model was trained on"
            else:
                message = f"{where} takes a {name} of {taken}, and this one is {length}"
                fix = "export the model with a free size, or give images of a size that it takes"
            raise ConfigError(message, fix=fix, code="export-size")


def refuse_other_ports(names: tuple[str, str], output: str, rank: int, where: str | Path) -> None:
    """Raise CheckpointError "export-foreign" unless a file's input and output are those that its description promises.

    Args:
        names: of the file's input and output.
        output: name of the output in its description.
        rank: number of dimensions of its input.
        where: the file.
    """
    if names != ("images", output) or rank != 4:
        raise CheckpointError(
            f"{where} takes {names[0]!r} with {rank} dimensions and gives {names[1]!r}, "
            f"and an exported model takes 'images' with 4 and gives {output!r}",
            fix="export the model again with `terrazzo export`",
            code="export-foreign",
        )
