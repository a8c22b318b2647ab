"""The networks: `create_model` builds one by name with random weights; `terrazzo.load` is what reads files."""

from __future__ import annotations

import difflib
from collections import ChainMap
from typing import Any

from terrazzo.errors import ConfigError
from terrazzo.models import segformer, setr
from terrazzo.models.segmenter import Segmenter

__all__ = ["MODELS", "Segmenter", "create_model", "list_models"]

MODELS: ChainMap[str, Any] = ChainMap(setr.VARIANTS, segformer.VARIANTS)  # which lists the last one's names first


def list_models() -> list[str]:
    """Return the names that `create_model` knows."""
    return list(MODELS)


def create_model(
    name: str,
    num_classes: int,
    drop_path_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
) -> Segmenter:
    """Build a model with random weights.

    Args:
        name: a model name such as ``segformer_b0`` or ``setr_pup_base``.
        num_classes: K, at least 2 (background counts as a class).
        drop_path_rate: stochastic depth of the last encoder block, used in training only; by default the paper's,
            0.1 for SegFormer and 0 for SETR.
        image_size: (H, W) that a SETR's position embeddings are made for, by default 768 x 768. They are resized for
            images of other sizes, so this is best the training crop. SegFormer has none and every size is alike to it.

    Raises:
        ConfigError: the name is unknown or K is below 2.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown model {name!r}", fix=f"{hint}choose one of {', '.join(MODELS)}", code="model-name")
    if num_classes < 2:
        raise ConfigError(
            f"{name} cannot be built for {num_classes} class(es)",
            fix="count the background as a class of its own: one kind of object makes two classes",
            code="model-classes",
        )
    if name in setr.VARIANTS:
        return setr.build(setr.VARIANTS[name], num_classes, drop_path_rate or 0.0, image_size or (768, 768))
    return segformer.build(segformer.VARIANTS[name], num_classes, 0.1 if drop_path_rate is None else drop_path_rate)
