"""Optimisers, their parameter groups, and the poly schedule with linear warm-up (both papers' section 4.1 and code)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from terrazzo.errors import ConfigError
from terrazzo.models import Segmenter
from terrazzo.models.decoders.mla import MLADecoder
from terrazzo.training.sections import OptimizerSection
from terrazzo.training.sharding import is_sharded

__all__ = [
    "create_optimizer",
    "follow_schedule",
    "layer_factors",
    "learning_rate_factor",
    "optimizer_states",
    "parameter_groups",
    "set_learning_rate",
]


def create_optimizer(model: Segmenter, section: OptimizerSection) -> torch.optim.Optimizer:
    """Return a recipe's optimiser over the model's parameter groups."""
    groups = parameter_groups(model, section.lr, section.weight_decay, section.decoder_lr_factor, section.layer_decay)
    if section.name == "sgd":
        # PyTorch has no fused SGD for parameters that ranks share out.
        return torch.optim.SGD(groups, momentum=section.momentum, fused=not is_sharded(model))
    return torch.optim.AdamW(groups, betas=(section.momentum, 0.999), fused=True)


def optimizer_states(section: OptimizerSection) -> int:
    """Tensors of its size that a recipe's optimiser keeps for each parameter."""
    return 2 if section.name == "adamw" else 1 if section.momentum else 0


def parameter_groups(
    model: Segmenter, lr: float, weight_decay: float, decoder_lr_factor: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split the parameters as both papers' code does.

    Decoder and auxiliary heads, their BatchNorm and biases included, get `decoder_lr_factor` times the rate, with
    decay. The encoder's norms get no decay (SETR decays nothing). Everything else, biases included, gets both as given.
    MLA's aggregation counts as encoder: it is part of the backbone in SETR's code. With a `layer_decay`, the encoder's
    rates fall from its last block to its first as BEiT's do (Bao et al. 2022, arXiv 2106.08254, appendix).

    Raises:
        ConfigError: there is a `layer_decay`, and the encoder has no blocks that are known.
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
    factors = {} if layer_decay == 1 else layer_factors(model.encoder, layer_decay)
    groups: dict[tuple[str, float], dict[str, Any]] = {}

    def add(kind: str, parameters: list[nn.Parameter], rate: float, decay: float) -> None:
        groups.setdefault((kind, rate), {"params": [], "lr": rate, "base_lr": rate, "weight_decay": decay})
        groups[kind, rate]["params"] += parameters

    for kind, of_norms, decay in (("encoder", False, weight_decay), ("norms", True, 0.0)):
        add(kind, [], lr, decay)
        for parameter in encoder:
            if (id(parameter) in norms) == of_norms:
                add(kind, [parameter], lr * factors.get(id(parameter), 1.0), decay)
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    add("decoder", rest, lr * decoder_lr_factor, weight_decay)
    return list(groups.values())


def layer_factors(encoder: nn.Module, layer_decay: float) -> dict[int, float]:
    """Return the factor of each parameter's rate, by its id: `layer_decay` to the power of the blocks above it, plus 1.

    Embeddings and norms between two blocks go with the block before them; those before the first are one below it.
    """
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    blocks = [child for one in lists for child in one if not any(isinstance(m, nn.ModuleList) for m in child.modules())]
    if not blocks:
        raise ConfigError(
            "layer_decay needs an encoder that is a list of blocks, and this one is not",
            fix="leave --layer-decay out, or take an encoder such as mit_b0 or a ViT",
            code="recipe-layer-decay",
        )
    first = {id(parameter): number for number, block in enumerate(blocks, 1) for parameter in block.parameters()}
    depth, factors = 0, {}
    for parameter in encoder.parameters():
        depth = max(depth, first.get(id(parameter), 0))
        factors[id(parameter)] = layer_decay ** (len(blocks) + 1 - depth)
    return factors


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
