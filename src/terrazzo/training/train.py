"""`train`: the public function from a folder of masks, or a recipe, to a finished run."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import terrazzo
from terrazzo.data import open_dataset
from terrazzo.errors import CheckpointError
from terrazzo.evaluation.report import Report
from terrazzo.images import image_size
from terrazzo.inference.engines.torch import keep_freed_memory
from terrazzo.labels import LabelSpec
from terrazzo.models import Segmenter
from terrazzo.training.artifacts import write_artifacts
from terrazzo.training.distributed import joined_ranks
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.run_folder import MODEL_FOLDER, locked, refuse_or_resume
from terrazzo.training.trainer import Trainer, open_splits
from terrazzo.weights.load import load

__all__ = ["Run", "train"]


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        output: its folder.
        model: the folder of its best model, for `terrazzo.load`.
        report: the best model's scores on the validation photos.
    """

    output: Path
    model: Path
    report: Report


def train(
    data: str | Path,
    output: str | Path,
    model: str = "segformer_b0",
    *,
    recipe: str | Path | Recipe | None = None,
    labels: str | None = None,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    workers: int | None = None,
    device: str | None = None,
) -> Run | None:
    """Train a model and write a run folder: weights, configuration, log, curves, report, pictures.

    Args:
        data: the data set's folder.
        output: the run's folder.
        model: architecture name, where there is no recipe.
        recipe: a complete recipe or the path of one; by default one is made from the photos (`automatic_recipe`).
        labels: a bundled class list for a folder that does not say what its classes are.
        weights: model to start from (as `terrazzo.load` takes it); it must be the same architecture. Where its classes
            are not the data set's, its classifier starts at random.
        overrides: recipe fields that take other values, such as ``{"epochs": 20}``.
        resume: go on from the newest checkpoint in `output`; the result is the same as without the break.
        workers: loader processes; by default one for each core but one, at most 8.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.

    Returns:
        The finished run; None on the ranks that write no files.

    Raises:
        ConfigError: the recipe or an override is not usable.
        DatasetError: the data set cannot be read.
        TrainingError: the folder is taken, there is nothing to resume, or the run diverged.
    """
    data, output = Path(data), Path(output)
    keep_freed_memory()
    chosen = _recipe(recipe, model, data, labels, weights)
    if overrides:
        chosen = Recipe.from_dict({**chosen.to_dict(), **overrides}, "the command line")
    train_split, val_split = open_splits(chosen, data)
    initial = load(chosen.weights).network if chosen.weights else None
    if workers is None:
        workers = min(max(len(os.sched_getaffinity(0)) - 1, 1), 8)
    with joined_ranks(device) as ranks:
        if ranks.is_main:
            refuse_or_resume(output, resume)
        trainer = Trainer(chosen, train_split, val_split, output, ranks, workers)
        if initial is not None:
            _start_from(trainer.model, initial, chosen)
        with locked(output, ranks.is_main):
            if resume:
                trainer.resume()
            trainer.run()
            if not ranks.is_main:
                return None
            report = write_artifacts(trainer, training_record(trainer, data))
    return Run(output, output / MODEL_FOLDER, report)


def _recipe(
    recipe: str | Path | Recipe | None, model: str, data: Path, labels: str | None, weights: str | None
) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return Recipe.from_file(Path(recipe))
    spec = LabelSpec.bundled(labels) if labels else None
    photos = open_dataset(data, "train", spec).samples
    automatic = automatic_recipe(model, [image_size(sample.image) for sample in photos], weights=weights)
    return dataclasses.replace(automatic, labels=labels)


def _start_from(network: Segmenter, initial: Segmenter, recipe: Recipe) -> None:
    """Copy the weights to start from; a classifier for other classes stays random."""
    mine, theirs = network.state_dict(), initial.state_dict()
    other = {key for key in mine if key not in theirs or mine[key].shape != theirs[key].shape}
    if mine.keys() != theirs.keys() or any(not key.startswith("decoder.classifier.") for key in other):
        raise CheckpointError(
            f"{recipe.weights} is not a {recipe.model}",
            fix="start from weights of the same architecture",
            code="checkpoint-architecture",
        )
    network.load_state_dict({**theirs, **{key: mine[key] for key in other}})


def training_record(trainer: Trainer, data: Path) -> dict[str, Any]:
    """Return what a model's config.json says about where it comes from."""
    device = trainer.ranks.device
    machine = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    )
    return {
        "data": data.resolve().name,
        "train_photos": len(trainer.loader.dataset),
        "val_photos": len(trainer.val),
        "hours": round(trainer.seconds / 3600, 2),
        "machine": machine,
        "versions": {"terrazzo": terrazzo.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "recipe": trainer.recipe.to_dict(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
