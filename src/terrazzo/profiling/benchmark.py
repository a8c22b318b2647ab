"""`benchmark`, the public function: one process for each engine, and all of them called in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from terrazzo.arguments import checked
from terrazzo.atomic import temporary_folder
from terrazzo.data.choose_images import choose_images
from terrazzo.engines.engine import ENGINES, EngineOptions, Precision, available_cores
from terrazzo.engines.layer_times import LayerTime
from terrazzo.engines.trust import trust_file
from terrazzo.errors import ConfigError, TerrazzoError
from terrazzo.inference.upsample.argmax import upsample_argmax
from terrazzo.profiling.engine_process import EngineProcess
from terrazzo.profiling.machine import Times, package_versions, processor_name
from terrazzo.profiling.report import EngineSpeed, ImageSpeed, Problem, SpeedReport
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.exported import exported_format

__all__ = ["MOST_IMAGES", "benchmark"]

MOST_IMAGES = 50
REFERENCE = "reference.npy"


@checked
def benchmark(
    model: str | Path = DEFAULT_MODEL,
    *,
    size: tuple[int, int] = (512, 512),
    batch_size: int = 1,
    engines: str | Sequence[str] = "all",
    threads: int | None = None,
    device: str | None = None,
    images: str | Path | None = None,
    rounds: int = 10,
    precision: Precision = "fp32",
    profile: bool = False,
    trust: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> SpeedReport:
    """Measure the speed of a model on this machine in every engine.

    Each engine runs in a process of its own. It is started twice, first with an empty cache folder and then with what
    the first start left there; then all engines are called in turn, `rounds` times.

    Args:
        model: anything that `terrazzo.load` takes; or an exported file, which only some engines run and whose masks are
            not compared with PyTorch's.
        size: (height, width) of the network's input.
        batch_size: photos that go through the network together.
        engines: names of engines, or "all" for the installed ones.
        threads: threads of each engine; by default one for each core.
        device: ``cpu`` or ``cuda``, for PyTorch; by default a GPU if there is one.
        images: a file, folder or pattern; its first 50 photos are turned into mask files too.
        rounds: number of timed passes.
        precision: as `make_predictor` takes it; engines that do not have it are not measured.
        profile: also ask each engine for the times of its layers, in passes of their own.
        trust: open a ``.pt2`` file that was not exported on this machine; see `make_predictor`.
        progress: called with (steps done, steps in all).

    Raises:
        ConfigError: a number is below 1, there is no engine of a name, or there is too little memory.
        CheckpointError: the model cannot be loaded.
        ImageError: there is no photo, or one cannot be read.
        MissingExtraError: an engine that was asked for by its name is not installed.
    """
    wanted = _engine_names(engines)
    threads = available_cores() if threads is None else threads
    for what, number in (("size", min(size)), ("batch size", batch_size), ("rounds", rounds)):
        if number < 1:
            raise ConfigError(f"{what} is {number}", fix="give at least 1")
    EngineOptions(threads)  # refuses a number that makes no sense
    if trust and exported_format(model) == "torch":
        trust_file(Path(model))  # the engine's process opens it then
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    paths = [] if images is None else choose_images([str(images)])[0][:MOST_IMAGES]
    steps = _Steps(progress, 1 + 2 * len(wanted) + rounds + len(paths) + (len(wanted) if profile else 0))
    work: dict[str, Any] = {"model": str(model), "threads": threads, "size": size, "batch_size": batch_size}
    with temporary_folder() as folder, ExitStack() as stack:
        with EngineProcess("PyTorch", threads, folder) as process:
            process.ask("check", model=work["model"], device=device, images=[str(path) for path in paths])
            facts = process.ask("facts", **work, logits=str(folder / REFERENCE))
        steps.done()
        running: list[_Running] = []
        problems: list[Problem] = []
        errors: list[TerrazzoError] = []
        for engine in wanted:
            try:
                where = None if ENGINES[engine].runs_conversions else device
                options = {**work, "engine": engine, "device": where, "precision": precision}
                running.append(_started(options, folder, stack, steps))
            except TerrazzoError as error:
                if engines != "all":
                    raise
                problems.append(Problem(engine, error.message, error.fix))
                errors.append(error)
        if not running:  # why the right engine failed says more than that another is not for such files
            raise next((error for error in errors if error.code != "engine-file"), errors[0])
        speeds = _measured(running, folder, size, rounds, steps)
        of_images = _images_measured(running, folder, paths, steps) if paths else [None] * len(running)
        layers = [_layers(each, steps) if profile else () for each in running]
    return SpeedReport(
        model=str(model),
        architecture=facts["architecture"],
        classes=facts["classes"],
        size=size,
        batch_size=batch_size,
        threads=threads,
        rounds=rounds,
        precision=precision,
        images=len(paths),
        operations=facts["operations"],
        gemm_peak=facts["gemm_peak"],
        processor=processor_name(),
        load=load,
        versions=package_versions("terrazzo", *(engine.package for engine in ENGINES.values())),
        engines=tuple(
            EngineSpeed(
                engine=each.engine,
                first_start=each.first_start,
                start=each.start,
                pixels=batch_size * size[0] * size[1],
                images=of_image,
                layers=of_layers,
                **speed,
            )
            for each, speed, of_image, of_layers in zip(running, speeds, of_images, layers, strict=True)
        ),
        problems=tuple(problems),
    )


@dataclass(frozen=True)
class _Running:
    """The process of an engine that has started, and the seconds that its two starts took."""

    engine: str
    process: EngineProcess
    first_start: float
    start: float


@dataclass
class _Steps:
    """Counts steps for a progress bar."""

    progress: Callable[[int, int], None]
    total: int
    count: int = 0

    def done(self) -> None:
        self.count += 1
        self.progress(self.count, self.total)


def _engine_names(engines: str | Sequence[str]) -> tuple[str, ...]:
    if engines == "all":
        return tuple(ENGINES)
    names = tuple(dict.fromkeys([engines] if isinstance(engines, str) else engines))
    if unknown := [name for name in names if name not in ENGINES]:
        raise ConfigError(
            f"there is no engine {unknown[0]!r} to measure", fix=f"choose all, or from {', '.join(ENGINES)}"
        )
    return names


def _started(work: dict[str, Any], folder: Path, stack: ExitStack, steps: _Steps) -> _Running:
    """Start an engine twice: with an empty cache folder, then with what the first start left there."""
    engine, cache = work["engine"], folder / f"cache-{work['engine']}"
    seconds = []
    for again in (False, True):
        started = perf_counter()
        process = EngineProcess(engine, work["threads"], cache)
        with ExitStack() as on_failure:
            on_failure.enter_context(process)
            process.ask("start", **work)
            seconds.append(perf_counter() - started)
            if again:
                stack.push(on_failure.pop_all())
        steps.done()
    return _Running(engine, process, *seconds)


def _measured(
    running: Sequence[_Running], folder: Path, size: tuple[int, int], rounds: int, steps: _Steps
) -> list[dict[str, Any]]:
    """Call the engines in turn and compare their outputs; return fields of `EngineSpeed`."""
    calls: list[list[list[float]]] = [[] for _ in running]
    for _ in range(rounds):
        for each, measured in zip(running, calls, strict=True):
            measured.append(each.process.ask("call"))
        steps.done()
    return [
        {**_wall_and_cpu(measured), "memory": each.process.ask("memory"), **_compared(each, folder, size)}
        for each, measured in zip(running, calls, strict=True)
    ]


def _compared(each: _Running, folder: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Compare an engine's logits and masks with the reference, if there is one."""
    reference, path = folder / REFERENCE, folder / f"{each.engine}.npy"
    if not reference.exists():
        return {"difference": None, "differing": None}
    each.process.ask("logits", path=str(path))
    expected_BKhw, logits_BKhw = np.load(reference), np.load(path)
    differing = sum(
        int((upsample_argmax(logits, [size]) != upsample_argmax(expected, [size])).sum())
        for logits, expected in zip(logits_BKhw, expected_BKhw, strict=True)
    )
    return {"difference": float(np.abs(logits_BKhw - expected_BKhw).max()), "differing": differing}


