"""The accuracy gate: mIoU of an exported file on labelled images, compared with that of its model in float32.

It is for files that do not give exactly their model's outputs: fp16 and int8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.data.readings import MaskValues
from terrazzo.engines.engine import Engine
from terrazzo.errors import CheckpointError, DatasetError
from terrazzo.evaluation.evaluator import evaluate
from terrazzo.evaluation.report import Report
from terrazzo.inference.predictor import Predictor
from terrazzo.text import printable
from terrazzo.weights.exported import ExportedDescription

__all__ = ["MAX_MIOU_LOSS", "RECORD_KEY", "Accuracy", "LabelledData", "refuse_miou_loss"]

MAX_MIOU_LOSS = 1.0
"""Points of mIoU that a file may lose by default."""

RECORD_KEY = "accuracy"
"""Key of the measurement in a file's record."""


@dataclass(frozen=True)
class LabelledData:
    """A labelled split that engines are measured on; arguments as `terrazzo.evaluate` takes them."""

    folder: str | Path
    split: str
    labels: str | None = None
    mask_values: MaskValues | None = None
    progress: Callable[[int, int], None] | None = None

    def measure(self, engine: Engine, description: ExportedDescription) -> Report:
        """Evaluate an engine that runs a file with this description.

        Raises:
            DatasetError: as `terrazzo.evaluate`; or no pixel is labelled (code "dataset-unlabelled").
        """
        predictor = Predictor(
            engine,
            description.preprocess,
            description.labels,
            description.name or None,
            output=description.output,
            record=description.record,
            temperature=description.temperature,
        )
        report = evaluate(
            predictor,
            self.folder,
            split=self.split,
            labels=self.labels,
            mask_values=self.mask_values,
            progress=self.progress,
        )
        if math.isnan(report.metrics.mIoU):
            raise DatasetError(
                f"no pixel of {self.folder} / {self.split} is labelled",
                fix="give images with masks",
                code="dataset-unlabelled",
            )
        return report


@dataclass(frozen=True)
class Accuracy:
    """mIoU of a model in float32 and of its file, in percent, on the same images.

    Attributes:
        exact: the model's.
        written: the file's.
        precision: of the file.
        data: name of the data set.
        split: of it.
        images: how many.
    """

    exact: float
    written: float
    precision: str
    data: str
    split: str
    images: int

    @property
    def loss(self) -> float:
        """Points of mIoU; negative where the file happens to do better."""
        return self.exact - self.written

    def __str__(self) -> str:
        where = f"{printable(f'{self.data}/{self.split}')}, {self.images} photos"
        change = f"{abs(self.loss):.2f} points {'lost' if self.loss >= 0 else 'gained'}"
        return f"mIoU on {where}: fp32 {self.exact:.2f}, {self.precision} {self.written:.2f}, {change}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for the file's record."""
        return {
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "mIoU_fp32": round(self.exact, 2),
            f"mIoU_{self.precision}": round(self.written, 2),
        }


def refuse_miou_loss(accuracy: Accuracy, max_loss: float) -> None:
    """Raise CheckpointError "export-loss" where more than `max_loss` points of mIoU were lost."""
    if not accuracy.loss <= max_loss:
        raise CheckpointError(
            f"{accuracy}; {max_loss:g} is allowed, so the file was removed",
            fix="calibrate with more photos like those it will see, keep fp32, or allow more with --max-loss",
            code="export-loss",
        )
