"""Decoders: `DECODERS` and `AUXILIARY_HEADS` are the tables of their classes, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.conv_mlp import ConvMLPDecoder
from terrazzo.models.decoders.fcn import FCNDecoder
from terrazzo.models.decoders.mla import MLAAuxiliaryHead, MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder
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
    """

    module: Callable[..., nn.Module]
    maps: Maps
    about: str


DECODERS: dict[str, DecoderRow] = {
    "fcn": DecoderRow(FCNDecoder, "last", "FCN head on the last map"),
    "fcn_dilated": DecoderRow(FCNDecoder, "dilated", "FCN head on the last map of a ResNet at output stride 8"),
    "all_mlp": DecoderRow(AllMLPDecoder, "levels", "SegFormer's all-MLP decoder"),
    "conv_mlp": DecoderRow(ConvMLPDecoder, "levels", "the decoder of mmsegmentation's SegFormer"),
    "setr_naive": DecoderRow(NaiveDecoder, "last", "SETR's Naive decoder"),
    "setr_pup": DecoderRow(PUPDecoder, "last", "SETR's progressive upsampling"),
    "setr_mla": DecoderRow(MLADecoder, "one_size", "SETR's multi-level aggregation, on maps of one size"),
}

AUXILIARY_HEADS: dict[str, Callable[..., nn.Module]] = {
    "setr_naive": NaiveDecoder,
    "setr_pup": PUPDecoder,
    "setr_mla": MLAAuxiliaryHead,
    "fcn": FCNDecoder,
}
"""Heads for auxiliary losses. Those under an `AggregatingDecoder` get the maps that it makes of the encoder's."""
