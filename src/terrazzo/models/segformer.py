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

from dataclasses import dataclass, replace

from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.conv_mlp import ConvMLPDecoder
from terrazzo.models.encoders.mit import MixTransformer
from terrazzo.models.segmenter import Segmenter

__all__ = ["VARIANTS", "SegFormerVariant", "build"]


@dataclass(frozen=True)
class SegFormerVariant:
    """The numbers that differ between B0 and B5 (appendix, table 6), and whose network it is.

    Attributes:
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        decoder_dim: decoder width C.
        mmseg: mmsegmentation's network, whose decoder is not the paper's and whose LayerNorm eps is 1e-6 throughout.
    """

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    decoder_dim: int
    mmseg: bool = False


VARIANTS = {
    "segformer_b0": SegFormerVariant((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "segformer_b1": SegFormerVariant((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "segformer_b2": SegFormerVariant((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "segformer_b3": SegFormerVariant((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "segformer_b4": SegFormerVariant((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "segformer_b5": SegFormerVariant((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
NARROW = {
    f"{name}_256": replace(variant, decoder_dim=256) for name, variant in VARIANTS.items() if variant.decoder_dim != 256
}
"""The larger sizes with the smaller ones' decoder, which segmentation_models.pytorch builds by default."""

VARIANTS |= {f"{name}_mmseg": replace(variant, decoder_dim=256, mmseg=True) for name, variant in VARIANTS.items()}
VARIANTS |= NARROW


def build(variant: SegFormerVariant, num_classes: int, drop_path_rate: float = 0.1) -> Segmenter:
    """Return a randomly initialised SegFormer.

    Args:
        variant: a row of `VARIANTS`.
        num_classes: K, at least 2.
        drop_path_rate: drop path of the last encoder block.
    """
    encoder = MixTransformer(
        embed_dims=variant.embed_dims,
        depths=variant.depths,
        num_heads=(1, 2, 5, 8),
        sr_ratios=(8, 4, 2, 1),
        mlp_ratio=4,
        patch_sizes=(7, 3, 3, 3),
        patch_strides=(4, 2, 2, 2),
        drop_path_rate=drop_path_rate,
        reduction_eps=1e-6 if variant.mmseg else 1e-5,
    )
    decoder = ConvMLPDecoder if variant.mmseg else AllMLPDecoder
    return Segmenter(encoder, decoder(encoder.channels, variant.decoder_dim, num_classes))
