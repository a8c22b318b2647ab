"""Trains and scores the networks of a study, each only once.

Each has an ordinary run folder, which holds ``result.json`` when it is done, and before that the checkpoints to go on
from. Several studies compare with the same network; they find the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terrazzo.ablation.studies import Variant
from terrazzo.atomic import write_atomic
from terrazzo.config import read_json
from terrazzo.data import Dataset
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import CheckpointError, ConfigError, TrainingError
from terrazzo.evaluation.evaluator import score
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.models import ModelSpec, find_spec
from terrazzo.notes import note
from terrazzo.text import shown_path
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import CHECKPOINT_FOLDER, MODEL_FOLDER
from terrazzo.training.train import train
from terrazzo.weights.files import TrainedModel, load_folder, save_folder

__all__ = ["Setting", "scores_by_side", "train_variant", "trained_model"]

RESULT_FILE, SIDES_FILE = "result.json", "sides.json"
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

    def spec(self, variant: Variant) -> ModelSpec:
        """Return what a variant's network is on these data."""
        spec = variant.model if isinstance(variant.model, ModelSpec) else find_spec(variant.model)
        return spec.adapted(self.train.labels.num_classes, image_size=self.recipe.crop, drop_path_rate=0.0)

    def recipe_of(self, variant: Variant) -> Recipe:
        """Return the recipe with a variant's network in it."""
        spec = variant.model if isinstance(variant.model, ModelSpec) else None
        name = variant.model if isinstance(variant.model, str) else variant.model.title
        return replace(self.recipe, model=replace(self.recipe.model, name=name, spec=spec))

    @property
    def windows(self) -> Protocol:
        """How photos are shown to a network in squares of the size that it was trained with, a quarter overlapping."""
        side = min(self.recipe.crop)
        return Protocol("training-windows", window=side, stride=max(side * 3 // 4, 1))

    def predictor(self, model: TrainedModel, side: int | None = None, protocol: Protocol = WHOLE) -> Predictor:
        """Return what takes photos, brought to a shorter side of `side` pixels or to the recipe's."""
        preprocess = self.recipe.data.preprocess
        if side is not None:
            preprocess = replace(preprocess, short_side=side, long_side=4 * side)
        return Predictor(TorchEngine(model.network, self.device), preprocess, self.train.labels, protocol=protocol)


def train_variant(setting: Setting, variant: Variant) -> dict[str, Any]:
    """Train a network to the end of its recipe, unless that is done, and return its scores on the validation photos.

    Raises:
        TrainingError: its folder belongs to other settings, is in use, or the run diverged.
        SystemExit: the process was told to stop; a checkpoint is written.
    """
    folder, recipe = setting.runs / variant.key, setting.recipe_of(variant)
    asked = {"recipe": recipe.to_dict(), "data": _data_of(setting)}
    if (folder / RESULT_FILE).exists():
        result = _read(folder / RESULT_FILE)
        if not all(isinstance(result.get(key), dict) for key in asked) or not all(
            isinstance(result.get(key), (int, float)) for key in (*SCORES, "steps", "minutes")
        ):
            raise _no_result(folder / RESULT_FILE)
        _refuse_other_settings(folder, result, recipe, asked["data"])
        return {key: result[key] for key in (*SCORES, "steps", "minutes")}
    begun = has_checkpoint(folder / CHECKPOINT_FOLDER)
    try:
        run = train(setting.data, folder, recipe=recipe, resume=begun, workers=setting.workers, device=setting.device)
    except SystemExit:
        note("here --resume means the same `terrazzo ablate` once more")
        raise
    if run is None:
        raise TrainingError(
            "a study was started as one of several processes", fix="start it without torchrun", code="ablation-ranks"
        )
    scores = {key: round(getattr(run.report.metrics, key), 2) for key in SCORES}
    result = {**scores, "steps": run.steps, "minutes": round(run.seconds / 60, 2)}
    write_atomic(folder / RESULT_FILE, (json.dumps({**result, **asked}, indent=2) + "\n").encode())
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    return result


def trained_model(setting: Setting, variant: Variant) -> TrainedModel:
    """Load a finished network.

    Earlier versions saved a changed network under a name only, which cannot be loaded: it is saved again with its spec.

    Raises:
        CheckpointError: it is damaged.
    """
    folder = setting.runs / variant.key / MODEL_FOLDER
    try:
        return load_folder(folder, variant.title)
    except CheckpointError as error:
        if error.code != "model-name" or not isinstance(variant.model, ModelSpec):
            raise
    model = load_folder(folder, variant.title, ablated=setting.spec(variant))
    save_folder(folder, model, keep_others=True)
    return model


def scores_by_side(
    setting: Setting, variant: Variant, model: TrainedModel, sides: Sequence[int], protocol: Protocol = WHOLE
) -> dict[int, float]:
    """Return a finished network's mIoU on the validation photos, brought to each of some shorter sides.

    Sizes that were measured before are read from the run folder.
    """
    path = setting.runs / variant.key / SIDES_FILE
    known: dict[str, float] = _read(path) if path.exists() else {}
    keys = {side: str(side) if protocol is WHOLE else f"{side} in windows" for side in sides}
    for side, key in keys.items():
        if key not in known:
            predictor = setting.predictor(model, side, protocol)
            counts = score(predictor, setting.val, range(len(setting.val)), batch_size=4)
            known[key] = round(counts.metrics().mIoU, 2)
            write_atomic(path, (json.dumps(known) + "\n").encode())
    return {side: known[key] for side, key in keys.items()}


def _data_of(setting: Setting) -> dict[str, Any]:
    """Return what tells the data set from another one."""
    labels = setting.train.labels
    return {
        "folder": setting.train.root.resolve().name,
        "train_photos": len(setting.train),
        "val_photos": len(setting.val),
        "classes": list(labels.names),
        "mask values": {str(k): v for k, v in labels.stored_values},
    }


def _refuse_other_settings(folder: Path, result: dict[str, Any], recipe: Recipe, data: dict[str, Any]) -> None:
    try:
        before = Recipe.from_dict(result["recipe"], shown_path(folder / RESULT_FILE))
    except ConfigError as error:
        raise _no_result(folder / RESULT_FILE) from error
    other = [*recipe.differences(before), *(key for key in data if result["data"].get(key, data[key]) != data[key])]
    if other:
        raise TrainingError(
            f"{shown_path(folder)} was trained with another {', '.join(other)}",
            fix="give the options it was started with, or choose another --output",
            code="ablation-settings",
        )


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path, error=TrainingError, code="ablation-result")
    if not isinstance(values, dict):
        raise _no_result(path)
    return values


def _no_result(path: Path) -> TrainingError:
    return TrainingError(
        f"{shown_path(path)} does not hold a result", fix="remove it to measure again", code="ablation-result"
    )
