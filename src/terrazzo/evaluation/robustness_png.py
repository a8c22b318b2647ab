"""The chart of a model's robustness: what each corruption leaves of its mIoU, and its calibration error beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terrazzo.plotting import FAINT, INK, plain_axes, to_png

__all__ = ["robustness_png"]

BAR, DOT = "#8fb4d9", "#17406d"


def robustness_png(
    rows: Sequence[tuple[str, float, float, Sequence[float]]],
    clean_mIoU: float,
    clean_ece: float,
    subject: str,
    means: tuple[float, float, float],
) -> bytes:
    """Draw retention as a bar with a dot for each severity, and ECE in a panel beside it.

    Args:
        rows: of each corruption its name, retention in percent, ECE in percent, and mIoU by severity.
        clean_mIoU: in percent.
        clean_ece: in percent; NaN where there is none.
        subject: what was measured on what.
        means: mIoU, retention and ECE over the corruptions.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.7 + 0.33 * max(len(rows), 3)), layout="constrained")
    mIoU, retention, ece = means
    kept = f"mIoU {clean_mIoU:.2f} clean, {mIoU:.2f} corrupted: {retention:.1f}% kept"
    figure.suptitle(f"{subject}\n{kept}", x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = np.arange(len(rows))
    left.barh(places, [row[1] for row in rows], height=0.7, color=BAR)
    for place, (_, _, _, scores) in zip(places, rows, strict=True):
        shares = 100 * np.array(scores) / (clean_mIoU or np.nan)
        sizes = np.linspace(3.5, 7, len(shares)) if len(shares) > 1 else [5.0]
        for share, size in zip(shares, sizes, strict=True):
            left.plot(share, place, "o", color=DOT, ms=size, alpha=0.75)
    left.axvline(retention, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    left.set_yticks(places, [row[0].replace("_", " ") for row in rows], fontsize=9.5)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlim(0, max(105, 1.02 * max((row[1] for row in rows if not np.isnan(row[1])), default=0)))
    plain_axes(left, "% of the clean mIoU; a dot for each severity, larger is more severe", grid="x")
    right.barh(places, [row[2] for row in rows], height=0.7, color="#d9b48f")
    if not np.isnan(clean_ece):
        right.axvline(clean_ece, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        right.text(clean_ece, -0.5, " clean", fontsize=8.5, color=FAINT, va="top")
    plain_axes(right, f"ECE, %; mean {ece:.2f}" if not np.isnan(ece) else "no probabilities: no ECE", grid="x")
    return to_png(figure, 150, trimmed=True)
