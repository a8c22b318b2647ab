"""The pictures of a run: curves over the epochs, and a sheet of photos, labels, predictions and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data import Dataset
from terrazzo.evaluation.confusion import score_text
from terrazzo.inference.predictor import Predictor
from terrazzo.plotting import INK, clipped, plain_axes, to_png
from terrazzo.sheet import PAPER, Color, Picture, Row, class_legend, contact_sheet, drawable, fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["choose_images", "curves_png", "sheet_png"]

LINE, BEST = "#1f5fa8", "#c2410c"
WRONG: Color = (230, 30, 45)

SMALLEST_SPAN = 5.0  # mIoU points on the axis: a difference of a tenth must not look like a fall
SHEET_IMAGES = 8

# -- curves -----------------------------------------------------------------------------------------------------------


def curves_png(rows: list[dict[str, Any]], title: str) -> bytes:
    """Draw loss, validation mIoU and learning rate over the epochs, one above the other, with the best epoch marked.

    Args:
        rows: the log's rows, at least one.
        title: what was trained on what.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    scored = [row for row in rows if "mIoU" in row]
    best = max(scored, key=lambda row: float(row["mIoU"]), default=None)
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    found = f"\nbest mIoU {score_text(best['mIoU'])} after epoch {best['epoch']} of {last}" if best else ""
    figure = Figure(figsize=(8, 7), layout="constrained")
    figure.suptitle(f"{title}{found}", x=0.015, ha="left", fontsize=12, color=INK, parse_math=False)
    loss_axes, score_axes, rate_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    _curve(loss_axes, rows, "loss", "training loss")
    _curve(score_axes, scored, "mIoU", "validation mIoU, %")
    _curve(rate_axes, rows, "lr", "learning rate")
    for axes, key in ((loss_axes, "loss"), (rate_axes, "lr")):
        axes.set_ylim(0, 1.08 * max((row[key] for row in rows if np.isfinite(row[key])), default=1) or 1)
    for axes, reason in zip((loss_axes, score_axes), _reasons(rows, scored), strict=True):
        axes.text(0.99, 0.04, reason, transform=axes.transAxes, ha="right", fontsize=10, color=INK)
    if len(scored) < 2:
        score_axes.set_ylim(0, 100)
    else:
        low, high = min(row["mIoU"] for row in scored), max(row["mIoU"] for row in scored)
        room = max(SMALLEST_SPAN - (high - low), 0.16 * (high - low)) / 2
        score_axes.set_ylim(max(low - room, 0), high + room)
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    rate_axes.set_xlabel("epoch", color=INK)
    rate_axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    margin = max(0.02 * (last - first), 0.3)
    rate_axes.set_xlim(first - margin, last + margin)
    if best:
        for axes in (loss_axes, score_axes, rate_axes):
            axes.axvline(best["epoch"], color=BEST, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        score_axes.plot(best["epoch"], best["mIoU"], "o", ms=8, mfc="white", mec=BEST, mew=2, zorder=4, clip_on=False)
    return to_png(figure, 150)


def _reasons(rows: list[dict[str, Any]], scored: list[dict[str, Any]]) -> tuple[str, str]:
    """Why there is less to see than curves: of the loss, and of the scores."""
    one = "one epoch: a point, not yet a curve" if len(rows) == 1 else ""
    broken = sum(not np.isfinite(row["loss"]) for row in rows)
    loss = f"not a number in {broken} of {len(rows)} epochs: the run diverged" if broken else one
    once = f"validated once, after epoch {scored[0]['epoch']}" if len(scored) == 1 else ""
    return loss, one if one and scored else once if scored else "never validated"


def _curve(axes: Axes, rows: list[dict[str, Any]], key: str, name: str) -> None:
    marker = "o" if len(rows) <= 40 else None
    epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
    axes.plot(epochs, values, color=LINE, linewidth=1.6, marker=marker, markersize=3.5, zorder=3, clip_on=False)
    plain_axes(axes, name)


# -- predictions ------------------------------------------------------------------------------------------------------


def sheet_png(predictor: Predictor, val: Dataset, scores: list[float], title: str) -> bytes:
    """Draw photos beside their labels, predictions and errors: from the best to the worst, evenly spaced by score.

    Args:
        predictor: the model.
        val: the labelled photos.
        scores: each photo's mIoU, NaN where nothing is labelled.
        title: what was trained on what.
    """
    labels, chosen = val.labels, choose_images(scores)
    rows, pixels = list[Row](), np.zeros(labels.ignore_index + 1, np.int64)
    flat: list[str] = []  # the class of each prediction that has only one, where the label has more
    for place, index in enumerate(chosen):
        bands, label = val.read(index)
        (prediction,) = predictor.masks([bands])
        image = predictor.preprocess.as_rgb(bands)
        for mask in (label, prediction):
            pixels += np.bincount(mask.ravel(), minlength=len(pixels))
        labelled = label != labels.ignore_index
        wrong = labelled & (label != prediction)
        rank = "" if len(chosen) == 1 else {0: "best: ", len(chosen) - 1: "worst: "}.get(place, "")
        text = f"mIoU {score_text(scores[index])}, {wrong.sum() / labelled.sum():.1%} of pixels wrong"
        if (only := _only_class(prediction, labels.names)) and wrong.any():
            flat.append(only)
            text = f"nothing but {only} is predicted; {text}"
        masks = [fitted(labels.colorize(mask), smooth=False) for mask in (label, prediction)]
        pictures = [fitted(image), *masks, fitted(_errors(image, labelled, wrong))]
        rows.append(Row(rank + drawable(val.samples[index].image.name), text, pictures))
    legend = class_legend(labels, pixels)
    which = f"{len(chosen)} of {len(val)} photos" if len(chosen) < len(val) else f"all {len(val)} photos"
    if len(flat) == len(rows) > 0 and len(set(flat)) == 1:
        which += ", one class everywhere (train longer, or lower the learning rate)"
    if not rows:
        legend, which = [("no photo has a labelled pixel", PAPER)], f"none of {len(val)} photos"
    told = f"{title}: {which}, from the best mIoU to the worst"
    return contact_sheet(rows, ("photo", "label", "prediction", "errors in red"), legend, told)


def choose_images(scores: list[float], most: int = SHEET_IMAGES) -> list[int]:
    """Return the places of at most `most` photos: the best, the worst, and others evenly spaced by rank between."""
    ranked = sorted((place for place, value in enumerate(scores) if not np.isnan(value)), key=lambda k: -scores[k])
    picks = np.linspace(0, len(ranked) - 1, min(most, len(ranked))).round().astype(int)
    return [ranked[pick] for pick in picks]


def _only_class(mask: NDArray[Any], names: Sequence[str]) -> str:
    """The one class of a mask that has no other; such masks are one flat colour, often black."""
    first = int(mask.flat[0])
    return clipped(names[first], 24) if first < len(names) and (mask == first).all() else ""


def _errors(image_HW3: Picture, labelled_HW: NDArray[np.bool_], wrong_HW: NDArray[np.bool_]) -> Picture:
    """Return the photo in pale grey, dark where nothing is labelled, and wrong pixels in red."""
    grey_HW = image_HW3.mean(axis=2)
    picture_HW3 = np.repeat(np.where(labelled_HW, 150 + 0.4 * grey_HW, 20 + 0.35 * grey_HW)[..., None], 3, axis=2)
    picture_HW3[wrong_HW] = WRONG
    return picture_HW3.astype(np.uint8)
