"""Layers, initialisers and a matrix that several models share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

__all__ = [
    "ConvNormReLU",
    "DropPath",
    "NothingToInitialize",
    "ceil_div",
    "first_cells",
    "fold_norm",
    "has_hooks",
    "init_conv_fan_out",
    "init_transformer_linear",
    "interpolation_matrix",
    "is_unchanged",
    "linear_ramp",
    "recomputed",
]


def has_hooks(module: nn.Module) -> bool:
    """Whether a module or one of its parts has a hook on its forward pass, or a `forward` that is not its class's."""
    return any(
        bool(part._forward_hooks or part._forward_pre_hooks) or "forward" in vars(part) for part in module.modules()
    )


def is_unchanged(module: nn.Module) -> bool:
    """Whether all parts of a module are ours or PyTorch's and without hooks.

    Only then do the forms of it that are written for speed compute the same. Somebody may have put in other layers, as
    LoRA does.
    """
    ours = ("terrazzo.models.", "torch.nn.modules.")
    return not has_hooks(module) and all(type(part).__module__.startswith(ours) for part in module.modules())


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al. 2016): drop a residual branch, scale the kept ones by 1 / keep.

    Args:
        drop_prob: probability of dropping a sample's branch, in [0, 1).
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_prob must be in [0, 1), not {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1.0 - self.drop_prob
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        return x * keep.div_(keep_prob)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"


class ConvNormReLU(nn.Module):
    """Convolution without bias that keeps the map's size, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x_BChw)), inplace=True)


def fold_norm(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a BatchNorm in evaluation multiplies each channel by, and what it adds to it."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale_C = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale_C, norm.bias - norm.running_mean * scale_C


def init_transformer_linear(linear: nn.Linear) -> None:
    """Truncated normal of std 0.02 cut at +-2 (so in effect untruncated), bias 0: both papers' code."""
    nn.init.trunc_normal_(linear.weight, std=0.02, a=-2.0, b=2.0)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def init_conv_fan_out(conv: nn.Conv2d) -> None:
    """Normal of std sqrt(2 / fan_out), fan_out = kernel area x output channels / groups, bias 0 (SegFormer's code)."""
    fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, std=math.sqrt(2.0 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def linear_ramp(end: float, steps: int) -> list[float]:
    """The drop-path rates of `steps` blocks, from 0 to `end`."""
    return [end * step / max(steps - 1, 1) for step in range(steps)]


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, draws: bool = False) -> Tensor:
    """Activation checkpointing: call a function again in the backward pass instead of keeping its inner tensors.

    Values and gradients stay the same; x is kept.

    Args:
        function: what to call; it must have no side effects.
        x: its argument.
        draws: whether it draws random numbers, which the second call has to repeat.
    """
    again: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=draws)
    return again


def ceil_div(side: int, step: int) -> int:
    """Divide and round up, in a form that torch.export and ONNX handle for dynamic sizes; not for negative numbers.

    `-(-side // step)` would be wrong in ONNX, whose division rounds towards zero.
    """
    return (side + step - 1) // step


def first_cells(x_BChw: Tensor, height: int, width: int) -> Tensor:
    """Return the first rows and columns of a map."""
    if not torch.compiler.is_exporting():
        return x_BChw[:, :, :height, :width]
    # A slice of a dynamic size would need to know whether it cuts anything off.
    rows, columns = (torch.arange(side, device=x_BChw.device) for side in (height, width))
    return x_BChw.index_select(2, rows).index_select(3, columns)


def interpolation_matrix(source: int, target: int, like: Tensor, align_corners: bool = False) -> Tensor:
    """Return the (target, source) matrix of bilinear resizing along one axis.

    Args:
        source: size to resize from.
        target: size to resize to.
        like: gives the matrix its device and dtype.
        align_corners: whether the outermost pixel centres stay where they are, instead of the outer edges.
    """
    eye = torch.eye(source, device=like.device, dtype=like.dtype)[None]
    return F.interpolate(eye, target, mode="linear", align_corners=align_corners)[0].T.contiguous()


class NothingToInitialize(TorchFunctionMode):
    """A mode that skips in-place operations on parameters, and on all tensors without memory (initialisation).

    For the random ones among the latter PyTorch would first import its compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if in_place and (isinstance(target, nn.Parameter) or (isinstance(target, Tensor) and target.is_meta)):
            return target
        return func(*args, **kwargs)
