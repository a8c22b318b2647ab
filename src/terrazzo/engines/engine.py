"""The one protocol that every engine follows, and what can be chosen about how it works.

An engine is a callable over numpy arrays and nothing more, so that a plain function is one too. Engines may be called
from several threads at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.weights.exported import ExportedDescription

__all__ = [
    "ENGINES",
    "Engine",
    "EngineName",
    "EngineOptions",
    "FileEngine",
    "Precision",
    "Side",
    "at_least",
    "available_cores",
    "refuse_other_ports",
    "refuse_size",
    "release_memory",
]

EngineName = Literal["auto", "torch", "openvino", "onnxruntime"]
Precision = Literal["auto", "fp32", "bf16"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

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
        if (self.threads is not None and self.threads < 1) or self.streams < 1:
            raise ConfigError(
                f"{self.threads} threads in {self.streams} streams cannot compute anything",
                fix="give at least 1 of each",
                code="engine-threads",
            )
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
