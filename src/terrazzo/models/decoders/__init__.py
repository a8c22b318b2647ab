"""Decoders: `DECODERS` and `AUXILIARY_HEADS` are the tables of their classes, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.attention import FCNAttentionDecoder
from terrazzo.models.decoders.conv_mlp import ConvMLPDecoder
from terrazzo.models.decoders.fcn import FCNDecoder
from terrazzo.models.decoders.fcn_skips import FCNSkipsDecoder
from terrazzo.models.decoders.fpn import FPNDecoder
from terrazzo.models.decoders.mla import MLAAuxiliaryHead, MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder
from terrazzo.models.decoders.pyramid import ASPPDecoder, PSPDecoder
from terrazzo.models.decoders.upernet import UPerNetDecoder
from terrazzo.models.maps import Maps

__all__ = ["AUXILIARY_HEADS", "DECODERS", "DecoderRow"]


@dataclass(frozen=True)
class DecoderRow:
    """A kind of decoder.

    Attributes:
        module: its class, called with the channels and strides of the encoder's maps and the number of classes. Its
            other arguments are the fields of a spec.
        maps: which of the encoder's maps it reads.
        about: what it is, in a line.
        fields: those whose defaults are not the class's.
    """

    module: Callable[..., nn.Module]
    maps: Maps
    about: str
    fields: Mapping[str, Any] = field(default_factory=dict)


ON_LAST_MAP = {
    "fcn": DecoderRow(FCNDecoder, "last", "FCN head on the last map"),
    "fcn_attention": DecoderRow(FCNAttentionDecoder, "last", "FCN head with DANet's position attention"),
    "psp": DecoderRow(PSPDecoder, "last", "PSPNet's pyramid pooling on the last map"),
    "aspp": DecoderRow(ASPPDecoder, "last", "DeepLabV3's atrous spatial pyramid pooling on the last map"),
}
"""Those that also exist as ``NAME_dilated``, on the last map of a ResNet at output stride 8."""

DECODERS: Mapping[str, DecoderRow] = MappingProxyType(
    {
        **ON_LAST_MAP,
        **{
            f"{name}_dilated": replace(row, maps="dilated", about=f"{name} on a ResNet at output stride 8")
            for name, row in ON_LAST_MAP.items()
        },
        "fcn_16s": DecoderRow(FCNSkipsDecoder, "levels", "FCN-16s: scores of the last two maps", {"skips": 1}),
        "fcn_8s": DecoderRow(FCNSkipsDecoder, "levels", "FCN-8s: scores of the last three maps", {"skips": 2}),
        "upernet": DecoderRow(UPerNetDecoder, "levels", "UPerNet: pyramid pooling and a fused feature pyramid"),
        "fpn": DecoderRow(FPNDecoder, "levels", "feature pyramid with Panoptic FPN's semantic branch"),
        "all_mlp": DecoderRow(AllMLPDecoder, "levels", "SegFormer's all-MLP decoder"),
        "conv_mlp": DecoderRow(ConvMLPDecoder, "levels", "the decoder of mmsegmentation's SegFormer"),
        "setr_naive": DecoderRow(NaiveDecoder, "last", "SETR's Naive decoder"),
        "setr_pup": DecoderRow(PUPDecoder, "last", "SETR's progressive upsampling"),
        "setr_mla": DecoderRow(MLADecoder, "one_size", "SETR's multi-level aggregation, on maps of one size"),
    }
)

AUXILIARY_HEADS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "setr_naive": NaiveDecoder,
        "setr_pup": PUPDecoder,
        "setr_mla": MLAAuxiliaryHead,
        "fcn": FCNDecoder,
    }
)
"""Heads for auxiliary losses. Those under an `AggregatingDecoder` get the maps that it makes of the encoder's."""
