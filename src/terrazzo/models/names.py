"""Models by name: `MODELS` is the table of named specs, and `find_spec` reads ``mit_b0+upernet`` too."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from terrazzo.errors import ConfigError
from terrazzo.models.decoders import DECODERS
from terrazzo.models.encoders import SIZES
from terrazzo.models.segformer import VARIANTS as SEGFORMERS
from terrazzo.models.setr import VARIANTS as SETRS
from terrazzo.models.spec import ModelSpec, Part
from terrazzo.text import did_you_mean, show

__all__ = ["MODELS", "ON", "find_spec", "list_models", "refuse_unknown_encoder", "refuse_unknown_model"]

MODELS: Mapping[str, ModelSpec] = MappingProxyType({**SEGFORMERS, **SETRS})
"""The papers' variants, and those of other programs whose weights are loaded here."""

ON = "+"
"""Stands between an encoder and a decoder: ``mit_b0+upernet``."""


def list_models() -> list[str]:
    """Return the names of all models that have an encoder of their own."""
    return list(MODELS)


def find_spec(name: str, encoder: str | Mapping[str, Any] | None = None) -> ModelSpec:
    """Return the spec of a model, for two classes; `ModelSpec.adapted` fits it to a data set.

    Args:
        name: a name of `MODELS`; an encoder and a decoder such as ``mit_b0+upernet``; or a decoder, with `encoder`.
        encoder: the name of an encoder such as ``mit_b0``, or the configuration of a backbone of transformers.

    Raises:
        ConfigError: a name is unknown, or the encoder is missing or named twice.
    """
    refuse_unknown_model(name, encoder is not None)
    if name in MODELS:
        return MODELS[name]
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
        name: as `find_spec` takes it.
        has_encoder: whether an encoder is named beside it.

    Raises:
        ConfigError: a name is unknown, or the encoder is missing or named twice.
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
    """Check the name of one of our encoders.

    Raises:
        ConfigError: it is unknown.
    """
    if name not in SIZES:
        raise ConfigError(
            f"unknown encoder {show(name)}",
            fix=f"{did_you_mean(name, SIZES)}choose one of {', '.join(SIZES)}; or write hf: and then a "
            "model of the Hugging Face hub, a folder with one, or a config.json: hf:facebook/dinov2-base",
            code="encoder-name",
        )
