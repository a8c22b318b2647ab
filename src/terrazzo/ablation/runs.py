"""Trains the networks of a study, each only once.

Each has an ordinary run folder: one with a report is done, one with checkpoints goes on. Studies that compare with the
same network find the same folder.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terrazzo.ablation.studies import Variant
from terrazzo.config import read_json
from terrazzo.data import Dataset
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import TrainingError
from terrazzo.evaluation.evaluator import score
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.models import ModelSpec, find_spec
from terrazzo.notes import note
from terrazzo.text import shown_path
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import CHECKPOINT_FOLDER, MODEL_FOLDER, RECIPE_FILE, REPORT_FOLDER
from terrazzo.training.train import train
from terrazzo.weights.files import TrainedModel, load_folder

__all__ = ["Setting", "trained"]

SCORES = ("mIoU", "mAcc", "aAcc")


@dataclass(frozen=True)
class Setting:
    """What all networks of a study have in common.

    Attributes:
        data: the data set's folder.
        recipe: how each is trained, but for its model.
        train: the photos to learn from.
        val: the photos to measure on.
        runs: the folder of the run folders.
        workers: loader processes.
        device: where to compute, as `train` takes it.
    """

    data: Path
    recipe: Recipe
    train: Dataset
    val: Dataset
    runs: Path
    workers: int = 0
    device: str | None = None

    @property
    def side(self) -> tuple[int, int]:
        """The (height, width) at which a network sees the first validation photo, which costs are counted for."""
        return self.recipe.data.preprocess.target_size(*self.val.samples[0].image.size)

    @property
    def windows(self) -> Protocol:
        """Evaluation in windows of the size of training, a quarter overlapping."""
        side = min(self.recipe.crop)
        return Protocol("training-windows", window=side, stride=max(side * 3 // 4, 1))

    def spec(self, variant: Variant) -> ModelSpec:
        """Return what a variant's network is on these data."""
        spec = variant.model if isinstance(variant.model, ModelSpec) else find_spec(variant.model)
        return spec.adapted(self.train.labels.num_classes, image_size=self.recipe.crop, drop_path_rate=0.0)

    def predictor(self, model: TrainedModel, side: int | None = None, protocol: Protocol = WHOLE) -> Predictor:
        """Return what predicts photos, resized to a shorter side of `side` pixels or to the recipe's."""
        preprocess = self.recipe.data.preprocess
        if side is not None:
            preprocess = replace(preprocess, short_side=side, long_side=4 * side)
        return Predictor(TorchEngine(model.network, self.device), preprocess, self.train.labels, protocol=protocol)

    def mIoU(self, model: TrainedModel, side: int, protocol: Protocol = WHOLE) -> float:
        """Return a network's mIoU on the validation photos, resized to a shorter side."""
        counts = score(self.predictor(model, side, protocol), self.val, range(len(self.val)), batch_size=4)
        return round(counts.metrics().mIoU, 2)


def trained(setting: Setting, variant: Variant) -> tuple[TrainedModel, dict[str, Any]]:
    """Train a network to the end of its recipe, unless that is done; return it, its scores and its steps.

    Raises:
        TrainingError: its folder belongs to other settings, is in use or damaged, or the run diverged.
        SystemExit: the process was told to stop; a checkpoint is written.
    """
    folder, model = setting.runs / variant.key, variant.model
    name, spec = (model, None) if isinstance(model, str) else (model.title, model)
    recipe = replace(setting.recipe, model=replace(setting.recipe.model, name=name, spec=spec))
    report = folder / REPORT_FOLDER / "report.json"
    begun = has_checkpoint(folder / CHECKPOINT_FOLDER)
    if report.exists() or begun:
        _refuse(folder, recipe.differences(Recipe.from_file(folder / RECIPE_FILE)))
    if not report.exists():
        data, workers, device = setting.data, setting.workers, setting.device
        try:
            run = train(data, folder, recipe=recipe, resume=begun, workers=workers, device=device)
        except SystemExit:
            note("where `terrazzo train` has --resume, give the same `terrazzo ablate` once more")
            raise
        if run is None:
            message, fix = "a study was started as one of several processes", "start it without torchrun"
            raise TrainingError(message, fix=fix, code="ablation-ranks")
    finished = load_folder(folder / MODEL_FOLDER, variant.title)
    _refuse(folder, _other_data(setting, finished))
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    scores = read_json(report, error=TrainingError, code="ablation-result")
    try:
        found = {key: float("nan" if scores[key] is None else scores[key]) for key in SCORES}
        return finished, {**found, "steps": finished.record["step"]}
    except (TypeError, KeyError, ValueError) as error:
        where, fix = shown_path(report), f"remove {shown_path(folder)} to train the network again"
        raise TrainingError(f"{where} does not hold scores", fix=fix, code="ablation-result") from error


def _other_data(setting: Setting, model: TrainedModel) -> list[str]:
    """Say in what the data set differs from the one that a model was trained on."""
    train, record = setting.train, model.record
    pairs = {
        "folder": (train.root.resolve().name, record["data"]),
        "number of photos": ((len(train), len(setting.val)), (record["train_photos"], record["val_photos"])),
        "list of classes": (train.labels.names, model.labels.names),
        "set of mask values": (train.labels.stored_values, model.labels.stored_values),
    }
    return [what for what, (now, then) in pairs.items() if now != then]


def _refuse(folder: Path, other: list[str]) -> None:
    if other:
        raise TrainingError(
            f"{shown_path(folder)} was trained with another {', '.join(other)}",
            fix="give the options it was started with, or choose another --output",
            code="ablation-settings",
        )
