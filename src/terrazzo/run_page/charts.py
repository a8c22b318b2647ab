"""Charts as inline SVG: curves over the epochs, bars, and the confusion matrix. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from terrazzo.plotting import clipped

__all__ = ["Color", "bar", "confusion_matrix", "curve", "swatch"]

Color = Sequence[int]

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 30
NAMED_CLASSES = 40  # up to so many, the confusion matrix has names and numbers
CELL = 26
LETTER = 6.6  # width of a letter


def curve(epochs: Sequence[float], values: Sequence[float], title: str, best: float | None = None) -> str:
    """Draw values over the epochs, leaving out what is no number, with the best epoch marked.

    Args:
        epochs: of each value.
        values: what is drawn.
        title: what it is.
        best: an epoch to mark.
    """
    points = [(x, y) for x, y in zip(epochs, values, strict=True) if math.isfinite(y)]
    if not points:
        return f'<p class="soft">{escape(title)}: no value yet.</p>'
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        _, y_ = place(first, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_:.1f}" y2="{y_:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y_ + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for epoch in sorted({round(first + (last - first) * k / 5) for k in range(6)}):
        x_, _ = place(epoch, low)
        parts.append(f'<text class="tick" x="{x_:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{epoch}</text>')
    if best is not None:
        x_, _ = place(best, low)
        parts.append(f'<line class="best" x1="{x_:.1f}" x2="{x_:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    drawn = [place(x, y) for x, y in points]
    line = " ".join(f"{x_:.1f},{y_:.1f}" for x_, y_ in drawn)
    parts.append(f'<polyline class="line" points="{line}"/>')
    radius = 3 if len(points) <= 60 else 1.2
    for (x, y), (x_, y_) in zip(points, drawn, strict=True):
        told = f"epoch {x:g}: {_number(y)}"
        parts.append(f'<circle class="dot" cx="{x_:.1f}" cy="{y_:.1f}" r="{radius}"><title>{told}</title></circle>')
    return "".join([*parts, "</svg>"])


def bar(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Draw a percentage as a bar, and its confidence interval, where there is one, as a line over it."""
    if value is None:
        return ""
    whisker = ""
    if low is not None and high is not None:
        whisker = f'<line class="whisker" x1="{low:.2f}" x2="{high:.2f}" y1="5" y2="5"/>'
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="10"/><rect class="fill" width="{value:.2f}" height="10"/>'
        f"{whisker}</svg>"
    )


def swatch(color: Color) -> str:
    """Draw a small square in a class's colour."""
    return (
        '<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect width="10" height="10" rx="2" fill="{_hex(color)}"/></svg>'
    )


def confusion_matrix(counts_KK: NDArray[np.int64], names: Sequence[str]) -> str:
    """Draw a confusion matrix, each row in per cent of the label's pixels; numbers and names where they fit."""
    K = len(names)
    total_K = counts_KK.sum(1)
    share_KK = 100 * counts_KK / np.maximum(total_K, 1)[:, None]
    named = K <= NAMED_CLASSES
    cell = CELL if named else max(600 // K, 2)
    shown = [clipped(name, 22) for name in names]
    left = max(map(len, shown)) * LETTER + 10 if named else 4
    side = cell * K
    width, height = left + side + 4, side + left + 4
    parts = [
        f'<svg class="matrix" width="{width:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        'aria-label="confusion matrix">'
        f'<rect class="rail" x="{left:.1f}" y="0" width="{side}" height="{side}"/>'
    ]
    for row, column in zip(*np.nonzero(share_KK >= (0.5 if named else 1)), strict=True):
        share = float(share_KK[row, column])
        told = f"{names[row]} taken for {names[column]}: {share:.1f}%"
        kind = "right" if row == column else "wrong"
        x, y = left + column * cell, row * cell
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
            f'fill-opacity="{(share / 100) ** 0.6:.2f}"><title>{escape(told)}</title></rect>'
        )
        if named:
            strong = " strong" if share > 45 else ""
            text = f'class="cell{strong}" x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 3.5:.1f}"'
            parts.append(f'<text {text} text-anchor="middle">{share:.0f}</text>')
    if named:
        for k, name in enumerate(shown):
            middle = k * cell + cell / 2
            parts.append(
                f'<text class="name" x="{left - 6:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            )
            at = f"{left + middle + 4:.1f} {side + 6}"
            parts.append(
                f'<text class="name" transform="translate({at}) rotate(-90)" text-anchor="end">{escape(name)}</text>'
            )
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below the lowest value to above the highest, four to seven of them."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _hex(color: Color) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in color[:3])
