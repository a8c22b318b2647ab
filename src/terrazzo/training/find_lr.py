"""Learning-rate range test (Smith 2017, arXiv 1506.01186): a sweep over rates, its plot, and a suggestion."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from terrazzo.errors import TrainingError
from terrazzo.ownership import set_aside, write_result
from terrazzo.plotting import FAINT, INK, plain_axes, to_png
from terrazzo.training.run_folder import RATES_FILE
from terrazzo.training.trainer import Trainer

__all__ = ["Sweep", "find_learning_rate", "sweep_png"]

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.9
"""Of the moving average of the loss."""

DIVERGED = 4.0
"""The sweep ends when the smoothed loss reaches this multiple of its minimum."""

SKIPPED = 5
"""Points at the beginning, where the moving average is still young."""

LINE, CHOSEN = "#1f5fa8", "#c2410c"


@dataclass(frozen=True)
class Sweep:
    """What a sweep has found.

    Attributes:
        rates: learning rate of each step.
        losses: of each step.
        smoothed: their moving average, corrected for its start.
        suggested: the middle of the decade of rates over which the smoothed loss falls most; None where it never falls.
        lowest: the rate at which it is least.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None
    lowest: float


def find_learning_rate(trainer: Trainer, steps: int = STEPS) -> Sweep:
    """Train for some steps with a rate that grows exponentially, draw the loss, and say what to use.

    The only file is the plot; what was learnt is forgotten.

    Raises:
        TrainingError: the loss is not finite from the first step on.
    """
    base = trainer.schedule.lr
    growth = (HIGHEST / LOWEST) ** (1 / max(steps - 1, 1))
    trainer.factor = lambda step: LOWEST * growth**step / base
    trainer.total_steps = max(trainer.total_steps, steps)
    losses: list[float] = []
    with closing(trainer.batches(steps)) as batches:
        for batch in batches:
            loss = float(trainer.train_step(batch))
            shared = trainer.ranks.gather(loss)
            losses.append(sum(shared) / len(shared))
            smoothed = _smoothed(losses)
            if not math.isfinite(losses[-1]) or (len(losses) > SKIPPED and smoothed[-1] > DIVERGED * min(smoothed)):
                break
    found = _read_off([LOWEST * growth**step for step in range(len(losses))], losses)
    if trainer.ranks.is_main:
        path = trainer.output / RATES_FILE
        set_aside([path], "train")
        write_result(path, sweep_png(found, f"{trainer.recipe.network}: learning-rate range test"), "train")
        trainer.log.say(f"rates     {len(losses)} steps from {found.rates[0]:.0e} to {found.rates[-1]:.1e}, in {path}")
        advice = "the loss never falls: look at the masks, and at --weights"
        if found.suggested is not None:
            lowest = f"the loss is lowest at {found.lowest:.1e}"
            advice = f"--lr {found.suggested:.1e}, in the middle of its steepest fall; {lowest}"
        trainer.log.say(f"advice    {advice}")
        trainer.log.say("nothing was trained: start the run with the same command without --find-lr")
    return found


def _smoothed(losses: list[float]) -> list[float]:
    average, values = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        values.append(average / (1 - SMOOTHING**count))
    return values


def _read_off(rates: list[float], losses: list[float]) -> Sweep:
    """Find the decade of rates over which the smoothed loss falls most, before it is lowest."""
    count = next((place for place, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    if not count:
        raise TrainingError(
            "the loss is not finite at the lowest learning rate",
            fix="look at the photos and masks with `terrazzo check-data`, or train with --precision fp32",
            code="training-diverged",
        )
    smoothed = _smoothed(losses[:count])
    lowest = int(np.argmin(smoothed))
    decade = max(round(1 / math.log10(rates[1] / rates[0])), 1) if len(rates) > 1 else 1
    falls = [smoothed[place] - smoothed[place + decade] for place in range(SKIPPED, lowest + 1 - decade)]
    suggested = None
    if falls and max(falls) > 0:
        suggested = rates[SKIPPED + int(np.argmax(falls)) + decade // 2]
    return Sweep(tuple(rates[:count]), tuple(losses[:count]), tuple(smoothed), suggested, rates[lowest])


def sweep_png(sweep: Sweep, title: str) -> bytes:
    """Draw the loss over the learning rate, with the rate that is suggested."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_xscale("log")
    plain_axes(axes, title)
    axes.plot(sweep.rates, sweep.losses, color="#b9cbe4", linewidth=1.0, label="loss of each step")
    axes.plot(sweep.rates, sweep.smoothed, color=LINE, linewidth=2.0, label="smoothed")
    if sweep.suggested is not None:
        axes.axvline(sweep.suggested, color=CHOSEN, linewidth=1.2, linestyle=(0, (4, 3)))
        height = sweep.smoothed[sweep.rates.index(sweep.suggested)]
        axes.plot(sweep.suggested, height, "o", ms=8, mfc="white", mec=CHOSEN, mew=2, zorder=4)
        axes.annotate(
            f"falls fastest at {sweep.suggested:.1e}",
            (sweep.suggested, height),
            xytext=(10, 10),
            textcoords="offset points",
            color=CHOSEN,
            fontsize=10,
            bbox={"fc": "white", "ec": "none", "pad": 1.5},
            zorder=5,
        )
    low, high = min(sweep.smoothed), max(sweep.smoothed[: max(len(sweep.smoothed) // 2, 1)])
    room = max(high - low, 1e-6)
    axes.set_ylim(low - 0.15 * room, high + 0.5 * room)
    axes.set_xlabel("learning rate", color=INK)
    axes.set_ylabel("training loss", color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=FAINT, loc="upper left")
    return to_png(figure, 150)
