"""mIoU as a judge of exported files: what `terrazzo.export` refuses a file by, when there are labelled photos."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from terrazzo.data.readings import MaskValues
from terrazzo.errors import DatasetError
from terrazzo.evaluation.evaluator import evaluate
from terrazzo.exports.judgement import Judge, Score
from terrazzo.inference.predictor import Predictor

if TYPE_CHECKING:
    from terrazzo.engines.engine import Engine
    from terrazzo.weights.exported import ExportedDescription

__all__ = ["miou_on"]


def miou_on(
    data: str | Path,
    *,
    split: str = "val",
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Judge:
    """Return what measures mIoU on a labelled split, for the `judge` of `terrazzo.export`.

    Nothing is read before it is called; it raises what `terrazzo.evaluate` does.

    Args:
        data: the data set's folder.
        split: which split of it; not the photos that the model was calibrated with.
        labels: name of a bundled class list for a folder that does not say what its classes are.
        mask_values: for such a folder, ``stored`` or ``indices``; see `terrazzo.evaluate`.
        progress: called with (photos done, photos in all), anew for each measurement.
    """

    def judge(engine: Engine, description: ExportedDescription) -> Score:
        predictor = Predictor(
            engine,
            description.preprocess,
            description.labels,
            description.name or None,
            output=description.output,
            record=description.record,
        )
        report = evaluate(predictor, data, split=split, labels=labels, mask_values=mask_values, progress=progress)
        if math.isnan(report.metrics.mIoU):
            raise DatasetError(
                f"no pixel of {data} / {split} is labelled", fix="give photos with masks", code="dataset-unlabelled"
            )
        return Score(report.metrics.mIoU, report.dataset, report.split, report.images)

    return judge