def _images_measured(
    running: Sequence[_Running], folder: Path, paths: Sequence[Path], steps: _Steps
) -> list[ImageSpeed | None]:
    """Turn each photo into a mask file by each engine in turn; masks are compared with the first engine's."""
    for each in running:
        each.process.ask("image", source=str(paths[0]), destination=str(folder / f"{each.engine}.png"))
    seconds: list[list[list[float]]] = [[] for _ in running]
    differing, pixels = [0] * len(running), 0
    for path in paths:
        masks = []
        for each, measured in zip(running, seconds, strict=True):
            destination = folder / f"{each.engine}.png"
            measured.append(each.process.ask("image", source=str(path), destination=str(destination)))
            with Image.open(destination) as image:
                masks.append(np.asarray(image))
        for number, mask in enumerate(masks):
            differing[number] += int((mask != masks[0]).sum())
        pixels += masks[0].size
        steps.done()
    return [
        ImageSpeed(**_wall_and_cpu(measured), differing=count, pixels=pixels)
        for measured, count in zip(seconds, differing, strict=True)
    ]


def _layers(each: _Running, steps: _Steps) -> tuple[LayerTime, ...]:
    times = tuple(LayerTime(*time) for time in each.process.ask("layers"))
    steps.done()
    return times


def _wall_and_cpu(calls: Sequence[Sequence[float]]) -> dict[str, Times]:
    wall, cpu = zip(*calls, strict=True)
    return {"wall": Times(wall), "cpu": Times(cpu)}
