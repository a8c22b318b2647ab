"""The pictures of a study: scores and costs as bars, curves over the image's side, and masks side by side.

Figures are drawn on their own canvas, without pyplot, so that nothing global is touched and no display is needed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.ablation.results import Result, Row
from terrazzo.interpret.figures import draw_field
from terrazzo.interpret.measures import area_holding, percent
from terrazzo.labels.spec import LabelSpec
from terrazzo.plotting import FAINT, GRID, INK, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from terrazzo.interpret.receptive_field import ReceptiveFields

__all__ = ["attention_png", "fields_png", "masks_png", "study_png"]

OTHERS = "#6d8fb5"
COLORS = ("#c2410c", "#1f5fa8", "#2f8f5b", "#8a63b8", "#7a7a7a")  # the paper's own first
DPI = 150
LINE = 0.062  # of a name beside a chart, of the chart's height


def study_png(result: Result) -> bytes:
    """Draw a study: the scores of its networks, and what they cost or how they fare at other sizes."""
    from matplotlib.figure import Figure

    first = result.rows[0]
    draw = _position if first.mIoU_by_side else _models if first.seconds_by_side else _bars
    figure = Figure(figsize=(10, 3.1 + 0.34 * len(result.rows)), layout="constrained")
    draw(figure, result)
    lines = textwrap.wrap(f"Claim: {result.claim}", 118)
    small = f"{result.data}. {result.trained}"
    figure.suptitle(
        "\n".join([result.title, *lines]), x=0.01, ha="left", fontsize=11, color=INK, parse_math=False, linespacing=1.4
    )
    figure.supxlabel(small, x=0.01, ha="left", fontsize=8, color=FAINT, parse_math=False)
    return to_png(figure, DPI, trimmed=True)


def attention_png(rows: Sequence[Row]) -> bytes:
    """Draw what attention costs against the side of the image, which takes counting and no training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    title = "Attention with and without sequence reduction in SegFormer-B0, by the ratios of its stages"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, parse_math=False)
    _curves(
        figure.subplots(),
        rows,
        lambda row: {side: count / 1e9 for side, count in row.attention_by_side.items()},
        "billions of multiply-accumulates in attention's two products, by the side of a square image",
        logarithmic=True,
    )
    return to_png(figure, DPI, trimmed=True)


def _bars(figure: Figure, result: Result) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    _score_bars(left, result.rows, (COLORS[0], *[OTHERS] * (len(result.rows) - 1)))
    _cost_bars(right, result)


def _position(figure: Figure, result: Result) -> None:
    figure.set_size_inches(12, 4.9)
    left, right = figure.subplots(1, 2, width_ratios=(5, 3))
    left.axvline(min(result.side), color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    _curves(
        left, result.rows, lambda row: row.mIoU_by_side, "validation mIoU, %, of whole photos by their shorter side"
    )
    left.annotate(
        "training's size,\non average",
        (min(result.side), 0),
        xytext=(5, 8),
        textcoords="offset points",
        fontsize=9,
        color=FAINT,
    )
    for place, (row, color) in enumerate(zip(result.rows, COLORS, strict=False)):
        for side, in_windows in row.mIoU_in_windows.items():
            whole = row.mIoU_by_side[side]
            right.plot([in_windows, whole], [place, place], color=color, linewidth=3, zorder=2)
            right.plot(in_windows, place, "s", ms=9, mfc="white", mec=color, mew=2, zorder=3)
            right.plot(whole, place, "o", ms=9, color=color, zorder=3)
            text = f"{in_windows:.1f} in windows, {whole:.1f} whole: {whole - in_windows:+.1f}"
            right.annotate(
                text,
                ((in_windows + whole) / 2, place),
                xytext=(0, 13),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                color=INK,
            )
    scores = [
        score
        for row in result.rows
        for side in row.mIoU_in_windows
        for score in (row.mIoU_in_windows[side], row.mIoU_by_side[side])
    ]
    middle, span = (min(scores) + max(scores)) / 2, max(max(scores) - min(scores), 4)
    right.set_xlim(middle - span, middle + span)
    right.set_yticks(range(len(result.rows)), [""] * len(result.rows))
    right.set_ylim(len(result.rows) - 0.4, -0.8)
    height, width = result.recipe.crop
    largest = max(result.rows[0].mIoU_in_windows)
    _style(right, f"mIoU at {largest}, in windows of {width} x {height} (squares) and whole (dots)")
    right.tick_params(axis="y", length=0)
    right.spines["left"].set_visible(False)


def _models(figure: Figure, result: Result) -> None:
    figure.set_size_inches(12, 8.6)
    (scores, operations), (seconds, memory) = figure.subplots(2, 2)
    _score_bars(scores, result.rows)
    for axes, name, unit, title in (
        (operations, "operations_by_side", 1e9, "counted operations, GMAC"),
        (seconds, "seconds_by_side", 1e-3, "time of one forward, milliseconds"),
        (memory, "memory_by_side", 1e6, "feature maps in memory at most, MB"),
    ):

        def curve(row: Row, name: str = name, unit: float = unit) -> dict[int, float]:
            return {side: value / unit for side, value in getattr(row, name).items()}

        _curves(axes, result.rows, curve, f"{title}, by the side of a square image", logarithmic=True)


# -- parts ------------------------------------------------------------------------------------------------------------


def _score_bars(axes: Axes, rows: Sequence[Row], colors: Sequence[str] = COLORS) -> None:
    scores = [row.mIoU for row in rows]
    axes.barh(range(len(rows)), scores, height=0.62, color=colors[: len(rows)])
    for place, score in enumerate(scores):
        axes.text(score, place, f" {score:.1f}", va="center", fontsize=10, color=INK)
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=10, parse_math=False)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, max(1.18 * max(scores), 1))
    _style(axes, "validation mIoU, %")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)


