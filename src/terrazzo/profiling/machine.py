"""What a speed is held against: the processor, its fastest matrix product, and the memory of this process."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Times", "gemm_peak", "package_versions", "peak_memory", "processor_name"]

GEMM_SIDE = 1536
GEMM_CALLS = 8


@dataclass(frozen=True)
class Times:
    """Seconds of the calls of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def gemm_peak(clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the float32 matrix product speed that PyTorch reaches here with its present threads, in FLOP/s.

    Args:
        clock: what to time by; `time.process_time` for one thread on a busy machine.
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


def processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Return the most bytes of memory that this process has held so far; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _peak_by_getrusage()
    # Not by getrusage: that would include what the parent process held when it started this one.
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def package_versions(*packages: str) -> dict[str, str]:
    """Return the versions of those of these packages that are installed."""
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
