"""Whether a run's steps fit into memory, and what would make them fit, said before the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from terrazzo.data.loaders import batch_bytes
from terrazzo.errors import TrainingError
from terrazzo.models.decoders.pyramid import PooledBranch
from terrazzo.models.segmenter import Segmenter
from terrazzo.training.acceleration import uses_bf16
from terrazzo.training.distributed import Ranks, ranks_here
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.memory import StepMemory, estimate_step_memory, memory_of
from terrazzo.training.optim import optimizer_states
from terrazzo.training.recipe import Recipe

__all__ = ["ALONGSIDE", "MemoryPlan", "in_words", "memory_plan", "step_memory"]

TOLERANCE = 0.25
"""A step may take this much less than estimated; a run that cannot fit even then is refused."""

ALONGSIDE = 300_000_000
"""Bytes that a process on a CPU takes beside its tensors, once it computes: PyTorch's code and working space, and what
the C library holds between blocks. Measured at 240 to 350 MB (benchmarks/results/training_step.md)."""

PLENTY = 3
"""So many times what is needed has to be free before any of it is wasted."""


@dataclass(frozen=True)
class MemoryPlan:
    """What to tell and to do before the first step.

    Attributes:
        lines: what training takes and what there is; and where that may not be enough, what would help.
        plenty: whether there is so much that some may be wasted.
    """

    lines: list[str]
    plenty: bool


def memory_plan(
    model: Segmenter, recipe: Recipe, loss: CombinedLoss, ranks: Ranks, teacher: Segmenter | None = None
) -> MemoryPlan:
    """Compare what a step will take with what there is.

    Args:
        model: what is trained, on the device where it is.
        recipe: how.
        loss: what is minimised.
        ranks: this process among those of the run.
        teacher: what is distilled.

    Raises:
        TrainingError: a step cannot fit, not even if nothing else were in memory; or a BatchNorm sees a single value.
    """
    _refuse_immense(recipe, ranks)
    try:
        estimate = step_memory(model, recipe, loss, ranks, teacher)
    except ValueError as error:
        height, width = recipe.crop
        shares_statistics = recipe.run.sync_batchnorm and ranks.device.type == "cuda" and ranks.world_size > 1
        if "more than 1 value per channel" not in str(error) or shares_statistics:
            return _unknown(error)
        # Some decoders average a whole map, whatever its size.
        pools = any(isinstance(module, PooledBranch) and module.n == 1 for module in model.modules())
        raise TrainingError(
            f"BatchNorm would get a single value for each channel: a process learns from one window of {width} x "
            f"{height} in a step, and the network reduces it to 1 x 1",
            fix=f"raise --batch-size to {2 * ranks.world_size * recipe.run.accumulate} or more, or choose "
            f"{'another decoder' if pools else 'a larger --crop'}",
            code="training-batchnorm",
        ) from error
    except Exception as error:  # whatever an encoder from elsewhere does: a run goes on without an estimate
        return _unknown(error)
    # Processes on a CPU share its memory; each GPU has its own.
    on_cpu = ranks.device.type == "cpu"
    sharing = ranks_here(ranks.world_size) if on_cpu else 1
    alongside = ALONGSIDE if on_cpu else 0
    needed, memory = (estimate.total + alongside) * sharing, memory_of(ranks.device)
    line = f"memory    about {in_words(needed)} for training"
    if memory is None:
        return MemoryPlan([line], plenty=False)
    # The weights, and the average and the teacher if there are any, are in memory already.
    there = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    there *= 1 if recipe.run.ema_decay is None else 2
    if teacher is not None:
        there += sum(tensor.nbytes for tensor in [*teacher.parameters(), *teacher.buffers()])
    free = memory.free + there * sharing
    line += f", {in_words(free)} free"
    if needed <= free:
        return MemoryPlan([line], plenty=needed * PLENTY <= free)
    less = None
    if not recipe.run.checkpointing and _can_recompute(model):
        less = step_memory(model, recipe, loss, ranks, teacher, recompute_blocks=True)
    way_out = _way_out(estimate, less, free // sharing - alongside, recipe)
    place = "this machine" if on_cpu else "the GPU"
    if needed * (1 - TOLERANCE) > memory.total:
        raise TrainingError(
            f"a training step needs about {in_words(needed)}, and {place} has {in_words(memory.total)} in all",
            fix=way_out,
            code="training-memory",
        )
    return MemoryPlan([line, f"warning   that may not be enough: {way_out}"], plenty=False)


def _refuse_immense(recipe: Recipe, ranks: Ranks) -> None:
    """Raise a TrainingError where the windows of one batch alone are larger than this machine's memory."""
    memory = memory_of(torch.device("cpu"))
    photos = recipe.run.batch_size // ranks.world_size
    needed = batch_bytes(photos, recipe.crop, recipe.data.preprocess.in_channels) * ranks_here(ranks.world_size)
    if memory is not None and needed > memory.total:
        height, width = recipe.crop
        raise TrainingError(
            f"a batch of {recipe.run.batch_size} windows of {width} x {height} alone takes {in_words(needed)}, and "
            f"this machine has {in_words(memory.total)} in all",
            fix="lower --batch-size, or choose a smaller --crop",
            code="training-memory",
        )


