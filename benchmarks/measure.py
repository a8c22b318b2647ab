"""What the benchmarks share: timing by alternating calls, processes of their own, tables and their header."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from terrazzo.profiling.machine import Times, package_versions, processor_name

__all__ = [
    "RESULTS",
    "Times",
    "alternate",
    "apart",
    "gemm_speed",
    "header",
    "matrix_product",
    "milliseconds",
    "publish",
    "ratio",
    "share_of_peak",
    "table",
]

RESULTS = Path(__file__).parent / "results"
GEMM_SIDE = 1536
GEMM_OPERATIONS = 2 * GEMM_SIDE**3
CPU_TIME = "CPU time of the process, calls of both sides in turn; where the machine was shared, read the ratios."


def alternate(sides: Sequence[Callable[[], object]], rounds: int, least_seconds: float = 0.0) -> list[Times]:
    """Call every side once unmeasured, then all of them in turn, `rounds` times; return CPU seconds.

    CPU time is that of the whole process, which includes an engine's own threads. If the rounds together take less than
    `least_seconds`, there are more of them.
    """
    for side in sides:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    while len(seconds[0]) < rounds or sum(map(sum, seconds)) < least_seconds:
        for side, measured in zip(sides, seconds, strict=True):
            started = time.process_time()
            side()
            measured.append(time.process_time() - started)
    return [Times(tuple(measured)) for measured in seconds]


def ratio(slower: Times, faster: Times) -> str:
    """Return the median of the rounds' ratios, since a change of the machine's speed affects both sides of a round."""
    return f"{statistics.median(a / b for a, b in zip(slower.seconds, faster.seconds, strict=True)):.2f}"


def matrix_product() -> Callable[[], object]:
    """Return a float32 matrix product to be called in turn with the sides: the peak speed of each round."""
    import torch

    a, b = torch.randn(GEMM_SIDE, GEMM_SIDE), torch.randn(GEMM_SIDE, GEMM_SIDE)
    return lambda: a @ b


def gemm_speed(product: Times) -> float:
    """Return the median speed of `matrix_product`, in FLOP/s."""
    return GEMM_OPERATIONS / product.median


def share_of_peak(operations: int, times: Times, product: Times) -> str:
    """Return the median of the speed of so many operations in these times, as a share of `matrix_product`'s."""
    rounds = zip(times.seconds, product.seconds, strict=True)
    return f"{statistics.median(operations / mine / (GEMM_OPERATIONS / peak) for mine, peak in rounds):.0%}"


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a module's function in a fresh process and return its result."""
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_call_and_send, args=(sending, function, arguments))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__}{arguments} ended with status {process.exitcode}") from None
    finally:
        process.join()


def header(title: str, command: str, packages: Sequence[str] = (), timing: str = CPU_TIME) -> str:
    """Return the header of a table: what was measured, by which command, when, and on which machine.

    Args:
        title: of the table.
        command: the command that makes it.
        packages: packages whose versions are named.
        timing: what kind of times these are.
    """
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    versions = {**package_versions("transformers", *packages), "torch": torch.__version__}
    named = [f"{package} {version}" for package, version in versions.items()]
    threads = torch.get_num_threads()
    return "\n".join(
        [
            f"# {title}",
            "",
            f"`{command}`, {datetime.date.today()}, commit {commit.strip() or 'unknown'}, "
            f"{processor_name() or 'CPU'}, {threads} thread{'s' * (threads > 1)}, "
            f"{', '.join(named)}, python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}.",
            timing,
            "",
        ]
    )


def milliseconds(times: Times) -> str:
    """Lay out times as median / least."""
    digits = 1 if times.median < 0.02 else 0
    return f"{1e3 * times.median:.{digits}f} / {1e3 * times.least:.{digits}f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def publish(name: str, text: str, write: bool) -> None:
    """Print a result; with `write`, put it under results/, with its picture if `plots.py` has one."""
    print(text)
    if write:
        from plots import PICTURES, draw

        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
        if name in PICTURES:
            draw(name)


def _call_and_send(sending: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sending.send(function(*arguments))
