"""The result of a cross-validation: each fold's scores, their mean and spread, as a table and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.evaluation.confusion import Metrics, score_text

__all__ = ["FILES", "CrossValidation", "Fold"]

FILES = ("cross_validation.txt", "cross_validation.json")


@dataclass(frozen=True)
class Fold:
    """One fold: a run, measured on photos that it has not learnt from.

    Attributes:
        name: of its folder.
        train_photos: how many it learnt from.
        val_photos: how many it was validated on.
        best_epoch: after which its model was kept.
        mIoU: of that model, in percent; None where nothing is labelled.
        interval: its confidence interval.
        class_names: of the K classes.
        class_iou: of each; None for a class in neither labels nor predictions.
        confusion: (K, K) pixel counts; row = label, column = prediction.
    """

    name: str
    train_photos: int
    val_photos: int
    best_epoch: int
    mIoU: float | None
    interval: tuple[float | None, ...]
    class_names: tuple[str, ...]
    class_iou: tuple[float | None, ...]
    confusion: list[list[int]]


@dataclass(frozen=True)
class CrossValidation:
    """A finished cross-validation.

    Attributes:
        output: its folder.
        folds: in their order.
        group_by: what stayed together; None for single photos.
        epochs: that the final model was trained for: the median of the folds' best ones.
        model: the folder of the final model, which learnt from all photos, for `terrazzo.load`.
    """

    output: Path
    folds: tuple[Fold, ...]
    group_by: str | None
    epochs: int
    model: Path

    @property
    def mIoU(self) -> tuple[float, float]:
        """Mean over the folds, and their standard deviation (of a sample), in percent."""
        return _mean_and_spread([fold.mIoU for fold in self.folds])

    @property
    def class_iou(self) -> list[tuple[float, float]]:
        """The same of each class, over the folds that have it."""
        return [_mean_and_spread(column) for column in zip(*(fold.class_iou for fold in self.folds), strict=True)]

    @property
    def pooled(self) -> Metrics:
        """Metrics of the pixels of all folds together: every photo counts once, by a model that has not seen it."""
        return Metrics.from_counts(np.sum([np.array(fold.confusion, np.int64) for fold in self.folds], axis=0))

    def table(self) -> str:
        """Lay out the folds and the classes as aligned plain text. All scores are percentages."""
        folds = [["fold", "learnt from", "measured on", "best epoch", "mIoU", "95% interval"]]
        for fold in self.folds:
            low, high = fold.interval
            span = "n/a" if low is None or high is None else f"{low:.2f} to {high:.2f}"
            counts = map(str, (fold.train_photos, fold.val_photos, fold.best_epoch))
            folds.append([fold.name, *counts, _text(fold.mIoU), span])
        mean, spread = self.mIoU
        classes = [["class", "mean IoU", "spread", "all folds together"]]
        for name, (class_mean, class_spread), iou in zip(
            self.folds[0].class_names, self.class_iou, self.pooled.iou, strict=True
        ):
            classes.append([name, score_text(class_mean), score_text(class_spread), score_text(iou)])
        grouped = "single photos" if self.group_by is None else f"photos grouped by {self.group_by!r}"
        return "\n".join(
            [
                f"{len(self.folds)}-fold cross-validation, {grouped}",
                "",
                *_aligned(folds),
                "",
                *_aligned(classes),
                "",
                f"mIoU {score_text(mean)}, spread {score_text(spread)} (standard deviation over folds); "
                f"all folds together {score_text(self.pooled.mIoU)}",
                f"final model: all photos, {self.epochs} epochs (the median of the folds' best), {self.model}",
            ]
        )

    def __str__(self) -> str:
        return self.table()

    def summary(self) -> dict[str, Any]:
        """What the final model's record keeps, in JSON's types."""
        mean, spread = self.mIoU
        return {
            "folds": len(self.folds),
            "group_by": self.group_by,
            "mIoU": _rounded(mean),
            "spread": _rounded(spread),
            "pooled_mIoU": _rounded(self.pooled.mIoU),
        }

    def to_json(self) -> str:
        """Describe everything as indented JSON."""
        classes = [
            {"name": name, "iou": _rounded(mean), "spread": _rounded(spread), "pooled_iou": _rounded(pooled)}
            for name, (mean, spread), pooled in zip(
                self.folds[0].class_names, self.class_iou, self.pooled.iou, strict=True
            )
        ]
        folds = [
            {
                "name": fold.name,
                "train_photos": fold.train_photos,
                "val_photos": fold.val_photos,
                "best_epoch": fold.best_epoch,
                "mIoU": fold.mIoU,
                "interval": list(fold.interval),
            }
            for fold in self.folds
        ]
        document = {**self.summary(), "final_epochs": self.epochs, "runs": folds, "classes": classes}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _mean_and_spread(values: Sequence[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else float("nan")
    return mean, statistics.stdev(known) if len(known) > 1 else float("nan")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _text(value: float | None) -> str:
    return "n/a" if value is None else score_text(value)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
