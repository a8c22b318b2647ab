"""Training one variant of a study, and measuring it: once, however often it is asked for.

A variant's folder holds ``result.json`` when it is done, and before that the checkpoints to go on from. Several studies
compare with the same network; they find the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from terrazzo.ablation.studies import Variant, build
from terrazzo.atomic import make_folder, write_atomic
from terrazzo.config import read_json
from terrazzo.data import Dataset
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import CheckpointError, ConfigError, TrainingError
from terrazzo.evaluation.evaluator import score
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.models import Segmenter
from terrazzo.text import shown_path
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.data import labelled_pixels
from terrazzo.training.distributed import Ranks
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import (
    CHECKPOINT_FOLDER,
    MODEL_FOLDER,
    clear_leftovers,
    locked,
    refuse_or_resume,
    write_recipe,
)
from terrazzo.training.trainer import Trainer
from terrazzo.weights.files import WEIGHTS_FILE
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["Setting", "scores_by_side", "train_variant", "trained_network"]

RESULT_FILE, SIDES_FILE = "result.json", "sides.json"
SCORES = ("mIoU", "mAcc", "aAcc")


@dataclass(frozen=True)
class Setting:
    """What all variants of a study share.

    Attributes:
        recipe: how each is trained, but for its model.
        train: the photos to learn from.
        val: the photos to measure on.
        runs: the folder of the variants' folders.
        device: where to compute.
        workers: loader processes.
    """

    recipe: Recipe
    train: Dataset
    val: Dataset
    runs: Path
    device: torch.device
    workers: int

    def recipe_of(self, variant: Variant) -> Recipe:
        """Return the recipe with a variant's network in it."""
        encoder = None if variant.encoder is None else f"hf:{self._encoder_file(variant).resolve()}"
        return replace(self.recipe, model=replace(self.recipe.model, name=variant.name, encoder=encoder))

    def write_encoder(self, variant: Variant) -> None:
        """Write the configuration that the variant's recipe names, if it names one."""
        if variant.encoder is not None:
            make_folder(self.runs / variant.key)
            write_atomic(self._encoder_file(variant), (json.dumps(variant.encoder, indent=2) + "\n").encode())

    def network(self, variant: Variant) -> Segmenter:
        """Return a variant's network with random weights."""
        return build(variant, self.train.labels.num_classes, self.recipe.crop)

    @property
    def windows(self) -> Protocol:
        """How photos are shown to a network in squares of the size that it was trained with, a quarter overlapping."""
        side = min(self.recipe.crop)
        return Protocol("training-windows", window=side, stride=max(side * 3 // 4, 1))

    def predictor(self, network: Segmenter, side: int | None = None, protocol: Protocol = WHOLE) -> Predictor:
        """Return what takes photos, brought to a shorter side of `side` pixels or to the recipe's."""
        preprocess = self.recipe.data.preprocess
        if side is not None:
            preprocess = replace(preprocess, short_side=side, long_side=4 * side)
        return Predictor(TorchEngine(network, self.device), preprocess, self.train.labels, protocol=protocol)

    def _encoder_file(self, variant: Variant) -> Path:
        return self.runs / variant.key / "encoder.json"


def train_variant(setting: Setting, variant: Variant) -> dict[str, Any]:
    """Train a variant to the end of its recipe, unless that is done, and return its scores on the validation photos.

    Raises:
        TrainingError: its folder belongs to other settings, is in use, or the run diverged.
        SystemExit: the process was told to stop; a checkpoint is written.
    """
    folder, recipe = setting.runs / variant.key, setting.recipe_of(variant)
    asked = {"recipe": recipe.to_dict(), "data": _photos(setting)}
    with locked(folder):
        if (folder / RESULT_FILE).exists():
            result = _read(folder / RESULT_FILE)
            if not all(isinstance(result.get(key), dict) for key in asked) or not all(
                isinstance(result.get(key), (int, float)) for key in SCORES
            ):
                raise _no_result(folder / RESULT_FILE)
            _refuse_other_settings(folder, result, recipe, asked["data"])
            return result
        refuse_or_resume(folder, has_checkpoint(folder / CHECKPOINT_FOLDER))
        clear_leftovers(folder)
        setting.write_encoder(variant)
        trainer = Trainer(
            recipe, setting.train, setting.val, labelled_pixels(setting.train), folder, Ranks(0, 1, setting.device),
            setting.workers, spec=variant.spec,
        )  # fmt: skip
        if has_checkpoint(folder / CHECKPOINT_FOLDER):
            trainer.resume()
        write_recipe(folder, recipe)
        try:
            trainer.run()
        except SystemExit:
            trainer.log.say("here that is: the same `terrazzo ablate` once more")
            raise
        scores = {key: trainer.log.rows[-1][key] for key in SCORES}
        result = {**scores, "steps": trainer.state.step, "minutes": round(trainer.state.seconds / 60, 2), **asked}
        write_atomic(folder / RESULT_FILE, (json.dumps(result, indent=2) + "\n").encode())
        shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    return result


def trained_network(setting: Setting, variant: Variant) -> Segmenter:
    """Return a finished variant's network with its weights.

    Raises:
        CheckpointError: they are damaged.
    """
    network = setting.network(variant)
    network.drop_auxiliary()
    path = setting.runs / variant.key / MODEL_FOLDER / WEIGHTS_FILE
    tensors = read_tensor_file(path).tensors
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {variant.name}",
            fix=f"remove {setting.runs / variant.key} to train it again",
        ) from error
    return network.eval()


def scores_by_side(
    setting: Setting, variant: Variant, sides: Sequence[int], protocol: Protocol = WHOLE
) -> dict[int, float]:
    """Return a finished variant's mIoU on the validation photos, brought to each of some shorter sides.

    What was measured before is read, not measured again.
    """
    path = setting.runs / variant.key / SIDES_FILE
    known: dict[str, float] = _read(path) if path.exists() else {}
    keys = {side: str(side) if protocol is WHOLE else f"{side} in windows" for side in sides}
    if missing := [side for side in sides if keys[side] not in known]:
        network = trained_network(setting, variant)
        for side in missing:
            predictor = setting.predictor(network, side, protocol)
            counts = score(predictor, setting.val, range(len(setting.val)), batch_size=4)
            known[keys[side]] = round(counts.metrics().mIoU, 2)
            write_atomic(path, (json.dumps(known) + "\n").encode())
    return {side: known[keys[side]] for side in sides}


def _photos(setting: Setting) -> dict[str, Any]:
    name = setting.train.root.resolve().name
    photos = {"folder": name, "train_photos": len(setting.train), "val_photos": len(setting.val)}
    labels = setting.train.labels
    return {**photos, "classes": list(labels.names), "mask values": {str(k): v for k, v in labels.stored_values}}


def _refuse_other_settings(folder: Path, result: dict[str, Any], recipe: Recipe, data: dict[str, Any]) -> None:
    try:
        before = Recipe.from_dict(result["recipe"], shown_path(folder / RESULT_FILE))
    except ConfigError as error:
        raise _no_result(folder / RESULT_FILE) from error
    # The path of an encoder's configuration moves with the folder.
    other = [path for path in recipe.differences(before) if path != "model.encoder"]
    if other := [*other, *(key for key in data if result["data"].get(key, data[key]) != data[key])]:
        raise TrainingError(
            f"{folder} was trained with another {', '.join(other)}",
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
