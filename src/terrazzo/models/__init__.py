"""The networks: `create_model` builds one by name with random weights; `terrazzo.load` is what reads files."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from terrazzo.errors import ConfigError
from terrazzo.models import segformer, setr
from terrazzo.models.build import build
from terrazzo.models.decoders import DECODERS
from terrazzo.models.encoders import SIZES
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.spec import ModelSpec, Part
from terrazzo.text import did_you_mean, show

__all__ = [
    "DECODERS",
    "MODELS",
    "ON",
    "ModelSpec",
    "Part",
    "Segmenter",
    "build",
    "create_model",
    "list_models",
    "model_spec",
    "refuse_unknown_encoder",
    "refuse_unknown_model",
]

MODELS: ChainMap[str, ModelSpec] = ChainMap(setr.VARIANTS, segformer.VARIANTS)  # lists the last one's names first
"""The papers' variants and those of others' code, by name."""

ON = "+"
"""Stands between an encoder and a decoder: ``mit_b0+upernet``."""


def list_models() -> list[str]:
    """Return the names of the models that need no encoder to be named."""
    return list(MODELS)


def create_model(
    name: str | ModelSpec,
    num_classes: int,
    drop_path_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    encoder: str | Mapping[str, Any] | None = None,
    in_channels: int | None = None,
) -> Segmenter:
    """Build a model with random weights.

    Args: as `model_spec` takes them.

    Raises:
        ConfigError: as `model_spec`; or the parts do not fit each other.
        MissingExtraError: the encoder is one of transformers, which is not installed.
    """
    return build(model_spec(name, num_classes, drop_path_rate, image_size, encoder, in_channels))


def model_spec(
    name: str | ModelSpec,
    num_classes: int,
    drop_path_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    encoder: str | Mapping[str, Any] | None = None,
    in_channels: int | None = None,
) -> ModelSpec:
    """Return the spec of a model.

    Args:
        name: a model's name such as ``segformer_b0`` or ``setr_pup_base``; an encoder and a decoder such as
            ``mit_b0+upernet``; with `encoder` a decoder; or a spec.
        num_classes: K, at least 2 (background counts as a class).
        drop_path_rate: stochastic depth of the last encoder block, used in training only; by default that of the
            encoder's paper, 0.1 for MiT and 0 for ViT, or what `encoder` is configured with.
        image_size: (H, W) that learned position embeddings are made for, by default 768 x 768. They are resized for
            images of other sizes, so this is best the training crop. Encoders without them do not need it.
        encoder: the name of an encoder such as ``mit_b0``, or the configuration of a backbone of transformers.
        in_channels: bands of the images; by default as the spec or the configuration of the backbone says, else 3.

    Raises:
        ConfigError: the name is unknown, K is below 2, or a value is out of bounds.
    """
    if isinstance(name, ModelSpec):
        spec = name
    else:
        refuse_unknown_model(name, encoder is not None)
        spec = MODELS[name] if name in MODELS else _of_parts(name, encoder)
    spec = replace(
        spec,
        num_classes=num_classes,
        in_channels=spec.in_channels if in_channels is None else in_channels,
        image_size=image_size or spec.image_size,
    )
    if drop_path_rate is not None and "drop_path_rate" in spec.encoder.fields:
        spec = replace(spec, encoder=Part(spec.encoder.name, {**spec.encoder.fields, "drop_path_rate": drop_path_rate}))
    return spec


def _of_parts(name: str, encoder: str | Mapping[str, Any] | None) -> ModelSpec:
    first, _, decoder = name.rpartition(ON)
    named = first or encoder
    if isinstance(named, str):
        refuse_unknown_encoder(named)
        row, fields = SIZES[named]
        return ModelSpec(Part(row, fields), Part(decoder), name=f"{named}{ON}{decoder}")
    assert named is not None
    bands = named.get("num_channels", 3)
    return ModelSpec(Part("backbone", {"config": named}), Part(decoder), in_channels=bands, name=decoder)


def refuse_unknown_model(name: str, has_encoder: bool) -> None:
    """Check a model's name without building anything.

    Args:
        name: as `create_model` takes it.
        has_encoder: whether an encoder is named beside it.

    Raises:
        ConfigError: there is no such model, or it lacks an encoder, or has one already.
    """
    encoder, plus, decoder = name.rpartition(ON)
    if name not in MODELS and decoder not in DECODERS:
        hint = did_you_mean(name, [*MODELS, *DECODERS]) or (did_you_mean(decoder, DECODERS) if plus else "")
        raise ConfigError(
            f"unknown model {show(name)}",
            fix=f"{hint}choose one of {', '.join(MODELS)}; or, with an encoder, of {', '.join(DECODERS)}",
            code="model-name",
        )
    if encoder:
        refuse_unknown_encoder(encoder)
    if name in DECODERS and not has_encoder:
        raise ConfigError(
            f"{name} is a decoder, and no encoder is named",
            fix=f"name one, such as {next(iter(SIZES))}{ON}{name}, or --encoder hf:microsoft/resnet-50",
            code="model-encoder",
        )
    if (name in MODELS or encoder) and has_encoder:
        raise ConfigError(
            f"{name} has an encoder of its own",
            fix=f"leave the encoder out, or choose one of {', '.join(DECODERS)}",
            code="model-encoder",
        )


def refuse_unknown_encoder(name: str) -> None:
    """Check the name of an encoder of ours.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in SIZES:
        raise ConfigError(
            f"unknown encoder {show(name)}",
            fix=f"{did_you_mean(name, SIZES)}choose one of {', '.join(SIZES)}; or write hf: and then a "
            "model of the Hugging Face hub, a folder with one, or a config.json: hf:facebook/dinov2-base",
            code="encoder-name",
        )
