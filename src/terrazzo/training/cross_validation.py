"""`cross_validate`: k-fold cross-validation, and a final model that learns from all photos.

One validation split of few photos says little, and it flatters when photos of one drive or patient lie on both sides
of it. Here the photos of train and val are divided into k parts, whole groups of them if asked for. Each part is
validated on once by a run that learnt from the others. Their mean and spread say what the recipe gives on photos of
unseen groups.

The runs are ordinary run folders: ``fold-1`` to ``fold-k``, then ``final``. The first one's recipe is that of all. The
final run takes as many epochs as the median of the folds' best ones, and has no photos left to be measured on.
"""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from terrazzo.arguments import checked
from terrazzo.config import read_json
from terrazzo.data.splits import SplitRule
from terrazzo.errors import ConfigError, TrainingError
from terrazzo.ownership import check_outputs, set_aside, write_results
from terrazzo.text import shown_path
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.folds import FILES, CrossValidation, Fold
from terrazzo.training.log import LOG_FILE
from terrazzo.training.overrides import full_paths
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import (
    CHECKPOINT_FOLDER,
    MODEL_FOLDER,
    RECIPE_FILE,
    REPORT_FOLDER,
    refuse_or_resume,
)
from terrazzo.training.train import train
from terrazzo.weights.files import load_folder, save_folder

__all__ = ["cross_validate"]

FINAL = "final"
SPLIT = "data.split"
CROSS_VALIDATION = "cross_validation"
SCORES = ("val_mIoU", "val_mIoU_interval", "val_boundary_mIoU", "start_mIoU")
"""What a run's record says of its validation photos, which the final run has learnt from."""


@checked
def cross_validate(
    data: str | Path,
    output: str | Path,
    model: str | None = None,
    *,
    folds: int = 5,
    group_by: str | None = None,
    encoder: str | None = None,
    recipe: str | Path | Recipe | None = None,
    labels: str | None = None,
    weights: str | Path | None = None,
    teacher: str | Path | None = None,
    unlabelled: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    reset_head: bool = False,
    resume: bool = False,
    check: bool = False,
    workers: int | None = None,
    device: str | None = None,
) -> CrossValidation:
    """Train one model for each fold and a final one on all photos; write all of them and one report.

    Args:
        data: the data set's folder; photos of train and val are divided together, those of test are left out.
        output: the folder for the runs and the report.
        model: as `train` takes it; and so all arguments that are not named here.
        folds: how many parts the photos are divided into.
        group_by: a regular expression for what photos of one drive, patient or place have in common at the beginning of
            their names, such as ``[^_]+``: they stay in one fold. None for single photos.
        resume: go on where an earlier call stopped; finished runs are not trained again.

    Raises:
        ConfigError: the folds cannot be made, or other settings contradict them.
        TrainingError: the folder holds earlier runs, or these were made with other settings; or as `train`.
        OutputError: the output folder cannot be written to.
    """
    data, output, changes = Path(data), Path(output), full_paths(dict(overrides or {}))
    _refuse_contradictions(changes)
    SplitRule.of_fold(1, folds, group_by)  # refuses what there cannot be, before so many are made
    rules = [SplitRule.of_fold(fold, folds, group_by) for fold in (*range(1, folds + 1), 0)]
    places = [output / f"fold-{rule.fold}" for rule in rules[:-1]] + [output / FINAL]
    begun = [has_checkpoint(place / CHECKPOINT_FOLDER) for place in places]
    if resume and not any(begun):
        raise TrainingError(
            f"{shown_path(output)} holds no run to go on with",
            fix="leave --resume out to start",
            code="training-no-checkpoint",
        )
    for place, has_begun in zip(places, begun, strict=True):
        refuse_or_resume(place, resume and has_begun)
    if not resume:
        check_outputs([output / name for name in FILES], "train")
    start: dict[str, Any] = {
        "encoder": encoder,
        "labels": labels,
        "weights": weights,
        "teacher": teacher,
        "model": model,
    }
    always: dict[str, Any] = {"reset_head": reset_head, "check": check, "workers": workers, "device": device}
    always["unlabelled"] = unlabelled

    def part(place: Path, rule: SplitRule, values: Mapping[str, Any], has_begun: bool) -> None:
        """Train one run, or the rest of it; nothing where it is finished."""
        changed = {**values, SPLIT: rule}
        if resume and has_begun:
            own = Recipe.from_file(place / RECIPE_FILE)
            _refuse_other_settings(place, own, changed)
            if not (place / REPORT_FOLDER / "report.json").is_file():
                train(data, place, overrides=changed, resume=True, **always)
        elif place == places[0]:
            train(data, place, recipe=recipe, overrides=changed, **start, **always)
        else:
            train(data, place, recipe=places[0] / RECIPE_FILE, overrides=changed, **always)

    for place, rule, has_begun in zip(places[:-1], rules[:-1], begun[:-1], strict=True):
        part(place, rule, changes, has_begun)
    finished = tuple(map(_fold, places[:-1]))
    epochs = max(1, round(statistics.median(fold.best_epoch for fold in finished)))
    result = CrossValidation(output, finished, group_by, epochs, output / FINAL / MODEL_FOLDER)
    length = {"run.epochs": epochs, "run.steps": None, "run.validate_every": epochs, "run.patience": None}
    part(places[-1], rules[-1], {**changes, **length}, begun[-1])
    _complete_record(result)
    set_aside([output / name for name in FILES], "train")
    table, document = result.table() + "\n", result.to_json()
    contents = dict(zip(FILES, (table.encode("utf-8", "backslashreplace"), document.encode()), strict=True))
    write_results({output / name: content for name, content in contents.items()}, "train")
    return result


