"""What a finished run leaves for people: its best model's scores, curves, a sheet of predictions, and its page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from terrazzo.data import Dataset
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import TrainingError
from terrazzo.evaluation.evaluator import measure
from terrazzo.evaluation.report import Report, report_files
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import find_protocol
from terrazzo.marks import blank_mark
from terrazzo.ownership import set_aside, write_result
from terrazzo.run_page.page import PAGE_FILE, RunFiles, run_page
from terrazzo.run_page.photos import PHOTOS_FILE, photos_json
from terrazzo.training.log import RunLog
from terrazzo.training.pictures import curves_png, sheet_png
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import CURVES_FILE, MODEL_FOLDER, REPORT_FOLDER, SHEET_FILE
from terrazzo.weights.files import load_folder, save_folder
from terrazzo.weights.model_card import CARD_FILE, model_card

__all__ = ["write_artifacts"]


def write_artifacts(
    output: Path, recipe: Recipe, val: Dataset, device: torch.device, log: RunLog, record: Mapping[str, Any]
) -> Report:
    """Measure the best model of a run and write its report, curves and predictions; complete the model's record.

    Args:
        output: the run's folder.
        recipe: how it was trained.
        val: the validation photos.
        device: where to measure.
        log: of the run, for the curves.
        record: where the model comes from; what was measured is added to it.

    Returns:
        The best model's scores on the validation photos.

    Raises:
        TrainingError: the best model is not there.
        CheckpointError: it cannot be loaded.
        OutputError: a file cannot be written.
    """
    if not (output / MODEL_FOLDER).is_dir():
        raise TrainingError(
            f"{output / MODEL_FOLDER}, the best model of the run, is gone",
            fix="put it back, or train on with --resume and more --epochs",
            code="training-no-model",
        )
    best = load_folder(output / MODEL_FOLDER, output.resolve().name)
    step = best.record["step"]
    log.say(f"measuring the best model, of step {step}, on {len(val)} photos")
    engine = TorchEngine(best.network, device)
    protocol = find_protocol(recipe.run.protocol)
    predictor = Predictor(engine, best.preprocess, best.labels, best.name, protocol)
    report, scores = measure(predictor, val, record["data"])
    measured: dict[str, Any] = {"step": step, "val_mIoU": round(report.metrics.mIoU, 2)}
    if report.intervals is not None:
        measured["val_mIoU_interval"] = [round(end, 2) for end in report.intervals.mIoU]
    if report.boundary is not None:
        measured["val_boundary_mIoU"] = round(report.boundary.mIoU, 2)
    best = dataclasses.replace(best, record={**measured, **record})
    save_folder(output / MODEL_FOLDER, best, keep_others=True)
    written = (CURVES_FILE, SHEET_FILE, PAGE_FILE, f"{REPORT_FOLDER}/{PHOTOS_FILE}")
    set_aside([*report_files(output / REPORT_FOLDER), *(output / name for name in written)], "train")
    report.save(output / REPORT_FOLDER, kind="train")
    card = output / MODEL_FOLDER / CARD_FILE
    set_aside([card], "train")
    text = model_card(best, "terrazzo", report.to_dict()["classes"], f"<!-- {blank_mark('train')} -->")
    write_result(card, text.encode("utf-8", "backslashreplace"), "train")
    title = f"{recipe.model.name} on {report.dataset}"
    write_result(output / CURVES_FILE, curves_png(log.rows, title), "train")
    write_result(output / SHEET_FILE, sheet_png(predictor, val, scores, f"{title}/{report.split}"), "train")
    write_result(output / REPORT_FOLDER / PHOTOS_FILE, photos_json(predictor, val, scores), "train")
    write_result(output / PAGE_FILE, run_page(RunFiles.read(output)), "train")
    return report
