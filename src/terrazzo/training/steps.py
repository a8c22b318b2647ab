"""What a step runs on: number type, compiler, and plain words where memory or compiler give out."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from terrazzo.errors import TrainingError

__all__ = ["compiled", "multiplies_bf16", "told_of_failures"]


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


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether PyTorch or Python could not get memory; on the CPU PyTorch has no error of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "bad_alloc" in str(error))