def _unknown(error: Exception) -> MemoryPlan:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return MemoryPlan([f"memory    not known beforehand ({reason})"], plenty=False)


def step_memory(
    model: Segmenter,
    recipe: Recipe,
    loss: CombinedLoss,
    ranks: Ranks,
    teacher: Segmenter | None = None,
    *,
    recompute_blocks: bool = False,
) -> StepMemory:
    """Estimate what a recipe's step takes of each process, as `memory_plan` has it."""
    images = recipe.run.batch_size // ranks.world_size // recipe.run.accumulate
    return estimate_step_memory(
        model,
        images,
        recipe.crop,
        loss=loss,
        optimizer_states=optimizer_states(recipe.optimizer),
        has_average=recipe.run.ema_decay is not None,
        bf16=uses_bf16(recipe.run.precision, ranks.device),
        ranks=ranks.world_size,
        recompute_blocks=recompute_blocks,
        teacher=teacher,
        unlabelled=0 if recipe.unlabelled is None else images * recipe.unlabelled.ratio,
        sharded=recipe.run.fsdp and ranks.world_size > 1,
    )


def _way_out(estimate: StepMemory, recomputing: StepMemory | None, free: int, recipe: Recipe) -> str:
    """Name what would make a step fit into what is free for each process, the cheapest first.

    Args:
        estimate: what a step takes.
        recomputing: what it takes with activation checkpointing; None where that is on, or cannot be.
        free: bytes for each process.
        recipe: says in how many parts a step is computed.
    """
    ways = []
    if recomputing is not None:
        ways.append(f"add --checkpointing (about {in_words(estimate.total - recomputing.total)} less)")
    # Decoders have BatchNorm, which takes two images.
    fitting = [
        parts
        for parts in range(2, estimate.batch // 2 + 1)
        if not estimate.batch % parts and estimate.with_batch(estimate.batch // parts) <= free
    ]
    if fitting:
        ways.append(f"compute a step in parts with --accumulate {min(fitting) * recipe.run.accumulate}")
    fitting = [batch for batch in range(1, estimate.batch) if estimate.with_batch(batch) <= free]
    if fitting:
        share = recipe.run.batch_size // estimate.batch
        ways.append(f"lower --batch-size to {max(fitting) * share}")
    return ", ".join([*ways, "choose a smaller --crop"]).replace(", choose", ", or choose")


def _can_recompute(model: Segmenter) -> bool:
    encoder: Any = model.encoder
    return getattr(getattr(encoder, "backbone", None), "supports_gradient_checkpointing", True)


def in_words(size: int) -> str:
    """Write bytes as people do, in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 1):.0f} MB"