def _refuse_other_settings(place: Path, own: Recipe, changes: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was started with other folds or settings."""
    if own.changed(changes) != own:
        raise TrainingError(
            f"{shown_path(place)} was made with other folds or settings",
            fix="resume with those that it was started with, or choose another --output",
            code="training-resume",
        )


def _fold(place: Path) -> Fold:
    """What a finished run's folder says about it."""
    report = read_json(place / REPORT_FOLDER / "report.json", error=TrainingError)
    record = read_json(place / MODEL_FOLDER / "config.json", error=TrainingError)["record"]
    with open(place / LOG_FILE, encoding="utf-8", newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if int(row["step"]) == record["step"]]
    if not epochs:
        raise TrainingError(
            f"{shown_path(place / LOG_FILE)} does not have step {record['step']}, of which the model is",
            fix="put back the file that the run wrote, or train the fold again",
            code="training-resume",
        )
    rows = report["classes"]
    return Fold(
        name=place.name,
        train_photos=record["train_photos"],
        val_photos=report["images"],
        best_epoch=epochs[0],
        mIoU=report["mIoU"],
        interval=tuple(report.get("intervals", {}).get("mIoU", (None, None))),
        class_names=tuple(row["name"] for row in rows),
        class_iou=tuple(row["iou"] for row in rows),
        confusion=report["confusion"],
    )


def _complete_record(result: CrossValidation) -> None:
    """Say in the final model's record what the folds measured, in place of its score on photos that it learnt from."""
    final = load_folder(result.model)
    record = {key: value for key, value in final.record.items() if key not in (*SCORES, CROSS_VALIDATION)}
    save_folder(result.model, replace(final, record={CROSS_VALIDATION: result.summary(), **record}), keep_others=True)


def _refuse_contradictions(changes: Mapping[str, Any]) -> None:
    named = {SPLIT: "--val", "data.holdout": "--holdout"}
    named |= {"data.train_split": "--train-split", "data.val_split": "--val-split"}
    given = [option for path, option in named.items() if changes.get(path)]
    if given:
        raise ConfigError(
            f"--folds divides the photos itself, and {given[0]} is given too",
            fix=f"leave {given[0]} out",
            code="folds-options",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "--folds trains in one process, and torchrun started several",
            fix="start it without torchrun",
            code="folds-options",
        )
