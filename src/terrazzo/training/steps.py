"""What a step runs on: number type and compiler; and steps that fail, which are undone and told in plain words."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.errors import CheckpointError, TrainingError

__all__ = ["compiled", "multiplies_bf16", "told_of_divergence", "told_of_failures", "undone_on_failure"]


def multiplies_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies bf16 natively; elsewhere autocast is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compiled(module: nn.Module, device: torch.device) -> Any:
    """Return a callable that compiles a module when it is first called; the module keeps the names of its weights.

    Raises:
        TrainingError: what compiles for this device is not installed.
    """
    if device.type == "cuda":
        missing = None if importlib.util.find_spec("triton") else "Triton, which PyTorch compiles for GPUs with"
    else:
        compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
        found = any(shutil.which(compiler) for compiler in compilers)
        missing = None if found else f"a C++ compiler ({', '.join(compilers)}), which PyTorch compiles for CPUs with"
    if missing is not None:
        raise TrainingError(
            f"compile needs {missing}, and there is none",
            fix="install it, or train without --compile",
            code="training-no-compiler",
        )
    compile_: Callable[..., Any] = torch.compile
    return compile_(module, dynamic=False)


@contextmanager
def told_of_failures(step: int, device: torch.device) -> Iterator[None]:
    """Say in plain words that a step needs more memory than there is, or that the compiler failed.

    Raises:
        TrainingError: either of the two.
    """
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise TrainingError(
                f"{'the GPU' if device.type == 'cuda' else 'this machine'} ran out of memory in step {step}",
                fix="go on with --resume --checkpointing, or start again with a smaller --batch-size or --crop",
                code="training-memory",
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(str(error).split())[:200]
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
    on_gpu = device.type == "cuda"
    cpu, gpu = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
    try:
        yield
    except Exception:
        for buffer, value in zip(model.buffers(), statistics, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)
        raise


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether PyTorch or Python could not get memory; on the CPU PyTorch has no error of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "bad_alloc" in str(error))
