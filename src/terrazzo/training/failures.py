"""Failed training steps: undo them, explain them in plain words, and save what was learnt before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from terrazzo.errors import CheckpointError, ConfigError, TerrazzoError, TrainingError
from terrazzo.text import said_by
from terrazzo.training.rng import generator_states, set_generators

__all__ = [
    "put_back",
    "refuse_divergence",
    "saved_on_failure",
    "told_of_divergence",
    "told_of_failures",
    "undone_on_failure",
]

MOST_BAD_STEPS = 20
"""Steps without a finite gradient, one after another, that end a run."""


@contextmanager
def told_of_failures(step: int, device: torch.device) -> Iterator[None]:
    """Turn out-of-memory, device and compiler errors inside the block into errors in plain words.

    Raises:
        TrainingError: memory ran out, or the compiler failed.
        ConfigError: the device has no such operator.
    """
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise TrainingError(
                f"{'this machine' if device.type == 'cpu' else 'the GPU'} ran out of memory in step {step}",
                fix="go on with --resume --checkpointing, or start again with --accumulate 2, a smaller --batch-size "
                "or a smaller --crop",
                code="training-memory",
            ) from error
        if isinstance(error, NotImplementedError) and device.type != "cpu":
            raise ConfigError(
                f"step {step}: PyTorch cannot compute this network on {device.type}: {said_by(error, 200)}",
                fix="train with --device cpu, or let the CPU take over such operators: on Apple's GPUs, set "
                "PYTORCH_ENABLE_MPS_FALLBACK=1",
                code="config-device",
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = said_by(error, 200)
            raise TrainingError(
                f"the network could not be compiled: {reason}",
                fix="train without --compile",
                code="training-compile",
            ) from error
        raise


@contextmanager
def told_of_divergence(step: int) -> Iterator[None]:
    """Say that logits which are not finite come from training, where `predict` would suspect the file.

    Raises:
        TrainingError: the logits are not finite.
    """
    try:
        yield
    except CheckpointError as error:
        if error.code != "logits-not-finite":
            raise
        raise TrainingError(
            f"the network's logits are not finite after step {step}: the run has diverged",
            fix="lower the learning rate with --lr, or train with --precision fp32",
            code="training-diverged",
        ) from error


@contextmanager
def undone_on_failure(model: nn.Module, statistics: list[Tensor], device: torch.device) -> Iterator[None]:
    """Take back what a step that fails has changed: buffers, and what was drawn at random.

    Args:
        model: what is trained.
        statistics: copies of its buffers from before the step.
        device: where it is trained.
    """
    generators = generator_states(device)
    try:
        yield
    except Exception:
        put_back(model, statistics)
        set_generators(generators, device)
        raise


def put_back(model: nn.Module, statistics: list[Tensor], unless: Tensor | None = None) -> None:
    """Give a model's buffers the values of copies of them, unless a flag on their device is set."""
    for buffer, value in zip(model.buffers(), statistics, strict=True):
        buffer.copy_(value if unless is None else torch.where(unless, buffer, value))


@contextmanager
def saved_on_failure(save: Callable[[], None]) -> Iterator[None]:
    """Save before an error ends the run, so that --resume loses nothing; a diverged state is not worth keeping.

    Args:
        save: does it, where there is something to save.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, TerrazzoError) and error.code == "training-diverged"):
            with suppress(TerrazzoError):  # such as a full disk, which may be the error itself
                save()
        raise


def refuse_divergence(bad_steps: int, images: str) -> None:
    """End a run that takes no more steps.

    Args:
        bad_steps: steps in a row without a finite gradient.
        images: names of the last one's.

    Raises:
        TrainingError: there were too many.
    """
    if bad_steps >= MOST_BAD_STEPS:
        raise TrainingError(
            f"{bad_steps} steps in a row had no finite gradient; the last one's photos: {images}",
            fix="lower the learning rate, or look at these photos and masks with `terrazzo check-data`",
            code="training-diverged",
        )


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether PyTorch or Python could not get memory; on the CPU PyTorch has no error of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("can't allocate memory", "bad_alloc", "backend out of memory")  # the last on Apple's GPUs
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
