"""What a run says while it goes on: progress on the terminal, ``log.csv`` in its folder, and experiment trackers."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from terrazzo.atomic import make_folder, write_atomic
from terrazzo.evaluation.confusion import Metrics
from terrazzo.ownership import ANYBODY_WRITES, put_aside
from terrazzo.profiling.machine import peak_memory
from terrazzo.text import printable, said_by
from terrazzo.training.trackers import Tracked, Tracker, open_tracker

__all__ = ["LOG_FILE", "RunLog"]

LOG_FILE = "log.csv"
COLUMNS = ("epoch", "step", "loss", "lr", "images_per_second", "memory_mb", "hours", "mIoU", "mAcc", "aAcc")

SHOWN_STEPS = 50
"""The loss on the terminal is the mean over this many steps."""


class RunLog:
    """The log of one run.

    Args:
        output: the run's folder.
        is_main: whether this process writes files and talks to the user; the others only keep count.
        trackers: names of those that get the numbers too.
        settings: what they are told of the recipe.

    Attributes:
        rows: one for each finished epoch.
        losses: of the steps of the unfinished one.
    """

    def __init__(
        self,
        output: Path,
        is_main: bool = True,
        trackers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.output, self.is_main = output, is_main
        self._names, self._settings = trackers, settings or {}
        self.rows: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self._images, self._seconds = 0, 0.0
        self._first_lr = 0.0
        self._last = self._opened = time.monotonic()
        self._first_step = 0
        self._has_written = False
        self._bar: Any = None
        self._task: Any = None
        self._trackers: dict[str, Tracker] = {}

    @contextmanager
    def progress(self, total_steps: int, step: int) -> Iterator[None]:
        """Show a bar with loss, rate, speed, memory and the time left, if the terminal can; else a line an epoch."""
        self._first_step, self._opened = step, time.monotonic()
        if not self.is_main:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        make_folder(self.output)
        for name in self._names:
            try:
                self._trackers[name] = open_tracker(name, Tracked(self.output, step, self._settings))
            except Exception as error:
                self._without(name, error)
        console = Console(stderr=True)
        columns = (BarColumn(12), MofNCompleteColumn(), TextColumn("{task.fields[status]}", markup=False))
        with Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file must not end up above the bar instead
        ) as bar:
            self._bar, self._task = bar, bar.add_task("train", total=total_steps, completed=step, status="starting")
            try:
                yield
            finally:
                self._bar = None
                for name, tracker in list(self._trackers.items()):
                    try:
                        tracker.close()
                    except Exception as error:
                        self._without(name, error)

    def begin_epoch(self) -> None:
        """Start the clock: what lies between two epochs, such as validation, does not count as training time."""
        self._images, self._seconds, self._last = 0, 0.0, time.monotonic()
        self._first_lr = 0.0

    def step(self, step: int, loss: float, lr: float, images: int) -> None:
        """Note one step."""
        now = time.monotonic()
        self._seconds += now - self._last
        self._last = now
        self._images += images
        self.losses.append(loss)
        self._first_lr = self._first_lr or lr
        if self._bar is not None:
            left = (now - self._opened) / (step - self._first_step) * (self._bar.tasks[0].total - step)
            status = (
                f"loss {_mean(self.losses[-SHOWN_STEPS:]):.3f}  lr {lr:.1e}  "
                f"{self._images / max(self._seconds, 1e-9):.1f} img/s  "
                f"{memory_mb() / 1000:.1f} GB  {_clock(left)} left"
            )
            self._bar.update(self._task, completed=step, status=status)

    def validating(self, done: int, total: int) -> None:
        """Show how far the validation is."""
        if self._bar is not None:
            self._bar.update(self._task, status=f"validating: {done} of {total} photos")

    def epoch(
        self, epoch: int, epochs: int, step: int, lr: float, metrics: Metrics | None, seconds: float, best: bool
    ) -> None:
        """Close an epoch: one row in the table, one line on the terminal.

        Args:
            epoch: its number, from 1.
            epochs: epochs of the whole run.
            step: steps so far.
            lr: learning rate of the last step.
            metrics: scores of the validation, if there was one.
            seconds: run time so far.
            best: whether no earlier validation was better.
        """
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "loss": round(_mean(self.losses), 5),
            "lr": lr,
            "images_per_second": round(self._images / max(self._seconds, 1e-9), 2),
            "memory_mb": round(memory_mb()),
            "hours": round(seconds / 3600, 4),
            **({key: round(getattr(metrics, key), 2) for key in ("mIoU", "mAcc", "aAcc")} if metrics else {}),
        }
        self.rows.append(row)
        self.losses = []
        if self.is_main:
            self._write_csv()
            for name, tracker in list(self._trackers.items()):
                try:
                    tracker.log({key: row[key] for key in COLUMNS[2:] if key in row}, step)
                except Exception as error:
                    self._without(name, error)
            scores = f"  mIoU {row['mIoU']:5.2f}{'  best so far' if best else ''}" if metrics else ""
            rates = f"lr {self._first_lr:.1e} to {lr:.1e}"
            self.say(
                f"epoch {epoch:{len(str(epochs))}}/{epochs}  loss {row['loss']:.4f}  {rates}  "
                f"{row['images_per_second']:.1f} img/s{scores}"
            )

    def _without(self, name: str, error: Exception) -> None:
        """Go on without a tracker: no server that is away, and no full disk, ends a run."""
        self._trackers.pop(name, None)
        reason = (error.strerror if isinstance(error, OSError) else None) or said_by(error)
        if isinstance(error, UnicodeEncodeError):
            reason = "the folder's name is not text"
        self.say(f"note: {name} does not get the run's numbers ({reason}); {LOG_FILE} has them")

    def say(self, text: str) -> None:
        """Print lines above the bar, control characters in them escaped; silent on ranks other than the first."""
        if not self.is_main:
            return
        text = "\n".join(map(printable, text.split("\n")))
        if self._bar is not None and not self._bar.disable:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def restore(self, rows: list[dict[str, Any]], losses: list[float]) -> None:
        """Take over what was noted by the run that is being resumed."""
        self.rows, self.losses = list(rows), list(losses)

    def _write_csv(self) -> None:
        path = self.output / LOG_FILE
        if not self._has_written and os.path.lexists(path) and not self._is_own(path):
            self.say(f"note: {put_aside(path)}")
        self._has_written = True
        write_atomic(path, "".join(f"{line}\n" for line in self._lines()).encode())

    def _is_own(self, path: Path) -> bool:
        """Whether the table that is there is this run's, and may have rows that came after its checkpoint."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return False
        known = self._lines()[:-1]  # the last row is new
        later = [line.split(",") for line in lines[len(known) :]]
        epochs = [str(self.rows[-1]["epoch"] + place) for place in range(len(later))]
        return (
            bool(path.stat().st_mode & ANYBODY_WRITES)
            and lines[: len(known)] == known
            and [cells[0] for cells in later] == epochs
            and all(len(cells) == len(COLUMNS) and _are_numbers(cells) for cells in later)
        )

    def _lines(self) -> list[str]:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().splitlines()


def memory_mb() -> float:
    """Return the peak memory so far, of the GPU if one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    return (peak_memory() or 0) / 1e6


def _mean(losses: list[float]) -> float:
    """The mean of those that are numbers: steps that had none were not taken."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.nan


def _are_numbers(cells: list[str]) -> bool:
    try:
        return all(math.isfinite(float(cell)) or cell == "nan" for cell in cells if cell)
    except ValueError:
        return False


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
