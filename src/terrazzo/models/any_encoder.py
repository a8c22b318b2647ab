"""Decoders of both papers, and the FCN head, on an encoder of one's choice.

    fcn           decoders/fcn.py      on the last map
    fcn_dilated   decoders/fcn.py      on the last map of a ResNet at output stride 8
    all_mlp       decoders/all_mlp.py  on all stages of a pyramid, or four layers of a plain transformer
    setr_naive    decoders/naive.py    on the last map
    setr_pup      decoders/pup.py      on the last map
    setr_mla      decoders/mla.py      on four layers of a plain transformer

Widths are the papers': 256, for FCN a quarter of the map's channels (512 on a ResNet-50). There are no auxiliary heads.
Encoders are those of encoders/backbones.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from terrazzo.errors import ConfigError
from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.fcn import FCNDecoder
from terrazzo.models.decoders.mla import MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder
from terrazzo.models.encoders.backbones import Backbone, create_backbone
from terrazzo.models.segmenter import Segmenter

__all__ = ["DECODERS", "build"]

DECODERS = ("fcn", "fcn_dilated", "all_mlp", "setr_naive", "setr_pup", "setr_mla")


def build(
    decoder: str, num_classes: int, encoder: str | Mapping[str, Any], drop_path_rate: float | None = None
) -> Segmenter:
    """Return a model with a random decoder.

    Args:
        decoder: one of `DECODERS`.
        num_classes: K, at least 2.
        encoder: see `create_backbone`, which says what it raises.
        drop_path_rate: stochastic depth of the encoder, where its family has it; by default as configured.

    Raises:
        ConfigError: the decoder does not fit the encoder.
    """
    backbone = create_backbone(
        encoder,
        several=decoder in ("all_mlp", "setr_mla"),
        dilated=decoder == "fcn_dilated",
        drop_path_rate=drop_path_rate,
    )
    return Segmenter(backbone, _decoder(decoder, num_classes, backbone))


def _decoder(decoder: str, num_classes: int, backbone: Backbone) -> nn.Module:
    channels = backbone.channels
    if decoder == "all_mlp":
        return AllMLPDecoder(channels, 256, num_classes)
    if decoder == "setr_naive":
        return NaiveDecoder(channels[-1], num_classes)
    if decoder == "setr_pup":
        return PUPDecoder(channels[-1], num_classes)
    if decoder == "setr_mla":
        if len(set(backbone.strides)) > 1:
            strides = ", ".join(map(str, backbone.strides))
            raise ConfigError(
                f"setr_mla adds up maps of one size, and the encoder's have strides {strides}",
                fix="choose a plain transformer such as hf:facebook/dinov2-base, or the decoder all_mlp",
                code="encoder-decoder",
            )
        return MLADecoder(channels, num_classes)
    return FCNDecoder(channels[-1], max(channels[-1] // 4, 1), num_classes)
