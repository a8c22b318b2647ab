"""The pictures of a study: scores and costs as bars, curves over the image's side, and masks side by side.

Figures are drawn without pyplot, which has global state and may need a display.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice, pairwise
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
COLORS = (
    "#c2410c", "#1f5fa8", "#2f8f5b", "#8a63b8", "#7a7a7a", "#d98c00", "#00838f", "#ad1457", "#5d4037", "#827717",
)  # fmt: skip
"""Of the networks, the paper's own first; more of them begin again."""
DPI = 150
LINE = 0.062  # of a name beside a chart, of the chart's height
FIELDS_IN_A_ROW = 7
PLAIN: dict[str, Any] = {"color": INK, "parse_math": False}


def study_png(result: Result) -> bytes:
    """Draw a study: the scores of its networks, and what they cost or how they fare at other sizes."""
    first = result.rows[0]
    draw = _sizes if first.mIoU_by_side else _resources if first.seconds_by_side else _bars
    title = "\n".join([result.title, *textwrap.wrap(f"Claim: {result.claim}", 118)])
    figure = _figure((10, 3.1 + 0.34 * len(result.rows)), title, linespacing=1.4)
    draw(figure, result)
    about = f"{result.data}. {result.trained}"
    figure.supxlabel(about, x=0.01, ha="left", fontsize=8, color=FAINT, parse_math=False)
    return to_png(figure, DPI, trimmed=True)


def attention_png(rows: Sequence[Row]) -> bytes:
    """Draw the cost of attention against the side of the image. It is counted, so no network is trained for it."""
    figure = _figure(
        (9, 5), "Attention with and without sequence reduction in SegFormer-B0, by the ratios of its stages"
    )
    heading = "billions of multiply-accumulates in attention's two products, by the side of a square image"
    _curves(figure.subplots(), rows, lambda row: row.attention_by_side, heading, unit=1e9, logarithmic=True)
    return to_png(figure, DPI, trimmed=True)


def _bars(figure: Figure, result: Result) -> None:
    rows = result.rows
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    _score_bars(left, rows, (COLORS[0], *[OTHERS] * (len(rows) - 1)))
    costs = [row.operations / 1e9 for row in rows]
    right.barh(range(len(costs)), costs, height=0.62, color="#b9c3cf")
    for place, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        text = f" {cost:.2f}, {row.parameters / 1e6:.1f} M parameters"
        right.text(0, place, text, va="center", fontsize=9, color=INK)
    right.set_xlim(0, max(costs) * 1.05)
    _style(right, "GMAC for a photo of {1} x {0}".format(*result.side))
    right.tick_params(axis="y", length=0)
    right.spines["left"].set_visible(False)


def _sizes(figure: Figure, result: Result) -> None:
    rows, training = result.rows, min(result.side)
    figure.set_size_inches(12, max(4.9, 0.45 * len(rows)))
    left, right = figure.subplots(1, 2, width_ratios=(5, 3))
    left.axvline(training, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    heading = "validation mIoU, %, of whole photos by their shorter side"
    _curves(left, rows, lambda row: row.mIoU_by_side, heading)
    below: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "color": FAINT}
    left.annotate("training's size,\non average", (training, 0), xytext=(5, 8), **below)
    above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9.5, "color": INK}
    (largest,) = rows[0].mIoU_in_windows
    pairs = [(row.mIoU_in_windows[largest], row.mIoU_by_side[largest]) for row in rows]
    for place, ((in_windows, whole), color) in enumerate(zip(pairs, cycle(COLORS))):
        right.plot([in_windows, whole], [place, place], color=color, linewidth=3, zorder=2)
        right.plot(in_windows, place, "s", ms=9, mfc="white", mec=color, mew=2, zorder=3)
        right.plot(whole, place, "o", ms=9, color=color, zorder=3)
        text = f"{in_windows:.1f} in windows, {whole:.1f} whole: {whole - in_windows:+.1f}"
        right.annotate(text, ((in_windows + whole) / 2, place), xytext=(0, 13), **above)
    low, high = min(map(min, pairs)), max(map(max, pairs))
    middle, span = (low + high) / 2, max(high - low, 4)
    right.set_xlim(middle - span, middle + span)
    right.set_yticks(range(len(rows)), [""] * len(rows))
    right.set_ylim(len(rows) - 0.4, -0.8)
    window = "{1} x {0}".format(*result.recipe.crop)
    _style(right, f"mIoU at {largest}, in windows of {window} (squares) and whole (dots)")
    right.tick_params(axis="y", length=0)
    right.spines["left"].set_visible(False)


