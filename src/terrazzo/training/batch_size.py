"""The automatic batch size: the largest power of two whose step fits into the free memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terrazzo.data import Dataset
from terrazzo.models.segmenter import Segmenter
from terrazzo.training.distributed import Ranks, ranks_here
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.memory import memory_of
from terrazzo.training.memory_plan import ALONGSIDE, in_words, step_memory
from terrazzo.training.recipe import Recipe
from terrazzo.training.start import start_network
from terrazzo.weights.files import TrainedModel

__all__ = ["AUTO", "fitting_batch_size", "with_fitting_batch"]

AUTO = "auto"

MOST = 64
"""Larger batches take a learning rate of their own."""

LEAST_STEPS = 8
"""An epoch keeps so many steps: few photos in large batches learn little from each pass."""

SHARE = 0.8
"""Of the free memory: what an estimate does not see, and what other programs take later."""


def fitting_batch_size(
    recipe: Recipe, model: Segmenter, loss: CombinedLoss, photos: int, ranks: Ranks, teacher: Segmenter | None = None
) -> tuple[int, str]:
    """Return the batch size to use, and a line that says why it is not larger.

    Args:
        recipe: whose batch size is to be found.
        model: what is trained, on the device where it is to be trained.
        loss: what is minimised.
        photos: how many there are to learn from.
        ranks: this process among those of the run.
        teacher: what is distilled.
    """
    unit = ranks.world_size * recipe.run.accumulate
    sizes = [unit * 2**power for power in range(17)]
    least = next(size for size in sizes if size >= 2 * unit)  # decoders have BatchNorm, which takes two images
    most = max([least, *(size for size in sizes if size <= min(MOST, photos // LEAST_STEPS))])
    why = f"{MOST} is the most" if most * 2 > MOST else f"an epoch of {photos} photos keeps {LEAST_STEPS} steps"
    memory = memory_of(ranks.device)
    if memory is None:
        return min(8 * unit, most), "batch     8 for each process: how much memory is free cannot be told here"
    on_cpu = ranks.device.type == "cpu"
    sharing, alongside = (ranks_here(ranks.world_size), ALONGSIDE) if on_cpu else (1, 0)
    trial = recipe.changed({"run.batch_size": least})
    estimate = step_memory(model, trial, loss, ranks, teacher)

    def needed(size: int) -> int:
        return (estimate.with_batch(size // unit) + alongside) * sharing

    found = max([least, *(size for size in sizes if size <= most and needed(size) <= SHARE * memory.free)])
    if found < most:
        why = f"{2 * found} would take about {in_words(needed(2 * found))}, and {in_words(memory.free)} are free"
    return found, f"batch     {found} photos a step, about {in_words(needed(found))}: {why}"


def with_fitting_batch(
    recipe: Recipe,
    train: Dataset,
    pixels_NK: NDArray[np.integer],
    ranks: Ranks,
    teacher: TrainedModel | None,
    made_here: bool,
) -> tuple[Recipe, str]:
    """Return a recipe with the largest batch that fits into memory, and a line that says so.

    Args:
        recipe: with any batch size.
        train: the training split.
        pixels_NK: of each class in each of its masks.
        ranks: this process among those of the run.
        teacher: what is distilled.
        made_here: the recipe was made from the photos, so that its warm-up follows the number of steps.
    """
    trial = replace(recipe, model=replace(recipe.model, weights=None))
    network, _ = start_network(trial, train.labels, ranks.device, None, reset_head=False)
    pixels_K = torch.from_numpy(pixels_NK.sum(axis=0, dtype=np.int64))
    loss = CombinedLoss(recipe.loss, pixels_K, train.labels.ignore_index, ranks.device, train.labels.names)
    theirs = None if teacher is None else teacher.network.without_auxiliary().to(ranks.device)
    size, line = fitting_batch_size(recipe, network, loss, len(train), ranks, theirs)
    size = min(ranks.gather(size))  # what is free differs from moment to moment
    changes: dict[str, Any] = {"run.batch_size": size}
    if made_here:
        total = (recipe.run.steps or 0) + (recipe.run.epochs or 0) * max(len(train) // size, 1)
        changes["optimizer.warmup_steps"] = min(recipe.optimizer.warmup_steps, total // 10)
    return recipe.changed(changes), line
