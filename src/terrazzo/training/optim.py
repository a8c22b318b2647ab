"""Optimisers, their parameter groups, and the poly schedule with linear warm-up (both papers' section 4.1 and code)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from terrazzo.models import Segmenter
from terrazzo.models.decoders.mla import MLADecoder
from terrazzo.training.sections import OptimizerSection

__all__ = [
    "create_optimizer",
    "follow_schedule",
    "learning_rate_factor",
    "optimizer_states",
    "parameter_groups",
    "set_learning_rate",
]


def create_optimizer(model: Segmenter, section: OptimizerSection) -> torch.optim.Optimizer:
    """Return a recipe's optimiser over the model's parameter groups."""
    groups = parameter_groups(model, section.lr, section.weight_decay, section.decoder_lr_factor)
    if section.name == "sgd":
        return torch.optim.SGD(groups, momentum=section.momentum, fused=True)
    return torch.optim.AdamW(groups, betas=(section.momentum, 0.999), fused=True)


def optimizer_states(section: OptimizerSection) -> int:
    """Tensors of its size that a recipe's optimiser keeps for each parameter."""
    return 2 if section.name == "adamw" else 1 if section.momentum else 0


def parameter_groups(
    model: Segmenter, lr: float, weight_decay: float, decoder_lr_factor: float
) -> list[dict[str, Any]]:
    """Split the parameters as both papers' code does.

    Decoder and auxiliary heads, their BatchNorm and biases included, get `decoder_lr_factor` times the rate, with
    decay. The encoder's norms get no decay (SETR decays nothing). Everything else, biases included, gets both as given.
    MLA's aggregation counts as encoder: it is part of the backbone in SETR's code.
    """
    backbone = [model.encoder, *([model.decoder.aggregation] if isinstance(model.decoder, MLADecoder) else [])]
    norms = {
        id(parameter)
        for part in backbone
        for module in part.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters()
    }
    encoder = [parameter for part in backbone for parameter in part.parameters()]
    inside = {id(parameter) for parameter in encoder}
    groups = [
        ([p for p in encoder if id(p) not in norms], lr, weight_decay),
        ([p for p in encoder if id(p) in norms], lr, 0.0),
        ([p for p in model.parameters() if id(p) not in inside], lr * decoder_lr_factor, weight_decay),
    ]
    return [{"params": p, "lr": rate, "base_lr": rate, "weight_decay": decay} for p, rate, decay in groups]


def follow_schedule(optimizer: torch.optim.Optimizer, section: OptimizerSection, step: int, total_steps: int) -> None:
    """Set the rates that a recipe's schedule has at 0-based `step`."""
    factor = learning_rate_factor(
        step, total_steps, power=section.power, warmup_steps=section.warmup_steps, warmup_ratio=section.warmup_ratio
    )
    set_learning_rate(optimizer, factor, section.min_lr)


def learning_rate_factor(step: int, total_steps: int, *, power: float, warmup_steps: int, warmup_ratio: float) -> float:
    """Return the factor on the base rate at 0-based `step`.

    (1 - t / T) ** power; during warm-up also times 1 - (1 - t / warmup_steps)(1 - warmup_ratio), so the warm-up rides
    on the decayed value.
    """
    factor: float = (1.0 - step / total_steps) ** power
    if step < warmup_steps:
        factor *= 1.0 - (1.0 - step / warmup_steps) * (1.0 - warmup_ratio)
    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float, min_lr: float) -> None:
    """Set every group's rate to (base - min_lr) * factor + min_lr."""
    for group in optimizer.param_groups:
        group["lr"] = (group["base_lr"] - min_lr) * factor + min_lr
