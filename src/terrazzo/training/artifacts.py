"""What a finished run leaves for people: its best model's scores, curves, and a sheet of predictions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from terrazzo.engines.torch import TorchEngine
from terrazzo.evaluation.evaluator import measure
from terrazzo.evaluation.report import Report, report_files
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import find_protocol
from terrazzo.ownership import set_aside, write_result
from terrazzo.training.pictures import curves_png, sheet_png
from terrazzo.training.run_folder import CURVES_FILE, MODEL_FOLDER, REPORT_FOLDER, SHEET_FILE
from terrazzo.weights.files import load_folder, save_folder

if TYPE_CHECKING:
    from terrazzo.training.trainer import Trainer

__all__ = ["write_artifacts"]


def write_artifacts(trainer: Trainer, record: dict[str, Any]) -> Report:
    """Measure the best model of a run and write its report, curves and predictions; complete the model's record.

    Args:
        trainer: the finished run.
        record: where the model comes from; what was measured is added to it.

    Returns:
        The best model's scores on the validation photos.

    Raises:
        CheckpointError: the best model cannot be loaded.
        OutputError: a file cannot be written.
    """
    output, val = trainer.output, trainer.val
    best = load_folder(output / MODEL_FOLDER, output.resolve().name)
    step = best.record["step"]
    trainer.log.say(f"measuring the best model, of step {step}, on {len(val)} photos")
    engine = TorchEngine(best.network, trainer.ranks.device)
    protocol = find_protocol(trainer.recipe.run.protocol)
    predictor = Predictor(engine, best.preprocess, best.labels, best.name, protocol)
    report, scores = measure(predictor, val, record["data"])
    measured: dict[str, Any] = {"step": step, "val_mIoU": round(report.metrics.mIoU, 2)}
    if report.boundary is not None:
        measured["val_boundary_mIoU"] = round(report.boundary.mIoU, 2)
    save_folder(output / MODEL_FOLDER, dataclasses.replace(best, record={**measured, **record}), keep_others=True)
    set_aside([*report_files(output / REPORT_FOLDER), output / CURVES_FILE, output / SHEET_FILE], "train")
    report.save(output / REPORT_FOLDER, kind="train")
    title = f"{trainer.recipe.model.name} on {report.dataset}"
    write_result(output / CURVES_FILE, curves_png(trainer.log.rows, title), "train")
    write_result(output / SHEET_FILE, sheet_png(predictor, val, scores, f"{title}/{report.split}"), "train")
    return report