def _resources(figure: Figure, result: Result) -> None:
    rows = result.rows
    figure.set_size_inches(12, max(8.6, 0.6 * len(rows)))
    scores, *axes = figure.subplots(2, 2).ravel()
    _score_bars(scores, rows, [*islice(cycle(COLORS), len(rows))])
    by = "by the side of a square image"
    for place, curve, unit, heading in (
        (axes[0], lambda row: row.operations_by_side, 1e9, f"counted operations, GMAC, {by}"),
        (axes[1], lambda row: row.seconds_by_side, 1e-3, f"time of one forward, milliseconds, {by}"),
        (axes[2], lambda row: row.memory_by_side, 1e6, f"feature maps in memory at most, MB, {by}"),
    ):
        _curves(place, rows, curve, heading, unit=unit, logarithmic=True)


# -- parts ------------------------------------------------------------------------------------------------------------


def _figure(size: tuple[float, float], title: str, points: float = 11, **style: Any) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=points, **PLAIN, **style)
    return figure


def _score_bars(axes: Axes, rows: Sequence[Row], colors: Sequence[str]) -> None:
    scores = [row.mIoU for row in rows]
    axes.barh(range(len(rows)), scores, height=0.62, color=colors)
    for place, score in enumerate(scores):
        axes.text(score, place, f" {score:.1f}", va="center", fontsize=10, color=INK)
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=10, parse_math=False)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, max(1.18 * max(scores), 1))
    _style(axes, "validation mIoU, %")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)


def _curves(
    axes: Axes,
    rows: Sequence[Row],
    curve: Callable[[Row], Mapping[int, float]],
    heading: str,
    *,
    unit: float = 1.0,
    logarithmic: bool = False,
) -> None:
    """Draw a line for each network, named at its end."""
    from matplotlib.ticker import LogLocator

    sides, ends = sorted(curve(rows[0])), []
    for place, row in enumerate(rows):
        heights = [curve(row)[side] / unit for side in sides]
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
    order, line = sorted(range(len(ends)), key=places.__getitem__), min(LINE, 1 / len(ends))
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + line)
    places[order[-1]] = min(places[order[-1]], 1 - line / 2)
    for above, below in pairwise(order[::-1]):
        places[below] = min(places[below], places[above] - line)
    beside: dict[str, Any] = {"xycoords": "axes fraction", "va": "center", "fontsize": 9, "annotation_clip": False}
    for height, (_, name, color) in zip(places, ends, strict=True):
        axes.annotate(name, (1.01, height), color=color, parse_math=False, **beside)
    _style(axes, heading)
    axes.grid(axis="y", color=GRID, linewidth=0.8)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")


# -- pictures ---------------------------------------------------------------------------------------------------------


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
    from matplotlib.patches import Patch

    (height, width), columns = rows[0][0].shape[:2], len(headings)
    figure = _figure((3.2 * columns, 1.1 + 3.2 * len(rows) * height / width), title, 12)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, picture in zip(grid.ravel(), (picture for row in rows for picture in row), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, loc="left", fontsize=10, **PLAIN)
    masks = [mask for row in rows for mask in row[1:]]
    seen = {tuple(color) for mask in masks for color in np.unique(mask.reshape(-1, 3), axis=0).tolist()}
    handles = [
        Patch(facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), edgecolor="#808080", label=name)
        for name, color in zip(labels.names, labels.palette, strict=True)
        if tuple(color) in seen
    ]
    below: dict[str, Any] = {"loc": "outside lower left", "frameon": False, "fontsize": 9}
    figure.legend(handles=handles[:24], ncols=min(len(handles), 8) or 1, **below)
    return to_png(figure, DPI, trimmed=True)


def fields_png(networks: Sequence[ReceptiveFields]) -> bytes:
    """Draw networks side by side: the field of the encoder's last map above, that of the logits below."""
    height, width = networks[0].fields[0].share_HW.shape
    title = (
        "What the middle of the result depends on: effective receptive fields\n"
        f"mean of {networks[0].images} photos, window of {width} x {height} pixels; on a logarithmic scale, with 50% "
        "(white) and 95% (blue) of all contributions inside the lines"
    )
    bands, columns = -(-len(networks) // FIELDS_IN_A_ROW), min(len(networks), FIELDS_IN_A_ROW)
    figure = _figure((2.6 * columns, 1.05 + bands * 5.4 * height / width), title, linespacing=1.4)
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, network in enumerate(networks):
        band, column = divmod(number, columns)
        places = grid[2 * band : 2 * band + 2, column]
        for axes, field, what in zip(places, network.fields[-2:], ("last map", "result"), strict=True):
            axes.set_axis_on()
            draw_field(axes, field)
            axes.set_aspect("equal")
            name = f"{network.model}\n" if what == "last map" else ""
            held = percent(area_holding(field.share_HW, 0.5))
            axes.set_title(f"{name}{what}: 50% in {held}", loc="left", fontsize=9, **PLAIN)
    return to_png(figure, DPI, trimmed=True)
