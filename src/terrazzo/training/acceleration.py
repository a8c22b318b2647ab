"""What makes training steps faster: bf16 where the hardware multiplies it natively, and PyTorch's compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from terrazzo.engines.bfloat16 import multiplies_bfloat16
from terrazzo.errors import TrainingError

__all__ = ["compiled", "uses_bf16"]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Tell whether the forward pass is under autocast to bf16.

    Args:
        precision: the recipe's; ``auto`` is bf16 where the device multiplies it natively; elsewhere autocast is slower
            than float32.
        device: where the run computes.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return multiplies_bfloat16()


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
