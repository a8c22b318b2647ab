"""The `config.json` of models that were saved before there was a `ModelSpec`: format 1.

It names an architecture, and holds the configuration of a backbone of transformers where the encoder is one. The rest
is in the shapes of the tensors: for which grid the position embeddings are, and whether there are auxiliary heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from terrazzo.errors import ConfigError
from terrazzo.models import ModelSpec, find_spec
from terrazzo.text import show
from terrazzo.weights.remap.vit import PATCH

__all__ = ["spec_in_format1"]


def spec_in_format1(config: Mapping[str, Any], num_classes: int, tensors: Mapping[str, Tensor]) -> ModelSpec:
    """Return what a model folder of format 1 holds.

    Args:
        config: its ``config.json``.
        num_classes: of its labels.
        tensors: its weights.

    Raises:
        ConfigError: the architecture is unknown, or its encoder cannot be used.
    """
    encoder = config.get("encoder")
    if encoder is not None and not isinstance(encoder, Mapping):
        raise ConfigError(f"its encoder is {show(encoder)}", fix="copy the folder again", code="encoder-config")
    grid = tensors["encoder.pos_embed"].shape if "encoder.pos_embed" in tensors else ()
    size = (PATCH * grid[1], PATCH * grid[2]) if len(grid) == 4 and 0 not in grid else None
    spec = find_spec(config["architecture"], encoder).adapted(num_classes, image_size=size)
    has_heads = any(key.startswith("auxiliary.") for key in tensors)
    return spec if has_heads else replace(spec, auxiliary=())
