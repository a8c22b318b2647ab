"""Encoders: `ENCODERS` is the table of their classes, one row each, and `SIZES` names their published sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from terrazzo.models.encoders import hybrid, mit, pvt, vit
from terrazzo.models.encoders.backbone import create_backbone
from terrazzo.models.encoders.hybrid import HybridEncoder
from terrazzo.models.encoders.mit import MixTransformer
from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.models.encoders.vit import VisionTransformer

__all__ = ["ENCODERS", "SIZES", "EncoderRow"]


@dataclass(frozen=True)
class EncoderRow:
    """A kind of encoder.

    Attributes:
        module: its class, or a function that makes one. Its arguments are the fields of a spec, but for three that
            come from elsewhere in the spec, where it has them: `in_channels`, `image_size` and `maps` (what the
            decoder reads).
        about: what it is, in a line.
        sizes: the fields of its published sizes, by name.
    """

    module: Callable[..., nn.Module]
    about: str
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


ENCODERS: Mapping[str, EncoderRow] = MappingProxyType(
    {
        "mit": EncoderRow(MixTransformer, "Mix Transformer, SegFormer's pyramid", mit.SIZES),
        "vit": EncoderRow(VisionTransformer, "Vision Transformer, SETR's plain encoder", vit.SIZES),
        "pvt": EncoderRow(PyramidVisionTransformer, "Pyramid Vision Transformer, its first version", pvt.SIZES),
        "hybrid": EncoderRow(HybridEncoder, "SETR's hybrid: a ResNet in front of a Vision Transformer", hybrid.SIZES),
        "backbone": EncoderRow(create_backbone, "a backbone of Hugging Face transformers, by its configuration"),
    }
)

SIZES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {size: (name, fields) for name, row in ENCODERS.items() for size, fields in row.sizes.items()}
)
"""The row and the fields of every published size."""