def _cost_bars(axes: Axes, result: Result) -> None:
    height, width = result.side
    costs = [row.operations / 1e9 for row in result.rows]
    axes.barh(range(len(costs)), costs, height=0.62, color="#b9c3cf")
    for place, (row, cost) in enumerate(zip(result.rows, costs, strict=True)):
        text = f" {cost:.2f}, {row.parameters / 1e6:.1f} M parameters"
        axes.text(0, place, text, va="center", fontsize=9, color=INK)
    axes.set_xlim(0, max(costs) * 1.05)
    _style(axes, f"GMAC for a photo of {width} x {height}")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _curves(
    axes: Axes,
    rows: Sequence[Row],
    curve: Callable[[Row], dict[int, float] | Any],
    title: str,
    logarithmic: bool = False,
) -> None:
    """Draw a line for each network, named at its end."""
    from matplotlib.ticker import LogLocator

    ends = []
    for place, row in enumerate(rows):
        values = curve(row)
        sides = sorted(values)
        heights = [values[side] for side in sides]
        color = COLORS[place % len(COLORS)]
        axes.plot(sides, heights, color=color, linewidth=2.2 if place == 0 else 1.6, marker="o", markersize=4, zorder=3)
        ends.append((heights[-1], row.title, color))
    if logarithmic:
        axes.set_yscale("log")
        axes.set_xscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(heights) < 1000 * min(heights) else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1))
    powers = [side for side in sides if not side & (side - 1)]
    written = powers if len(sides) > 6 and len(powers) > 1 else sides  # more would run into each other
    axes.set_xticks(sides, [str(side) if side in written else "" for side in sides])
    axes.minorticks_off()
    # Names keep a line's height from each other, in the order of the lines' ends.
    scale = np.log10 if logarithmic else np.asarray
    low, high = (float(scale(limit)) for limit in axes.get_ylim())
    places = [(float(scale(end)) - low) / (high - low) for end, _, _ in ends]
    order = sorted(range(len(ends)), key=places.__getitem__)
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + LINE)
    places[order[-1]] = min(places[order[-1]], 1 - LINE / 2)
    for above, below in pairwise(order[::-1]):
        places[below] = min(places[below], places[above] - LINE)
    for height, (_, name, color) in zip(places, ends, strict=True):
        axes.annotate(
            name,
            (1.01, height),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            color=color,
            annotation_clip=False,
            parse_math=False,
        )
    _style(axes, title)
    axes.grid(axis="y", color=GRID, linewidth=0.8)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")


# -- masks ------------------------------------------------------------------------------------------------------------


def masks_png(
    rows: Sequence[Sequence[NDArray[np.uint8]]], headings: Sequence[str], title: str, labels: LabelSpec
) -> bytes:
    """Draw pictures side by side, with the classes' colours below.

    Args:
        rows: of each photo, (H, W, 3) RGB: the photo, its label, and what networks made of it.
        headings: of the columns.
        title: what is compared.
        labels: the classes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = len(headings)
    height, width = rows[0][0].shape[:2]
    figure = Figure(figsize=(3.2 * columns, 1.1 + 3.2 * len(rows) * height / width), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for place, (line, row) in enumerate(zip(grid, rows, strict=True)):
        for axes, picture, heading in zip(line, row, headings, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if place == 0:
                axes.set_title(heading, loc="left", fontsize=10, color=INK, parse_math=False)
    masks = [mask for row in rows for mask in row[1:]]
    seen = {tuple(color) for mask in masks for color in np.unique(mask.reshape(-1, 3), axis=0).tolist()}
    handles = [
        Patch(facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), edgecolor="#808080", label=name)
        for name, color in zip(labels.names, labels.palette, strict=True)
        if tuple(color) in seen
    ]
    figure.legend(
        handles=handles[:24], loc="outside lower left", ncols=min(len(handles), 8) or 1, frameon=False, fontsize=9
    )
    return to_png(figure, DPI, trimmed=True)


# -- receptive fields -------------------------------------------------------------------------------------------------


def fields_png(networks: Sequence[ReceptiveFields]) -> bytes:
    """Draw networks side by side: the field of the encoder's last map above, that of the logits below."""
    from matplotlib.figure import Figure

    height, width = networks[0].fields[0].share_HW.shape
    figure = Figure(figsize=(2.6 * len(networks), 1.05 + 5.4 * height / width), layout="constrained")
    over = f"mean of {networks[0].photos} photos, window of {width} x {height} pixels"
    figure.suptitle(
        "What the middle of the result depends on: effective receptive fields\n"
        f"{over}; on a logarithmic scale, with 50% (white) and 95% (blue) of all contributions inside the lines",
        x=0.01,
        ha="left",
        fontsize=11,
        color=INK,
        linespacing=1.4,
    )
    grid = figure.subplots(2, len(networks), squeeze=False)
    for column, network in enumerate(networks):
        for line, (field, what) in enumerate(zip(network.fields[-2:], ("last map", "result"), strict=True)):
            axes = grid[line, column]
            draw_field(axes, field)
            axes.set_aspect("equal")
            held = percent(area_holding(field.share_HW, 0.5))
            name = f"{network.model}\n" if line == 0 else ""
            axes.set_title(f"{name}{what}: 50% in {held}", loc="left", fontsize=9, color=INK, parse_math=False)
    return to_png(figure, DPI, trimmed=True)
