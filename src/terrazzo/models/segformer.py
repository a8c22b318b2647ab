"""SegFormer (Xie et al. 2021, arXiv 2105.15203): which class holds which section, and the six variants.

    section 3.1  hierarchical encoder        encoders/mit.py       MixTransformer
                 overlapped patch merging    encoders/mit.py       OverlapPatchEmbed
                 efficient self-attention    encoders/mit.py       EfficientSelfAttention, SequenceReduction
                 Mix-FFN                     encoders/mit.py       MixFFN
    section 3.2  all-MLP decoder             decoders/all_mlp.py   AllMLPDecoder
    mmsegmentation's own decoder, not the paper's: decoders/conv_mlp.py   ConvMLPDecoder

Departures from the paper's text, all of them what the released weights need or exact algebra, are named in the two
files' docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from terrazzo.models.encoders.mit import SIZES
from terrazzo.models.spec import ModelSpec, Part

__all__ = ["VARIANTS", "segformer_spec"]

DECODER_WIDTHS = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768}


def segformer_spec(name: str, size: Mapping[str, Any], width: int, mmseg: bool = False) -> ModelSpec:
    """Return the spec of a SegFormer.

    Args:
        name: what it is called.
        size: the encoder's numbers, such as a value of `mit.SIZES`.
        width: of the decoder.
        mmseg: mmsegmentation's network, whose decoder is not the paper's and whose LayerNorm eps is 1e-6 throughout.
    """
    if mmseg:
        return ModelSpec(
            Part("mit", {**size, "reduction_eps": 1e-6}), Part("conv_mlp", {"embed_dim": width}), name=name
        )
    return ModelSpec(Part("mit", size), Part("all_mlp", {"embed_dim": width}), name=name)


VARIANTS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        str(spec.name): spec
        for spec in (
            *(segformer_spec(f"segformer_{b}", SIZES[f"mit_{b}"], width) for b, width in DECODER_WIDTHS.items()),
            *(segformer_spec(f"segformer_{b}_mmseg", SIZES[f"mit_{b}"], 256, mmseg=True) for b in DECODER_WIDTHS),
            # The larger sizes with the smaller ones' decoder, which segmentation_models.pytorch builds by default.
            *(
                segformer_spec(f"segformer_{b}_256", SIZES[f"mit_{b}"], 256)
                for b, width in DECODER_WIDTHS.items()
                if width != 256
            ),
        )
    }
)
