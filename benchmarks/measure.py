"""What every benchmark here shares: alternating runs of one thread's CPU time, and a header that says where."""

from __future__ import annotations

import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["RESULTS", "Times", "alternate", "gemm_peak", "header", "publish", "table"]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Times:
    """CPU seconds of the calls of one side."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def alternate(sides: Sequence[Callable[[], object]], rounds: int) -> list[Times]:
    """Call every side once unmeasured, then all of them in turn, `rounds` times."""
    for side in sides:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, measured in zip(sides, seconds, strict=True):
            started = time.process_time()
            side()
            measured.append(time.process_time() - started)
    return [Times(tuple(measured)) for measured in seconds]


def gemm_peak() -> float:
    """Return this machine's float32 matrix product speed on one thread, in FLOP/s."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    (times,) = alternate([lambda: a @ b], 8)
    return 2 * 1536**3 / times.least


def header(title: str, command: str) -> str:
    """Return the lines that say what was measured, by which command, when, and on what."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    versions = [f"torch {torch.__version__}", f"python {platform.python_version()}"]
    try:
        import transformers
    except ImportError:
        pass
    else:
        versions.insert(0, f"transformers {transformers.__version__}")
    return "\n".join(
        [
            f"# {title}",
            "",
            f"`{command}`, {datetime.date.today()}, commit {commit.strip() or 'unknown'}, "
            f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} thread, {', '.join(versions)}.",
            "CPU time of the process, calls of both sides in turn; the machine was shared, so read the ratios.",
            "",
        ]
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def publish(name: str, text: str, write: bool) -> None:
    """Print a result, and put it under results/ if asked to."""
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
