"""Comparison: the difference between two models on the same photos, as a table, JSON, CSV and pictures."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.arguments import checked
from terrazzo.evaluation.confusion import FloatArray, percent, present_mean, score_text
from terrazzo.evaluation.figures import differences_png
from terrazzo.evaluation.intervals import (
    LEVEL,
    RESAMPLES,
    SEED,
    ImageCounts,
    percentile_interval,
    resampled_iou,
)
from terrazzo.labels.spec import LabelSpec
from terrazzo.ownership import refuse_foreign, write_results
from terrazzo.text import printable

__all__ = ["Comparison", "comparison_files"]

FILES = ("comparison.txt", "images.csv", "differences.png", "photos.png", "comparison.json")
NO_DIFFERENCE = "no difference is shown: the interval holds 0"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models, A and B, on the same photos. Differences are B's scores less A's, in points of a per cent.

    Attributes:
        labels: the K classes, in A's order.
        models: names of A and B.
        dataset: the data set's name.
        split: the split's name.
        protocols: of A and B, with their hashes.
        counts: of A and B, for each photo, or for each group of photos that is drawn together.
        images: the photos' names.
        scores: each photo's own mIoU with A and with B; NaN where nothing is labelled.
        sheet: draws the photos on which the models differ most.
    """

    labels: LabelSpec
    models: tuple[str, str]
    dataset: str
    split: str
    protocols: tuple[str, str]
    counts: tuple[ImageCounts, ImageCounts]
    images: tuple[str, ...]
    scores: tuple[list[float], list[float]]
    sheet: Callable[[], bytes] = field(repr=False)

    @cached_property
    def iou(self) -> tuple[FloatArray, FloatArray]:
        """(K,) IoU of A and of B over all photos, in percent."""
        first, second = (
            percent(hits_K, label_K + predicted_K - hits_K)
            for hits_K, label_K, predicted_K in (
                (one.hits_NK.sum(axis=0), one.label_NK.sum(axis=0), one.predicted_NK.sum(axis=0)) for one in self.counts
            )
        )
        return first, second

    @property
    def mIoU(self) -> tuple[float, float]:
        """Of A and of B, in percent."""
        return present_mean(self.iou[0]), present_mean(self.iou[1])

    @property
    def difference(self) -> float:
        """Of the mIoUs."""
        return self.mIoU[1] - self.mIoU[0]

    @cached_property
    def _resampled(self) -> tuple[FloatArray, FloatArray]:
        """(R, K) differences of the classes' IoUs and (R,) of the mIoUs, in resamples that are the same for both."""
        first_RK, second_RK = (resampled_iou(one) for one in self.counts)
        means_R = [present_mean(b_K) - present_mean(a_K) for a_K, b_K in zip(first_RK, second_RK, strict=True)]
        return second_RK - first_RK, np.array(means_R)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of `difference`; NaN for fewer than two photos."""
        return percentile_interval(self._resampled[1]) if len(self.counts[0]) > 1 else (float("nan"), float("nan"))

    @cached_property
    def class_intervals(self) -> FloatArray:
        """(K, 2) confidence intervals of the differences of the classes' IoUs."""
        if len(self.counts[0]) < 2:
            return np.full((self.labels.num_classes, 2), np.nan)
        return np.array([percentile_interval(differences_R) for differences_R in self._resampled[0].T])

    @property
    def verdict(self) -> str:
        """What the interval says, in words."""
        low, high = self.interval
        if np.isnan(low):
            return "too few photos for an interval"
        return "B is better" if low > 0 else "A is better" if high < 0 else NO_DIFFERENCE

    def table(self) -> str:
        """Lay out scores and differences of every class as aligned plain text."""
        a_K, b_K = self.iou
        columns = [["class", *self.labels.names]]
        columns.append(["IoU of A", *map(score_text, a_K)])
        columns.append(["of B", *map(score_text, b_K)])
        columns.append(["B - A", *map(_signed, b_K - a_K)])
        columns.append([f"{LEVEL}% interval", *map(_span, self.class_intervals)])
        widths = [max(map(len, column)) for column in columns]
        rows = [
            "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
            for cells in zip(*columns, strict=True)
        ]
        rule = "-" * len(rows[0])
        heads = [
            f"{letter}: {printable(model)}, protocol {protocol}"
            for letter, model, protocol in zip("AB", self.models, self.protocols, strict=True)
        ]
        drawn = f"{RESAMPLES} paired bootstrap samples of {len(self.counts[0])} {self.counts[0].unit}"
        first, second = self.mIoU
        return "\n".join(
            [
                *heads,
                f"on {printable(self.dataset)}/{printable(self.split)}: {len(self.images)} images",
                "",
                rows[0],
                rule,
                *rows[1:],
                rule,
                f"mIoU {score_text(first)} and {score_text(second)}: B - A = {_signed(self.difference)}, "
                f"{LEVEL}% interval {_span(self.interval)} ({drawn})",
                self.verdict,
            ]
        )

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Describe the comparison in JSON's types, rounded to 2 decimals; None where there is no number."""
        a_K, b_K = self.iou
        first, second = self.mIoU
        return {
            "models": {"A": self.models[0], "B": self.models[1]},
            "protocols": {"A": self.protocols[0], "B": self.protocols[1]},
            "dataset": self.dataset,
            "split": self.split,
            "mIoU": {"A": _rounded(first), "B": _rounded(second)},
            "difference": _rounded(self.difference),
            "interval": [_rounded(end) for end in self.interval],
            "verdict": self.verdict,
            "level": LEVEL,
            "method": "paired percentile bootstrap",
            "resamples": RESAMPLES,
            "seed": SEED,
            "drawn_from": f"{len(self.counts[0])} {self.counts[0].unit}",
            "classes": [
                {
                    "index": k,
                    "name": name,
                    "A": _rounded(a_K[k]),
                    "B": _rounded(b_K[k]),
                    "difference": _rounded(b_K[k] - a_K[k]),
                    "interval": [_rounded(end) for end in self.class_intervals[k]],
                }
                for k, name in enumerate(self.labels.names)
            ],
            "images": self._image_rows(),
        }

    def to_json(self) -> str:
        """`to_dict` as indented text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def differences_png(self) -> bytes:
        """Draw the difference of every class's IoU with its interval, B's largest gain first."""
        a_K, b_K = self.iou
        title = f"B - A = {_signed(self.difference)} mIoU, {LEVEL}% interval {_span(self.interval)}: {self.verdict}"
        models = f"A {printable(self.models[0])}, B {printable(self.models[1])}"
        return differences_png(self.labels, b_K - a_K, self.class_intervals, models, title)

    @checked
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write comparison.txt, comparison.json, images.csv, differences.png and photos.png into `folder`.

        Raises:
            OutputError: a file is there that is not an earlier comparison, or the folder cannot be written to.
        """
        paths = comparison_files(folder)
        refuse_foreign(paths, "compare", overwrite=overwrite, option="folder")
        contents = (
            f"{self.table()}\n".encode("utf-8", "backslashreplace"),
            self._csv().encode("utf-8", "backslashreplace"),
            self.differences_png(),
            self.sheet(),
            self.to_json().encode("utf-8", "backslashreplace"),
        )
        write_results(dict(zip(paths, contents, strict=True)), "compare")

    def _image_rows(self) -> list[dict[str, Any]]:
        """The photos' own scores, B's largest loss first."""
        rows: list[dict[str, Any]] = [
            {"image": name, "A": _rounded(a), "B": _rounded(b), "difference": _rounded(b - a)}
            for name, a, b in zip(self.images, *self.scores, strict=True)
        ]
        return sorted(rows, key=lambda row: (row["difference"] is None, row["difference"] or 0.0))

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["image", "A", "B", "difference"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._image_rows())
        return text.getvalue()


def comparison_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that `Comparison.save` writes into a folder."""
    return [Path(folder, name) for name in FILES]


def _signed(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:+.2f}"


def _span(ends: FloatArray | tuple[float, float]) -> str:
    low, high = (float(end) for end in ends)
    return "n/a" if np.isnan(low) else f"{low:+.2f} to {high:+.2f}"


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
