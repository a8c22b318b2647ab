"""`pretrain`: the public function from a folder of photos without masks to an encoder that training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from terrazzo.arguments import checked
from terrazzo.data.photos import open_photos
from terrazzo.imaging.png import encode_png
from terrazzo.labels.spec import LabelSpec
from terrazzo.ownership import set_aside, write_result
from terrazzo.text import printable
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.decoded import decoded_where_they_fit
from terrazzo.training.distributed import joined_ranks, restarted_by_torchrun
from terrazzo.training.preflight import refuse_unreadable, usual_workers
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.pretrainer import Pretrainer
from terrazzo.training.record import machine_name
from terrazzo.training.run_folder import (
    CHECKPOINT_FOLDER,
    MODEL_FOLDER,
    RECIPE_FILE,
    clear_leftovers,
    locked,
    refuse_or_resume,
    write_recipe,
)

__all__ = ["Pretraining", "pretrain"]

DEFAULT_MODEL = "segformer_b0"
SHEET_FILE = "filled_in.png"
SHOWN = 6  # windows in the picture
NOT_MASKS = LabelSpec.from_names(["seen", "hidden"])


@dataclass(frozen=True)
class Pretraining:
    """A finished pretraining run.

    Attributes:
        output: its folder, which `train` takes as weights.
        encoder: the folder of the encoder in it.
        loss: of the last epoch.
        steps: optimiser steps that were taken.
        seconds: that they took.
    """

    output: Path
    encoder: Path
    loss: float
    steps: int
    seconds: float


@checked
def pretrain(
    photos: str | Path,
    output: str | Path,
    model: str | None = None,
    *,
    recipe: str | Path | PretrainRecipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    workers: int | None = None,
    device: str | None = None,
) -> Pretraining | None:
    """Pretrain an encoder on photos without masks, by masked image modelling, and write a run folder.

    Args:
        photos: a folder of photos, searched to any depth.
        output: the run's folder; `train` takes it as `weights`.
        model: whose encoder is trained: an encoder such as ``mit_b0``, or a model; by default segformer_b0.
        recipe: a complete recipe or the path of one; by default that of `PretrainRecipe`, or, to resume, the run's own.
        overrides: recipe fields that take other values, such as ``{"epochs": 200, "optimizer.lr": 1e-3}``.
        resume: go on from the newest checkpoint in `output`; the result is the same as without the break.
        workers: loader processes; by default one for each core but one, at most 8.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.

    Returns:
        The finished run; None on the ranks that write no files.

    Raises:
        ConfigError: the recipe or an override is not usable, or there is no such encoder.
        ImageError: a photo cannot be read, or there are none.
        TrainingError: the folder is taken, there is nothing to resume, or the run diverged.
        OutputError: the output folder cannot be written to.
    """
    folder, output = Path(photos), Path(output)
    resume = resume or (restarted_by_torchrun() and has_checkpoint(output / CHECKPOINT_FOLDER))
    refuse_or_resume(output, resume)
    if resume and recipe is None and (output / RECIPE_FILE).exists():
        recipe = output / RECIPE_FILE
    if isinstance(recipe, str | Path):
        recipe = PretrainRecipe.from_file(Path(recipe))
    base = recipe or PretrainRecipe(model=model or DEFAULT_MODEL)
    chosen = base.changed({**({} if model is None else {"model": model}), **dict(overrides or {})})
    seen, _ = open_photos(folder, NOT_MASKS)
    refuse_unreadable((seen,), decode=False)
    if recipe is None:  # a short run warms up for a tenth of it
        steps = chosen.epochs * max(len(seen) // chosen.batch_size, 1)
        optimizer = replace(chosen.optimizer, warmup_steps=min(chosen.optimizer.warmup_steps, steps // 10))
        chosen = replace(chosen, optimizer=optimizer)
    (kept,), said = decoded_where_they_fit((seen,))
    with joined_ranks(device) as ranks, locked(output) if ranks.is_main else nullcontext():
        if ranks.is_main:
            clear_leftovers(output)
        count = workers if workers is not None else usual_workers()
        run = Pretrainer(chosen, kept, output, ranks, count)
        run.log.say(_plan(run, folder))
        for line in said:
            run.log.say(line)
        if resume:
            run.resume()
        if ranks.is_main:
            write_recipe(output, chosen)
        run.run()
        if ranks.is_main:
            path = output / SHEET_FILE
            set_aside([path], "train")
            write_result(path, encode_png(_sheet(run)), "train")
        ranks.wait()
        if not ranks.is_main:
            return None
    return Pretraining(output, output / MODEL_FOLDER, run.log.rows[-1]["loss"], run.state.step, run.state.seconds)


def _plan(run: Pretrainer, folder: Path) -> str:
    recipe, (height, width) = run.recipe, run.recipe.crop
    parameters = sum(parameter.numel() for parameter in run.model.encoder.parameters())
    lines = {
        "encoder": f"{recipe.model}, {parameters:,} parameters, from random weights",
        "photos": f"{len(run.loader.dataset)} in {folder}",
        "batch": f"{recipe.batch_size} windows of {width} x {height}, of which {recipe.mask_ratio:.0%} are hidden in "
        f"patches of {recipe.mask_patch}",
        "schedule": f"{run.epochs} epochs of {run.loader.batches_per_epoch} steps; learning rate {run.schedule.lr:g}",
        "machine": f"{machine_name(run.ranks.device)}, {'bf16' if run.bf16 else 'fp32'}",
        "output": str(run.output),
    }
    return "\n".join(f"{name:<9} {printable(text)}" for name, text in lines.items())


def _sheet(run: Pretrainer) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw some windows: as they are, as the network sees them, and as it fills them in."""
    batch = next(run.loader.batches(0, count=1))
    batch = (
        batch.parts(1)[0]
        if len(batch.indices) <= SHOWN
        else replace(batch, images=batch.images[:SHOWN], labels=batch.labels[:SHOWN], indices=batch.indices[:SHOWN])
    )
    run.model.eval()
    with torch.no_grad():
        _, pixels = run.fill_in(batch)
    hidden = (batch.labels == 1)[:, None]
    rows = batch.images, torch.where(hidden, 0.0, batch.images), torch.where(hidden, pixels.cpu(), batch.images)
    rule = run.recipe.preprocess
    drawn = [images.permute(0, 2, 3, 1).numpy() * rule.std + rule.mean for images in rows]
    sheet = np.concatenate([np.concatenate(list(images), axis=1) for images in drawn], axis=0)
    return np.clip(sheet + 0.5, 0, 255).astype(np.uint8)
