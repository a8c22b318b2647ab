"""Measuring the engines at a few sizes, for `auto` to choose by."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from terrazzo.engines.engine import ENGINES, available_cores
from terrazzo.engines.measured import SIZES, Speeds, keep_speeds
from terrazzo.errors import OutputError, TerrazzoError
from terrazzo.notes import note
from terrazzo.profiling.engine_process import EngineProcess
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["measure_choice"]

ROUNDS = 3


def measure_choice(
    threads: int | None = None, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Speeds:
    """Measure a pass of the shipped model in each engine at `SIZES`, in turn, and keep the figures.

    It takes half a minute on one core. An engine that fails is left out.

    Args:
        threads: of each engine; by default one for each core.
        progress: called with (sizes done, sizes in all).

    """
    threads = threads or available_cores()
    speeds: Speeds = {}
    with tempfile.TemporaryDirectory(prefix="terrazzo-benchmark-") as cache, ExitStack() as stack:
        running = [
            stack.enter_context(EngineProcess(engine.name, threads, Path(cache)))
            for engine in ENGINES.values()
            if engine.is_installed
        ]
        for number, size in enumerate(SIZES, 1):
            running = [process for process in running if _is_ready(process, size, threads)]
            for _ in range(ROUNDS):
                for process in running:
                    seconds = process.ask("call")[0]
                    of_size = speeds.setdefault(size, {})
                    of_size[process.name] = min(seconds, of_size.get(process.name, seconds))
            progress(number, len(SIZES))
    try:
        keep_speeds(threads, speeds)
    except OutputError as error:
        note(f"the speeds could not be kept ({error.message}), and auto chooses by its built-in rules")
    return speeds


def _is_ready(process: EngineProcess, size: tuple[int, int], threads: int) -> bool:
    """Open the model for a size and compute the first two passes; OpenVINO compiles it in them."""
    work = {"model": DEFAULT_MODEL, "engine": process.name, "device": "cpu", "precision": "fp32"}
    try:
        process.ask("start", **work, size=size, threads=threads, batch_size=1)
        process.ask("call")
    except TerrazzoError:  # such as too little memory for this size
        return False
    return True
