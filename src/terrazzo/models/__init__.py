"""The networks: `create_model` builds one by name with random weights; `terrazzo.load` is what reads files."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from terrazzo.errors import ConfigError
from terrazzo.models import any_encoder, segformer, setr
from terrazzo.models.any_encoder import DECODERS
from terrazzo.models.segmenter import Segmenter
from terrazzo.text import nearest

__all__ = ["DECODERS", "MODELS", "Segmenter", "create_model", "list_models", "refuse_unknown_model"]

MODELS: ChainMap[str, Any] = ChainMap(setr.VARIANTS, segformer.VARIANTS)  # which lists the last one's names first


def list_models() -> list[str]:
    """Return the names of the models that need no encoder to be named."""
    return list(MODELS)


def create_model(
    name: str,
    num_classes: int,
    drop_path_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    encoder: str | Mapping[str, Any] | None = None,
) -> Segmenter:
    """Build a model with random weights, but for those of an encoder that is named.

    Args:
        name: a model name such as ``segformer_b0`` or ``setr_pup_base``, or with `encoder` one of `DECODERS`.
        num_classes: K, at least 2 (background counts as a class).
        drop_path_rate: stochastic depth of the last encoder block, used in training only; by default the paper's,
            0.1 for SegFormer and 0 for SETR, or what `encoder` is configured with.
        image_size: (H, W) that a SETR's position embeddings are made for, by default 768 x 768. They are resized for
            images of other sizes, so this is best the training crop. Every size is alike to other models.
        encoder: a backbone of Hugging Face transformers. ``hf:NAME`` is a model of its hub, or the folder of one, with
            its weights; ``hf:FILE`` is a ``config.json``, and a mapping what such a file holds, for random weights.

    Raises:
        ConfigError: the name is unknown, K is below 2, or the encoder cannot be used.
        CheckpointError: the encoder's weights cannot be had.
        MissingExtraError: an encoder is named and transformers is not installed.
    """
    refuse_unknown_model(name, encoder is not None)
    if num_classes < 2:
        raise ConfigError(
            f"{name} cannot be built for {num_classes} class(es)",
            fix="count the background as a class of its own: one kind of object makes two classes",
            code="model-classes",
        )
    if encoder is not None:
        return any_encoder.build(name, num_classes, encoder, drop_path_rate)
    if name in setr.VARIANTS:
        return setr.build(setr.VARIANTS[name], num_classes, drop_path_rate or 0.0, image_size or (768, 768))
    return segformer.build(segformer.VARIANTS[name], num_classes, 0.1 if drop_path_rate is None else drop_path_rate)


def refuse_unknown_model(name: str, has_encoder: bool) -> None:
    """Check a model's name without building anything.

    Args:
        name: as `create_model` takes it.
        has_encoder: whether an encoder is named beside it.

    Raises:
        ConfigError: there is no such model, or it lacks an encoder, or has one already.
    """
    if name not in MODELS and name not in DECODERS:
        near = nearest(name, [*MODELS, *DECODERS])
        hint = f"did you mean {near}? " if near else ""
        raise ConfigError(
            f"unknown model {name!r}",
            fix=f"{hint}choose one of {', '.join(MODELS)}; or, with an encoder, of {', '.join(DECODERS)}",
            code="model-name",
        )
    if name in DECODERS and not has_encoder:
        raise ConfigError(
            f"{name} is a decoder, and no encoder is named",
            fix="name one, such as --encoder hf:microsoft/resnet-50",
            code="model-encoder",
        )
    if name in MODELS and has_encoder:
        raise ConfigError(
            f"{name} has an encoder of its own",
            fix=f"leave the encoder out, or choose one of {', '.join(DECODERS)}",
            code="model-encoder",
        )
