"""The results of a benchmark, as a table for the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from terrazzo.engines.layer_times import LayerTime
from terrazzo.profiling.machine import Times
from terrazzo.text import printable

__all__ = ["EngineSpeed", "ImageSpeed", "Problem", "SpeedReport"]

BUSY = 0.7
SLOWEST = 10  # layers that are shown one by one
WIDEST = 48
LEAST_SHARE = 0.005  # of a kind of layer that has a line of its own


@dataclass(frozen=True)
class ImageSpeed:
    """Photo file to mask file, one photo after the other.

    Attributes:
        wall: seconds of each photo.
        cpu: processor seconds of each photo, over all threads.
        differing: pixels of all photos whose class differs from the first engine's.
        pixels: of all photos.
    """

    wall: Times
    cpu: Times
    differing: int
    pixels: int


@dataclass(frozen=True)
class EngineSpeed:
    """The measurements of one engine.

    Attributes:
        engine: its name.
        wall: seconds of each pass of a batch through the network.
        cpu: processor seconds of each, over all threads.
        first_start: seconds from starting the program to the first result, with an empty cache folder.
        start: the same with the cache folder that the first start left.
        memory: peak memory of the process in bytes, after all passes; None if the system does not report it.
        difference: largest difference of a logit from PyTorch's, run operator by operator; None if there is nothing to
            compare.
        differing: pixels of the batch's masks whose class differs from PyTorch's.
        pixels: of the batch.
        images: what --photos adds.
        layers: what --profile adds: the times of the engine's layers.
    """

    engine: str
    wall: Times
    cpu: Times
    first_start: float
    start: float
    memory: int | None
    difference: float | None
    differing: int | None
    pixels: int
    images: ImageSpeed | None = None
    layers: tuple[LayerTime, ...] = ()


@dataclass(frozen=True)
class Problem:
    """An engine that could not be measured, and why."""

    engine: str
    message: str
    fix: str


@dataclass(frozen=True)
class SpeedReport:
    """The speed of a model on a machine, engine by engine.

    Attributes:
        model: how it was asked for.
        architecture: such as ``segformer_b0``.
        classes: K.
        size: (height, width) of the network's input.
        batch_size: photos in a pass.
        threads: that each engine may use.
        rounds: passes that were timed.
        images: number of photo files; 0 without.
        operations: floating-point operations of a pass; None where they cannot be counted.
        gemm_peak: FLOP/s of a float32 matrix product on these threads.
        processor: the machine's.
        load: load average when the benchmark began; 0 if the system does not report it.
        versions: of the packages that matter.
        engines: the measurements, in the order of the request.
        problems: engines without measurements.
        precision: as it was asked for.
    """

    model: str
    architecture: str
    classes: int
    size: tuple[int, int]
    batch_size: int
    threads: int
    rounds: int
    images: int
    operations: int | None
    gemm_peak: float
    processor: str
    load: float
    versions: dict[str, str]
    engines: tuple[EngineSpeed, ...]
    problems: tuple[Problem, ...] = ()
    precision: str = "fp32"

    def share_of_peak(self, speed: EngineSpeed) -> float | None:
        """Return an engine's operations per second as a share of the matrix product's; None in another precision."""
        if self.operations is None or self.precision == "bf16":
            return None
        return self.operations / speed.wall.least / self.gemm_peak

    def table(self) -> str:
        """Lay everything out for a terminal, with an explanation of the columns."""
        height, width = self.size
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        lines = [
            f"{printable(f'{self.model}: {self.architecture}')}, {self.classes} classes, photos of {height} x {width}, "
            f"batch of {self.batch_size}{'' if self.precision == 'fp32' else f', {self.precision}'}",
            f"{threads} of {self.processor}; {', '.join(map(' '.join, self.versions.items()))}",
        ]
        if self.load > BUSY:
            lines.append(
                f"The machine was busy (load {self.load:.1f}): compare engines with each other, not with other runs."
            )
        lines.append("")
        if self.engines:
            lines += [*_columns(self._network_rows()), "", *self._legend()]
        if self.images:
            lines += ["", f"Photo file to mask file, one after the other, {self.images} in all:", ""]
            lines += _columns(self._image_rows())
        for speed in self.engines:
            if speed.layers:
                lines += ["", *_profile(speed.engine, speed.layers)]
        for problem in self.problems:
            lines += ["", f"{problem.engine}: not measured: {problem.message}", f"  fix: {problem.fix}"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; times in seconds, memory in bytes."""
        values = asdict(self)
        for entry, speed in zip(values["engines"], self.engines, strict=True):
            entry |= {
                "median": speed.wall.median,
                "least": speed.wall.least,
                "cpu_median": speed.cpu.median,
                "photos_per_second": self.batch_size / speed.wall.median,
                "share_of_gemm_peak": self.share_of_peak(speed),
            }
            if speed.images is not None:
                entry["images"] |= {"median": speed.images.wall.median, "cpu_median": speed.images.cpu.median}
        return values

    def to_json(self) -> str:
        """Return `to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def _network_rows(self) -> list[list[str]]:
        rows = [
            ["engine", "median", "least", "photos/s", "processor", "of peak", "memory", "start", "first", "same mask"]
        ]
        for speed in self.engines:
            rows.append(
                [
                    speed.engine,
                    _seconds(speed.wall.median),
                    _seconds(speed.wall.least),
                    f"{self.batch_size / speed.wall.median:.3g}",
                    _seconds(speed.cpu.median),
                    _percent(self.share_of_peak(speed)),
                    "-" if speed.memory is None else f"{speed.memory / 1e6:.0f} MB",
                    _seconds(speed.start),
                    _seconds(speed.first_start),
                    _same(speed.differing, speed.pixels),
                ]
            )
        return rows

    def _legend(self) -> list[str]:
        peak = f"plain matrix products run at {self.gemm_peak / 1e9:.0f} billion operations a second here"
        batch = f"a pass of {self.batch_size} through the network"
        passes = "" if self.operations is None else f", a pass is {self.operations / 1e9:.3g} billion"
        return [
            f"median, least  time of {batch}; {self.rounds} were timed, the engines in turn",
            "processor      time of all threads together in a pass",
            "of peak        how near the arithmetic comes to the processor's limit:",
            f"               {peak}{passes}",
            "memory         the most that the engine's process held, Python and its packages included",
            "start          from starting the program to the first result; first: when the model must be converted",
            "same mask      pixels that get the class that PyTorch gives, operator by operator",
        ]

    def _image_rows(self) -> list[list[str]]:
        rows = [["engine", "median", "least", "photos/s", "processor", "same mask"]]
        for speed in self.engines:
            if (images := speed.images) is not None:
                rows.append(
                    [
                        speed.engine,
                        _seconds(images.wall.median),
                        _seconds(images.wall.least),
                        f"{len(images.wall.seconds) / sum(images.wall.seconds):.3g}",
                        _seconds(images.cpu.median),
                        _same(images.differing, images.pixels),
                    ]
                )
        return rows


def _profile(engine: str, layers: Sequence[LayerTime]) -> list[str]:
    """Lay out the times of an engine's layers, by kind and kernel, and those of the slowest ones."""
    total = sum(layer.seconds for layer in layers)
    kinds: dict[tuple[str, str], list[float]] = {}
    for layer in layers:
        kinds.setdefault((layer.kind, layer.kernel), []).append(layer.seconds)
    by_kind = sorted(kinds.items(), key=lambda kind: -sum(kind[1]))
    slowest = sorted(layers, key=lambda layer: -layer.seconds)[:SLOWEST]
    shown = [(*of, times) for of, times in by_kind if sum(times) >= LEAST_SHARE * total]
    rest = [time for of, times in by_kind[len(shown) :] for time in times]
    shown += [("others", "", rest)] if rest else []
    rows = [[kind, kernel, str(len(times)), *_with_share(sum(times), total)] for kind, kernel, times in shown]
    of_layers = [[_cut(layer.layer), layer.kind, layer.kernel, *_with_share(layer.seconds, total)] for layer in slowest]
    return [
        f"{engine} by its own counters, {_seconds(total)} in a pass:",
        "",
        *_columns([["kind of layer", "kernel", "layers", "time", "share"], *rows], texts=2),
        "",
        *_columns([["slowest layers", "kind", "kernel", "time", "share"], *of_layers], texts=3),
    ]


def _with_share(seconds: float, total: float) -> list[str]:
    return [f"{1e3 * seconds:.2f} ms", f"{seconds / total:.1%}"]


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _columns(rows: list[list[str]], texts: int = 1) -> list[str]:
    """Align cells: the first columns, which are texts, to the left, and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if index < texts else '>'}{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.{1 if seconds < 0.1 else 0}f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _same(differing: int | None, pixels: int) -> str:
    if differing is None:
        return "-"
    # Never a rounded 100%: a single pixel that differs is shown.
    return "all" if differing == 0 else f"all but {differing}" if differing < 1000 else f"{1 - differing / pixels:.3%}"
