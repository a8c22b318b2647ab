"""`build`: a network from its spec, with random weights. The one place where names of parts are looked up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from terrazzo.errors import ConfigError
from terrazzo.fields import fields_of
from terrazzo.models.decoders import AUXILIARY_HEADS, DECODERS
from terrazzo.models.encoders import ENCODERS
from terrazzo.models.encoders.backbone import Backbone
from terrazzo.models.encoders.hybrid import HybridEncoder
from terrazzo.models.segmenter import AggregatingDecoder, Encoder, Segmenter
from terrazzo.models.spec import ModelSpec, Part
from terrazzo.text import said_by

__all__ = ["build"]


def build(spec: ModelSpec) -> Segmenter:
    """Return a network with random weights.

    Raises:
        ConfigError: the fields contradict each other, or the decoder does not fit the encoder.
        MissingExtraError: the encoder is one of transformers, which is not installed.
    """
    try:
        encoder: Any = _encoder(spec)
        decoder = _decoder(spec, encoder)
        channels, strides = encoder.channels, encoder.strides
        if isinstance(decoder, AggregatingDecoder):
            channels, strides = decoder.aggregated_channels, strides[: len(decoder.aggregated_channels)]
        heads = [
            AUXILIARY_HEADS[head.name](channels, strides, spec.num_classes, **head.fields) for head in spec.auxiliary
        ]
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        raise ConfigError(
            f"{spec.title} cannot be built: {said_by(error)}",
            fix="correct the description of the model",
            code="spec-build",
        ) from error
    if isinstance(encoder, Backbone | HybridEncoder):  # which fills in what its family has by default
        complete = {**spec.encoder.fields, "config": encoder.configuration()}
        spec = replace(spec, encoder=Part(spec.encoder.name, complete))
    return Segmenter(encoder, decoder, heads, spec)


def _encoder(spec: ModelSpec) -> nn.Module:
    row, maps = ENCODERS[spec.encoder.name], DECODERS[spec.decoder.name].maps
    if maps == "dilated" and "maps" not in fields_of(row.module):
        raise ConfigError(
            f"{spec.title} has no strides that could be turned into dilation",
            fix="choose a ResNet such as hf:microsoft/resnet-50, or the decoder "
            f"{spec.decoder.name.removesuffix('_dilated')} in place of {spec.decoder.name}",
            code="encoder-dilation",
        )
    from_spec = {"in_channels": spec.in_channels, "image_size": spec.image_size, "maps": maps}
    given = {key: from_spec[key] for key in fields_of(row.module) if from_spec.get(key) is not None}
    return row.module(**spec.encoder.fields, **given)


def _decoder(spec: ModelSpec, encoder: Encoder) -> nn.Module:
    row, strides = DECODERS[spec.decoder.name], encoder.strides
    if row.maps == "one_size" and len(set(strides)) > 1:
        raise ConfigError(
            f"{spec.decoder.name} adds up maps of one size, and the encoder's have strides "
            f"{', '.join(map(str, strides))}",
            fix="choose a plain transformer such as vit_base or hf:facebook/dinov2-base, or the decoder all_mlp",
            code="encoder-decoder",
        )
    return row.module(encoder.channels, strides, spec.num_classes, **spec.decoder.fields)
