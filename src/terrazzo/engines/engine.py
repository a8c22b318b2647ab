"""The table of engines, the one protocol that all of them follow, and what can be chosen about how they work.

An engine is a callable over numpy arrays and nothing more, so that a plain function is one too. Engines may be called
from several threads at once.

A new engine is one file with the functions that its `EngineRecord` needs, and one row of `ENGINES`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError
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
"""The least and the most of one dimension; None where there is no most."""

TOPOLOGY = Path("/sys/devices/system/cpu")


class Engine(Protocol):
    """Runs a network.

    One that keeps memory for its next run has a method ``release_memory()`` too, which lets go of it. It is called when
    a computation ran out of memory, while nothing runs.
    """

    def __call__(self, images_B3HW: NDArray[np.float32], /) -> NDArray[Any]:
        """Return (B, K, h, w) float32 logits of normalised images, at any memory order.

        An exported file whose output is a mask gives (B, H, W) class indices instead.
        """
        ...


class FileEngine(Engine, Protocol):
    """Runs an exported file."""

    description: ExportedDescription
    """What the file says about itself."""


def release_memory(engine: Engine) -> None:
    """Let an engine give back what it keeps for its next run, if it keeps anything."""
    release = getattr(engine, "release_memory", None)
    if release is not None:
        release()


@dataclass(frozen=True)
class EngineOptions:
    """How an engine uses the processor.

    Attributes:
        threads: computing threads in all; None leaves it to `available_cores`.
        streams: photos that are computed at once, each with its share of the threads. One photo is ready soonest with
            one stream; a folder of them is done soonest with several, for a thread that works alone waits for no other.
        precision: fp32; bf16 where the processor has it; or auto, which is fp32 on a CPU, and on a GPU float16 where
            that finds the classes that fp32 finds.
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
                f"engines know no precision {self.precision!r}",
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
    """What the program knows of an engine without importing it.

    Attributes:
        name: as ``--engine`` takes it.
        package: that must be installed.
        formats: of the exported files that it runs, if any.
        file_module: the module whose ``open_file(path, options, device, trust)`` opens such a file.
        model_module: the module whose ``open_model(model, options, device, compiled)`` opens a `TrainedModel`. None for
            engines that run a model's conversion, an ONNX file.
        devices: the kinds of devices that it can compute on.
        precisions: what `EngineOptions.precision` may ask of it.
        best_for: what ``auto`` takes it for, before PyTorch: ``few images``, for it starts fast; ``one size``, for it
            compiles a network for a size.
        extra: of this package, which installs what it needs.
        imports_torch: whether opening anything with it imports torch.
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

    @property
    def runs_conversions(self) -> bool:
        """Whether it runs a model's conversion to ONNX, and not the model's own network."""
        return self.model_module is None

    @property
    def is_installed(self) -> bool:
        """Whether its package is there; nothing is imported."""
        return find_spec(self.package) is not None

    def require(self, precision: Precision = "fp32", device: str | None = None) -> None:
        """See that it is installed and can do what is asked, before anything is opened or converted.

        Raises:
            MissingExtraError: its package is not installed.
            ConfigError: it does not have the precision (code "engine-precision") or the device ("engine-device").
        """
        if self.extra is not None and not self.is_installed:
            raise MissingExtraError(self.package, self.extra)
        if precision not in self.precisions:
            raise ConfigError(
                f"{self.name} does not compute in {precision} on request",
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


ENGINES: dict[str, EngineRecord] = {
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
        ),
        EngineRecord(
            name="openvino",
            package="openvino",
            formats=("openvino", "onnx"),
            file_module="terrazzo.engines.openvino",
            precisions=("auto", "fp32", "bf16"),
            best_for=("few images", "one size"),
            extra="export",
        ),
    )
}
"""Every engine. Where several would do, the first one is taken."""


def device_kind(device: str) -> str:
    """Return the kind of a device: ``cuda`` of ``cuda:1``, and of ``1``."""
    return "cuda" if device.isdecimal() else device.partition(":")[0]


def _others(can: Callable[[EngineRecord], bool]) -> str:
    return " or ".join(engine.name for engine in ENGINES.values() if can(engine))


def available_cores() -> int:
    """Return how many cores this process may compute on.

    ``OMP_NUM_THREADS`` counts where it is set, as it does for PyTorch. Two threads of one core count as one: matrix
    products keep a core busy from a single thread.
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
    """Return what a file declares for each dimension, height and width being no less than its description says."""
    smallest = (1, 1, description.minimum_side, description.minimum_side)
    return [(max(least, small), most) for (least, most), small in zip(sides, smallest, strict=True)]


def refuse_size(shape: Sequence[int], sides: Sequence[Side], where: str | Path) -> None:
    """Raise ConfigError "export-size" for an input that a file was not exported for, before it runs.

    Args:
        shape: of the input, (B, 3, H, W).
        sides: what the file declares for each dimension.
        where: the file.
    """
    for name, length, (least, most) in zip(("batch", "channels", "height", "width"), shape, sides, strict=True):
        if length < least or (most is not None and length > most):
            taken = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            raise ConfigError(
                f"{where} takes a {name} of {taken}, and this one is {length}",
                fix="export the model with a free size, or show it photos of a size that it takes",
                code="export-size",
            )


def refuse_other_ports(names: tuple[str, str], output: str, rank: int, where: str | Path) -> None:
    """Raise CheckpointError "export-foreign" unless input and output are what the file's description says.

    Args:
        names: of the input and the output that the file has.
        output: the name of the output that its description promises.
        rank: how many dimensions the input has.
        where: the file.
    """
    if names != ("images", output) or rank != 4:
        raise CheckpointError(
            f"{where} takes {names[0]!r} with {rank} dimensions and gives {names[1]!r}, "
            f"and an exported model takes 'images' with 4 and gives {output!r}",
            fix="export the model again with `terrazzo export`",
            code="export-foreign",
        )
