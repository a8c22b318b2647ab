"""Facts about the machine: the processor's name and peak speed, this process's memory, versions of packages."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from terrazzo.engines.measured import processor_name

__all__ = ["Times", "gemm_peak", "package_versions", "peak_memory", "processor_name"]

GEMM_SIDE = 1536
GEMM_CALLS = 8


@dataclass(frozen=True)
class Times:
    """Seconds of repeated calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def gemm_peak(clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the speed of float32 matrix products in PyTorch with its present number of threads, in FLOP/s.

    Args:
        clock: the clock; `time.process_time` for one thread on a busy machine.
    """
    import torch

    a, b = torch.randn(GEMM_SIDE, GEMM_SIDE), torch.randn(GEMM_SIDE, GEMM_SIDE)
    _ = a @ b
    seconds = []
    for _ in range(GEMM_CALLS):
        started = clock()
        _ = a @ b
        seconds.append(clock() - started)
    return 2 * GEMM_SIDE**3 / min(seconds)


def peak_memory() -> int | None:
    """Return this process's peak resident memory in bytes; None if the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _peak_by_getrusage()
    # getrusage would include the memory that the parent process had when it started this one.
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def package_versions(*packages: str) -> dict[str, str]:
    """Return the versions of these packages, as far as they are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _peak_by_getrusage() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
