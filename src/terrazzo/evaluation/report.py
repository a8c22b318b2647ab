"""Report: the scores of an evaluation, as a table, JSON, CSV and pictures."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.arguments import checked
from terrazzo.evaluation.boundary import BoundaryMetrics
from terrazzo.evaluation.calibration import CalibrationMetrics
from terrazzo.evaluation.confusion import FloatArray, IntArray, Metrics, score_text
from terrazzo.evaluation.figures import confusion_png, per_class_png, reliability_png
from terrazzo.evaluation.intervals import LEVEL, RESAMPLES, SEED, ImageCounts, Intervals, bootstrap
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import Kind
from terrazzo.ownership import refuse_foreign, write_results

__all__ = ["Report", "report_files"]

FILES = ("report.txt", "per_class.csv", "per_class.png", "confusion.png", "report.json", "reliability.png")

_LONGEST_NAME = 32


@dataclass(frozen=True, eq=False)
class Report:
    """The result of evaluating one model on one split.

    Attributes:
        labels: names and colours of the K classes.
        confusion: (K, K) int64 pixel counts over the whole split; row = label, column = prediction.
        boundary: boundary IoU, or None where it was not measured.
        model: the model's name or file.
        dataset: the data set's name.
        split: the split's name.
        images: how many images were evaluated.
        protocol: the evaluation protocol's name.
        protocol_hash: identifies all settings of the protocol; equal hashes mean comparable numbers.
        seconds: wall-clock time of the evaluation.
        image_counts: what each image's own scores follow from, or None where nobody counted.
        calibration: whether the model's probabilities can be believed, or None where there are none.
    """

    labels: LabelSpec
    confusion: IntArray
    boundary: BoundaryMetrics | None
    model: str
    dataset: str
    split: str
    images: int
    protocol: str
    protocol_hash: str
    seconds: float
    image_counts: ImageCounts | None = None
    calibration: CalibrationMetrics | None = None

    def __post_init__(self) -> None:
        K = self.labels.num_classes
        if self.confusion.shape != (K, K) or (self.boundary is not None and self.boundary.iou.shape != (K,)):
            raise ValueError(f"the counts do not belong to the {K} classes of the labels")

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics.from_counts(self.confusion)

    @cached_property
    def intervals(self) -> Intervals | None:
        """Bootstrap confidence intervals over the images; None where there are fewer than two."""
        return None if self.image_counts is None else bootstrap(self.image_counts)

    @property
    def subject(self) -> str:
        """The model and the data set."""
        text = f"{self.model} on {self.dataset}/{self.split}"
        # Names of files and folders may hold bytes that are not text, or that a terminal would obey.
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)

    @property
    def summary(self) -> str:
        """The means in one line."""
        means = {"mIoU": self.metrics.mIoU, "mAcc": self.metrics.mAcc, "aAcc": self.metrics.aAcc}
        if self.boundary is not None:
            means["boundary mIoU"] = self.boundary.mIoU
        return "   ".join(f"{name} {score_text(value)}" for name, value in means.items())

    def table(self) -> str:
        """Lay out the metrics of every class, and the means, as aligned plain text. All numbers are percentages."""
        metrics, labels = self.metrics, self.labels
        columns = [["class", *(_shortened(name) for name in labels.names)]]
        columns.append(["IoU", *map(score_text, metrics.iou)])
        if self.intervals is not None:
            columns.append([f"{LEVEL}% interval", *map(interval_text, self.intervals.iou_K2)])
        columns.append(["Acc", *map(score_text, metrics.accuracy)])
        if self.boundary is not None:
            columns.append(["boundary IoU", *map(score_text, self.boundary.iou)])
        total = max(1, int(metrics.label_pixels.sum()))
        columns.append(["% of pixels", *(f"{100 * int(pixels) / total:.2f}" for pixels in metrics.label_pixels)])

        widths = [max(map(len, column)) for column in columns]
        rows = [
            "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
            for cells in zip(*columns, strict=True)
        ]
        rule = "-" * len(rows[0])
        subject = (
            f"{self.subject}: {self.images} images, {labels.num_classes} classes, "
            f"protocol {self.protocol} ({self.protocol_hash}), {self.seconds:.1f} s"
        )
        means = [self.summary, *self._interval_lines(), *self._calibration_lines()]
        return "\n".join([subject, "", rows[0], rule, *rows[1:], rule, *means, *self._notes()])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Describe the report in JSON's types: percentages rounded to 2 decimals, None where there is no number."""
        boundary = self.boundary
        document: dict[str, Any] = {
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "images": self.images,
            "protocol": {"name": self.protocol, "hash": self.protocol_hash},
            "seconds": round(self.seconds, 2),
            "mIoU": _rounded(self.metrics.mIoU),
            "mAcc": _rounded(self.metrics.mAcc),
            "aAcc": _rounded(self.metrics.aAcc),
        }
        if boundary is not None:
            document["boundary_mIoU"] = _rounded(boundary.mIoU)
            document["boundary_dilation_ratio"] = boundary.dilation_ratio
        if self.intervals is not None:
            document["intervals"] = {
                "level": LEVEL,
                "method": "percentile bootstrap",
                "resamples": RESAMPLES,
                "seed": SEED,
                "drawn_from": f"{self.intervals.count} {self.intervals.unit}",
                "mIoU": [_rounded(end) for end in self.intervals.mIoU],
            }
        if self.calibration is not None:
            document["calibration"] = self.calibration.to_dict()
        document["classes"] = self._class_rows()
        document["confusion"] = self.confusion.tolist()
        return document

    def to_json(self) -> str:
        """`to_dict` as text: indented, with one line to each row of the confusion matrix."""
        document = self.to_dict()
        rows = ",\n".join(f"    {json.dumps(row)}" for row in document.pop("confusion"))
        head = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        return f'{head},\n  "confusion": [\n{rows}\n  ]\n}}\n'

    def per_class_png(self) -> bytes:
        """Draw the IoU of every class as a bar, best first."""
        boundary_iou_K = None if self.boundary is None else self.boundary.iou
        intervals_K2 = None if self.intervals is None else self.intervals.iou_K2
        return per_class_png(self.labels, self.metrics, boundary_iou_K, intervals_K2, self.subject, self.summary)

    def reliability_png(self) -> bytes | None:
        """Draw how often pixels are right that the model is so sure of; None where there are no probabilities."""
        return None if self.calibration is None else reliability_png(self.calibration, self.subject)

    def confusion_png(self) -> bytes:
        """Draw the confusion matrix, each row in per cent of the label's pixels."""
        return confusion_png(self.labels, self.confusion, self.subject, self.summary)

    @checked
    def save(self, folder: str | os.PathLike[str], *, kind: Kind = "evaluate", overwrite: bool = False) -> None:
        """Write report.json, report.txt, per_class.csv and the pictures into `folder`.

        The pictures are per_class.png, confusion.png and, where there are probabilities, reliability.png.

        Args:
            folder: where to; it is created.
            kind: the command whose results they are; they replace earlier ones of the same command.
            overwrite: replace any file that is there.

        Raises:
            OutputError: a file is there that is not an earlier result, or the folder cannot be written to.
        """
        paths = report_files(folder)
        refuse_foreign(paths, kind, overwrite=overwrite, option="folder")
        contents = (
            f"{self.table()}\n".encode(),
            self._csv().encode(),
            self.per_class_png(),
            self.confusion_png(),
            self.to_json().encode("utf-8", "backslashreplace"),
            self.reliability_png(),
        )
        there = {path: content for path, content in zip(paths, contents, strict=True) if content is not None}
        write_results(there, kind)

    def _class_rows(self) -> list[dict[str, Any]]:
        metrics = self.metrics
        rows = []
        for k, name in enumerate(self.labels.names):
            row: dict[str, Any] = {
                "index": k,
                "name": name,
                "iou": _rounded(metrics.iou[k]),
                **self._interval_cells(k),
                "accuracy": _rounded(metrics.accuracy[k]),
                "precision": _rounded(metrics.precision[k]),
                "dice": _rounded(metrics.dice[k]),
            }
            if self.boundary is not None:
                row["boundary_iou"] = _rounded(self.boundary.iou[k])
            if self.calibration is not None:
                row["ece"] = _rounded(self.calibration.class_ece_K[k])
            row["label_pixels"] = int(metrics.label_pixels[k])
            row["predicted_pixels"] = int(metrics.predicted_pixels[k])
            rows.append(row)
        return rows

    def _interval_cells(self, k: int) -> dict[str, float | None]:
        if self.intervals is None:
            return {}
        low, high = self.intervals.iou_K2[k]
        return {"iou_low": _rounded(low), "iou_high": _rounded(high)}

    def _interval_lines(self) -> list[str]:
        if self.intervals is None:
            return []
        drawn = f"{RESAMPLES} bootstrap samples of {self.intervals.count} {self.intervals.unit}"
        return [f"{LEVEL}% interval of mIoU: {interval_text(self.intervals.mIoU)} ({drawn})"]

    def _calibration_lines(self) -> list[str]:
        found = self.calibration
        if found is None or np.isnan(found.ece):
            return []
        at = "" if found.temperature == 1 else f", at temperature {found.temperature:.3f}"
        sure = f"sure to {found.confidence:.2f}%, right in {found.accuracy:.2f}%"
        return [f"calibration: ECE {found.ece:.2f}, NLL {found.nll:.3f}; {sure} of pixels{at}"]

    def _csv(self) -> str:
        rows = self._class_rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _notes(self) -> list[str]:
        """Say which classes the means leave out, and which they count although no label has them."""
        absent = self.metrics.label_pixels == 0
        predicted = self.metrics.predicted_pixels > 0
        notes = []
        if left_out := self._names(absent & ~predicted):
            notes.append(f"n/a, left out of the means: in neither labels nor predictions: {left_out}")
        if wrong := self._names(absent & predicted):
            notes.append(f"IoU 0, counted in mIoU but not in mAcc: predicted, but absent from the labels: {wrong}")
        return notes

    def _names(self, chosen_K: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
        return ", ".join(_shortened(self.labels.names[k]) for k in np.flatnonzero(chosen_K))


def report_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that `Report.save` writes into a folder."""
    return [Path(folder, name) for name in FILES]


def interval_text(ends: Sequence[float] | FloatArray) -> str:
    """Write an interval of scores, with the same digits in tables and in pictures."""
    low, high = (float(end) for end in ends)
    return "n/a" if np.isnan(low) else f"{low:.2f} to {high:.2f}"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
