"""The picture of a study: scores and costs as bars, curves over the image's side."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from terrazzo.ablation.results import CURVES, Result, Row
from terrazzo.plotting import FAINT, INK, name_lines, plain_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["study_png"]

OTHERS, COSTS = "#6d8fb5", "#b9c3cf"
COLORS = (
    "#c2410c", "#1f5fa8", "#2f8f5b", "#8a63b8", "#7a7a7a", "#d98c00", "#00838f", "#ad1457", "#5d4037", "#827717",
)  # fmt: skip
"""Of the networks, the paper's own first; more of them begin again."""
DPI = 150


def study_png(result: Result) -> bytes:
    """Draw a study: the scores and costs of its networks as bars, then what was measured against the image's side."""
    from matplotlib.figure import Figure

    rows = result.rows
    lines = [name for name in rows[0].curves if name != "mIoU_in_windows"]
    bars, charts = 0.8 + 0.34 * len(rows), -(-len(lines) // 2)
    chart = max(3.6, 0.24 * len(rows))
    title = "\n".join([result.title, *textwrap.wrap(f"Claim: {result.claim}", 118)])
    figure = Figure(figsize=(12 if lines else 10, 1.4 + bars + charts * chart), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, parse_math=False, linespacing=1.4)
    grid = figure.add_gridspec(1 + charts, 2, height_ratios=[bars, *[chart] * charts])
    colors = [*islice(cycle(COLORS), len(rows))] if lines else [COLORS[0], *[OTHERS] * (len(rows) - 1)]
    _score_bars(figure.add_subplot(grid[0, 0]), rows, colors)
    _cost_bars(figure.add_subplot(grid[0, 1]), result)
    for place, name in enumerate(lines):
        alone = place % 2 == 0 and name == lines[-1]
        _curves(figure.add_subplot(grid[1 + place // 2, :] if alone else grid[1 + place // 2, place % 2]), result, name)
    about = f"{result.data}. {result.trained}"
    figure.supxlabel(about, x=0.01, ha="left", fontsize=8, color=FAINT, parse_math=False)
    return to_png(figure, DPI, trimmed=True)


def _score_bars(axes: Axes, rows: Sequence[Row], colors: Sequence[str]) -> None:
    scores = [row.mIoU for row in rows]
    axes.barh(range(len(rows)), scores, height=0.62, color=colors)
    for place, score in enumerate(scores):
        axes.text(score, place, f" {score:.1f}", va="center", fontsize=10, color=INK)
    axes.set_xlim(0, max(1.18 * max(scores), 1))
    _style_bars(axes, [row.title for row in rows], "validation mIoU, %")


def _cost_bars(axes: Axes, result: Result) -> None:
    costs = [row.operations / 1e9 for row in result.rows]
    axes.barh(range(len(costs)), costs, height=0.62, color=COSTS)
    for place, (row, cost) in enumerate(zip(result.rows, costs, strict=True)):
        text = f" {cost:.2f}, {row.parameters / 1e6:.1f} M parameters"
        axes.text(0, place, text, va="center", fontsize=9, color=INK)
    axes.set_xlim(0, max(costs) * 1.05)
    _style_bars(axes, [""] * len(costs), "GMAC for a photo of {1} x {0}".format(*result.side))


def _style_bars(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.45, -0.55)
    plain_axes(axes, title, "x")
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=10)
    axes.spines["left"].set_visible(False)


def _curves(axes: Axes, result: Result, name: str) -> None:
    """Draw a line for each network, named at its end; costs on logarithmic scales."""
    from matplotlib.ticker import LogLocator

    (heading, unit, _), rows = CURVES[name], result.rows
    sides = sorted(rows[0].curves[name])
    lines = [[row.curves[name][side] / unit for side in sides] for row in rows]
    for place, (line, row, color) in enumerate(zip(lines, rows, cycle(COLORS), strict=False)):
        axes.plot(sides, line, color=color, linewidth=2.2 if place == 0 else 1.6, marker="o", markersize=4, zorder=3)
        if name == "mIoU_by_side":
            axes.plot(*zip(*row.curves["mIoU_in_windows"].items(), strict=True), "s", ms=8, mfc="white", mec=color)
    scale: Callable[[float], Any] = np.asarray
    if name == "mIoU_by_side":
        heading += f"; squares: in windows of {result.recipe.crop[1]} x {result.recipe.crop[0]}; dashed: in training"
        axes.axvline(min(result.side), color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1))
    else:
        scale = np.log10
        axes.set(xscale="log", yscale="log")
        wide = max(lines[-1]) >= 1000 * min(lines[-1])
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    powers = [side for side in sides if not side & (side - 1)]
    written = powers if len(sides) > 6 and len(powers) > 1 else sides  # more would run into each other
    axes.set_xticks(sides, [str(side) if side in written else "" for side in sides])
    axes.minorticks_off()
    plain_axes(axes, heading)
    name_lines(axes, [(row.title, line[-1]) for row, line in zip(rows, lines, strict=True)], COLORS, scale)
