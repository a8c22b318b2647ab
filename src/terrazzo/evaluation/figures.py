"""The pictures of an evaluation: IoU of every class, the confusion matrix, and masks of several models side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.evaluation.calibration import CalibrationMetrics
from terrazzo.evaluation.confusion import IntArray, Metrics, score_text
from terrazzo.labels.spec import LabelSpec
from terrazzo.plotting import FAINT, GRID, INK, clipped, plain_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["confusion_png", "differences_png", "masks_png", "per_class_png", "reliability_png"]

_ROWS_PER_COLUMN = 50
_MOST_ANNOTATED = 20


def per_class_png(
    labels: LabelSpec,
    metrics: Metrics,
    boundary_iou_K: NDArray[np.float64] | None,
    intervals_K2: NDArray[np.float64] | None,
    subject: str,
    summary: str,
) -> bytes:
    """Draw the IoU of every class as a bar in the class's colour, best first, with its interval and boundary IoU on it.

    Args:
        labels: names and colours.
        metrics: in percent.
        boundary_iou_K: boundary IoU in percent, or None where it was not measured.
        intervals_K2: lower and upper ends of the IoUs' confidence intervals, or None.
        subject: what was evaluated on what; the title's first line.
        summary: the means; its second line.
    """
    from matplotlib.figure import Figure

    order = sorted(range(labels.num_classes), key=lambda k: _rank(float(metrics.iou[k]), k))
    columns = math.ceil(len(order) / _ROWS_PER_COLUMN)
    rows = math.ceil(len(order) / columns)
    width, height = 1.2 + 5.8 * columns, 1.35 + 0.27 * max(rows, 3)  # inches
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(_title(subject, summary, width), x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    all_axes = figure.subplots(1, columns, squeeze=False)[0]
    for column, axes in enumerate(all_axes):
        _draw_bars(
            axes, labels, metrics, boundary_iou_K, intervals_K2, order[column * rows : (column + 1) * rows], rows
        )
    handles, names = all_axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower right", ncols=len(names), frameon=False, fontsize=9)
    return to_png(figure, 150, trimmed=True)


def confusion_png(labels: LabelSpec, confusion_KK: IntArray, subject: str, summary: str) -> bytes:
    """Draw where the pixels of each class went: every row, a class of the labels, adds up to 100%.

    Args:
        labels: names.
        confusion_KK: pixel counts; row = label, column = prediction.
        subject: what was evaluated on what; the title's first line.
        summary: the means; its second line.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    K = labels.num_classes
    pixels = confusion_KK.sum(1)
    share_KK = 100.0 * confusion_KK / np.maximum(pixels, 1)[:, None]
    shown_KK = np.ma.masked_array(share_KK, np.broadcast_to((pixels == 0)[:, None], (K, K)))

    annotated = K <= _MOST_ANNOTATED
    cell = max(0.52, 3.4 / K) if annotated else max(0.125, 0.3 - 0.003 * (K - _MOST_ANNOTATED))  # inches
    small = 10.0 if annotated else min(9.0, 0.8 * cell * 72)  # points
    side = cell * K
    width = side + 0.4
    # The axes fill the figure; names and titles lie outside, and saving makes room for them.
    figure = Figure(figsize=(width, side))
    axes = figure.add_axes((0, 0, side / width, 1))
    axes.set_title(_title(subject, summary, width), loc="left", fontsize=12, color=INK, pad=12, parse_math=False)
    # The square root brings out the small confusions, which are what one looks for.
    image = axes.imshow(shown_KK, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    axes.set_facecolor("#e4e4e4")
    names = [clipped(name) for name in labels.names]
    fits = 0.6 * small * max(map(len, names)) < 72 * cell
    angle, anchor = (0, "center") if fits else (40, "right") if annotated else (90, "right")
    axes.set_xticks(range(K), names, fontsize=small, parse_math=False)
    for label in axes.get_xticklabels():
        label.set(rotation=angle, ha=anchor, va="top" if fits else "center", rotation_mode="anchor")
    axes.set_yticks(range(K), names, fontsize=small, parse_math=False)
    axes.set_xticks(np.arange(K + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(K + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2 if annotated else 0.3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("prediction", fontsize=11, color=INK)
    axes.set_ylabel("label", fontsize=11, color=INK)
    for row in np.flatnonzero(pixels == 0).tolist():
        axes.text((K - 1) / 2, row, "absent from labels", ha="center", va="center", fontsize=0.9 * small, color=FAINT)
    if annotated:
        for row, column in zip(*np.nonzero(~shown_KK.mask & (share_KK >= 0.5)), strict=True):
            share = share_KK[row, column]
            color = "white" if share > 40 else INK
            text = score_text(share) if K <= 4 else f"{share:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9.5, color=color)
    bar_height = min(1.0, 4 / side)
    bar_axes = figure.add_axes((1 - 0.2 / width, 0.5 - bar_height / 2, 0.2 / width, bar_height))
    bar = figure.colorbar(image, cax=bar_axes, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("% of the label's pixels", color=INK)
    bar.outline.set_visible(False)
    return to_png(figure, 150, trimmed=True)


def reliability_png(found: CalibrationMetrics, subject: str) -> bytes:
    """Draw the reliability diagram: share of right pixels over the probability of the class given, in bins.

    On the diagonal the model is as often right as it is sure; below it, it is too sure. A histogram below shows how
    many pixels each bin has.
    """
    from matplotlib.figure import Figure

    bins = len(found.share_B)
    figure = Figure(figsize=(5.6, 6.2), layout="constrained")
    at = "" if found.temperature == 1 else f"   temperature {found.temperature:.3f}"
    summary = f"ECE {score_text(found.ece)}   NLL {found.nll:.3f}{at}"
    figure.suptitle(_title(subject, summary, 5.6), x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left_B = np.arange(bins) * 100 / bins
    width = 100 / bins
    known = ~np.isnan(found.accuracy_B)
    upper.plot([0, 100], [0, 100], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
    upper.bar(left_B[known], found.accuracy_B[known], width, align="edge", color="#8fb4d9", edgecolor="white")
    upper.plot(found.confidence_B[known], found.accuracy_B[known], "o-", color="#1f5fa8", ms=4, label="measured")
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    upper.set(xlim=(0, 100), ylim=(0, 100))
    plain_axes(upper, "right pixels, %")
    lower.bar(left_B, np.nan_to_num(found.share_B), width, align="edge", color="#b9b9b9", edgecolor="white")
    plain_axes(lower, "pixels, %", grid="y")
    lower.set_xlabel("probability of the class given, %", color=INK)
    return to_png(figure, 150, trimmed=True)


def differences_png(
    labels: LabelSpec, difference_K: NDArray[np.float64], intervals_K2: NDArray[np.float64], subject: str, summary: str
) -> bytes:
    """Draw how far the IoU of each class lies apart between two models, with intervals, the largest gain first.

    Args:
        labels: names.
        difference_K: in points of IoU; NaN where a model has none.
        intervals_K2: lower and upper ends; NaN where there is none.
        subject: the models; the title's first line.
        summary: the difference of the means; its second line.
    """
    from matplotlib.figure import Figure

    order = [k for k in np.argsort(-np.nan_to_num(difference_K), kind="stable") if not np.isnan(difference_K[k])]
    figure = Figure(figsize=(8, 1.35 + 0.27 * max(len(order), 3)), layout="constrained")
    figure.suptitle(_title(subject, summary, 8), x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.9)
    for row, k in enumerate(order):
        low, high = intervals_K2[k]
        shown = low > 0 or high < 0  # NaN is neither
        color = "#1f5fa8" if shown else "#9a9a9a"
        axes.plot([low, high], [row, row], "-|", color=color, linewidth=1.6, ms=7)
        axes.plot(difference_K[k], row, "o", color=color, ms=6)
    axes.set_yticks(range(len(order)), [clipped(labels.names[k]) for k in order], fontsize=9.5, parse_math=False)
    axes.set_ylim(len(order) - 0.4, -0.6)
    plain_axes(axes, grid="x")
    axes.set_xlabel("IoU of B less IoU of A, points; grey where the interval holds 0", color=INK)
    return to_png(figure, 150, trimmed=True)


def masks_png(rows: Sequence[Sequence[NDArray[Any]]], headings: Sequence[str], labels: LabelSpec) -> bytes:
    """Draw photos, their labels and the masks of several models side by side, with the classes' colours below.

    Args:
        rows: of each photo, the (H, W, 3) RGB photo, then (H, W) masks: its label, and what the models predict.
        headings: of the columns.
        labels: the classes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    (height, width), columns = rows[0][0].shape[:2], len(headings)
    figure = Figure(figsize=(3.2 * columns, 0.8 + 3.2 * len(rows) * height / width), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (image, *masks) in zip(grid, rows, strict=True):
        for axes, picture in zip(line, (image, *map(labels.colorize, masks)), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, loc="left", fontsize=10, color=INK, parse_math=False)
    seen = {int(k) for _, *masks in rows for mask in masks for k in np.unique(mask)}
    handles = [
        Patch(facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), edgecolor="#808080", label=name)
        for k, (name, color) in enumerate(zip(labels.names, labels.palette, strict=True))
        if k in seen
    ]
    below: dict[str, Any] = {"loc": "outside lower left", "frameon": False, "fontsize": 9}
    figure.legend(handles=handles[:24], ncols=min(len(handles), 8) or 1, **below)
    return to_png(figure, 150, trimmed=True)


def _draw_bars(
    axes: Axes,
    labels: LabelSpec,
    metrics: Metrics,
    boundary_iou_K: NDArray[np.float64] | None,
    intervals_K2: NDArray[np.float64] | None,
    classes: list[int],
    rows: int,
) -> None:
    for row, k in enumerate(classes):
        known, labelled = not np.isnan(metrics.iou[k]), metrics.label_pixels[k] > 0
        end = metrics.iou[k] if known else 0.0
        color = [channel / 255 for channel in labels.palette[k]]
        axes.barh(row, end, height=0.74, color=color, edgecolor="#555555", linewidth=0.6)
        text = score_text(metrics.iou[k]) if known else "absent from labels"
        if known and not labelled:
            text += "  absent from labels, but predicted"
        if labelled and boundary_iou_K is not None:
            mark = boundary_iou_K[k]
            name = "boundary IoU" if row == 0 else None
            axes.plot(mark, row, "D", ms=4.5, mfc="white", mec="black", mew=0.9, label=name, clip_on=False)
            end = max(end, mark + 0.8)
        if known and intervals_K2 is not None and not np.isnan(intervals_K2[k]).any():
            low, high = intervals_K2[k]
            axes.plot([low, high], [row, row], "-|", color="white", linewidth=3.0, ms=8, mew=3.0, clip_on=False)
            whisker = axes.plot([low, high], [row, row], "-|", color=INK, linewidth=1.1, ms=6, clip_on=False)[0]
            whisker.set_label("95% interval" if row == 0 else f"_{k}")
            end = max(end, high + 0.4)
        background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        axes.text(end + 1.2, row, text, va="center", fontsize=9, color=INK if known else FAINT, bbox=background)
    axes.set_yticks(range(len(classes)), [clipped(labels.names[k]) for k in classes], fontsize=9.5, parse_math=False)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, 109)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("IoU, %", color=INK)
    if not np.isnan(metrics.mIoU):
        axes.axvline(metrics.mIoU, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0, label="mIoU")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _rank(iou: float, k: int) -> tuple[bool, float, int]:
    """Best class first, classes without a number last."""
    return math.isnan(iou), 0.0 if math.isnan(iou) else -iou, k


def _title(subject: str, summary: str, width: float) -> str:
    """Subject and means; of a long path, the end, which says most. `width` is in inches."""
    longest = max(45, int(9.5 * width))
    return f"{subject if len(subject) <= longest else '…' + subject[1 - longest :]}\n{summary}"
