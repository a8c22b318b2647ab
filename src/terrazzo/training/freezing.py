"""Frozen parts: an encoder, or its first stages, that keep the values that they start with."""

from __future__ import annotations

from typing import Literal

from torch import nn

from terrazzo.errors import ConfigError

__all__ = ["freeze"]


def freeze(encoder: nn.Module, what: Literal["encoder"] | int) -> list[nn.Module]:
    """Have an encoder, or its first stages, take no gradients.

    Args:
        encoder: of the network in training.
        what: ``encoder``, or how many stages; of a plain ViT, how many blocks. What is defined before the last of them,
            such as position embeddings, is frozen too.

    Returns:
        The modules that belong in evaluation mode while the others train, without drop path, and with BatchNorm's
        statistics as they are.

    Raises:
        ConfigError: it has fewer, or no stages that are known.
    """
    if what == "encoder":
        encoder.requires_grad_(False)
        return [encoder]
    stages = getattr(encoder, "stages", None) or getattr(encoder, "blocks", None)
    if not isinstance(stages, nn.ModuleList) or what > len(stages):
        known = f"{len(stages)} stages" if isinstance(stages, nn.ModuleList) else "no stages that are known"
        raise ConfigError(
            f"freeze is {what}, and the encoder has {known}",
            fix="give a smaller number, or `encoder` for all of it",
            code="recipe-freeze",
        )
    frozen = list(stages[:what])
    last = next(reversed(list(frozen[-1].parameters())))
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
        if parameter is last:
            break
    return frozen
