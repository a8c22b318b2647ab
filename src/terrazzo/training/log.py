"""What a run says while it goes on: progress on the terminal, ``log.csv`` and TensorBoard files in its folder."""

from __future__ import annotations

import csv
import io
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from terrazzo.evaluation.confusion import Metrics
from terrazzo.files import make_folder, write_atomic

__all__ = ["RunLog"]

COLUMNS = ("epoch", "step", "loss", "lr", "images_per_second", "memory_mb", "hours", "mIoU", "mAcc", "aAcc")


class RunLog:
    """The log of one run.

    Args:
        output: the run's folder.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.rows: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._images = 0
        self._started = time.monotonic()
        self._lr = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._tensorboard: Any = None

    @contextmanager
    def progress(self, total_steps: int, step: int, *, enabled: bool) -> Iterator[None]:
        """Show a bar with loss, rate, speed, memory and the time left, if the terminal can; else a line an epoch."""
        if not enabled:
            yield
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        make_folder(self.output)
        self._tensorboard = _tensorboard_writer(self.output / "tensorboard")
        self._started = time.monotonic()
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(
            *columns, TextColumn("{task.fields[status]}"), console=console, disable=not console.is_terminal
        ) as bar:
            self._bar, self._task = bar, bar.add_task("train", total=total_steps, completed=step, status="")
            try:
                yield
            finally:
                self._bar = None
                if self._tensorboard is not None:
                    self._tensorboard.close()

    def step(self, step: int, loss: float, lr: float, images: int) -> None:
        """Note one step."""
        self._losses.append(loss)
        self._images += images
        self._lr = lr
        if self._bar is not None:
            recent = self._losses[-50:]
            speed = self._images / max(time.monotonic() - self._started, 1e-9)
            status = f"loss {sum(recent) / len(recent):.3f}  lr {lr:.1e}  {speed:.1f} img/s  {memory_mb():.0f} MB"
            self._bar.update(self._task, completed=step, status=status)

    def epoch(self, epoch: int, step: int, metrics: Metrics | None, seconds: float) -> None:
        """Close an epoch: one row in the table, one line on the terminal."""
        speed = self._images / max(time.monotonic() - self._started, 1e-9)
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "loss": round(sum(self._losses) / max(len(self._losses), 1), 5),
            "lr": self._lr,
            "images_per_second": round(speed, 2),
            "memory_mb": round(memory_mb()),
            "hours": round(seconds / 3600, 4),
            **({key: round(getattr(metrics, key), 2) for key in ("mIoU", "mAcc", "aAcc")} if metrics else {}),
        }
        self.rows.append(row)
        self._losses, self._images, self._started = [], 0, time.monotonic()
        if self._bar is not None:
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomic(self.output / "log.csv", text.getvalue().encode())
            if self._tensorboard is not None:
                for key in COLUMNS[2:]:
                    if key in row:
                        self._tensorboard.add_scalar(key, row[key], step)
            scores = f"  mIoU {row['mIoU']:.2f}" if metrics else ""
            self.say(f"epoch {epoch}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  {speed:.1f} img/s{scores}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None and not self._bar.disable:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Take over the rows of the run that is being resumed."""
        self.rows = list(rows)


def memory_mb() -> float:
    """Return the peak memory so far, of the GPU if one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _tensorboard_writer(folder: Path) -> Any:
    """Return a TensorBoard writer, or None where the `train` extra is not installed: log.csv has the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
