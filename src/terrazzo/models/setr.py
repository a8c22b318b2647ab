"""SETR (Zheng et al. 2021, arXiv 2012.15840): which class holds which section, and the variants.

    section 3.1  image to sequence       encoders/vit.py     PatchEmbed, and the position embeddings
    section 3.2  transformer             encoders/vit.py     VisionTransformer, Block, SelfAttention
    section 3.3  naive upsampling        decoders/naive.py   NaiveDecoder
                 progressive upsampling  decoders/pup.py     PUPDecoder
                 multi-level aggregation decoders/mla.py     MLADecoder, MultiLevelAggregation
                 auxiliary losses        the same decoders on earlier layers; decoders/mla.py MLAAuxiliaryHead

The released code decides where the paper leaves room. Its quirks, kept because the released weights need them:

* SETR-Naive and SETR-PUP send the class token through all blocks and ignore it afterwards; SETR-MLA leaves it out
  before the first block.
* The encoder has no norm after its last block; the decoders have a LayerNorm for every level they read.
* The convolutions of Naive and PUP have biases before BatchNorm, those of MLA have none; nor have MLA's auxiliary
  classifiers.
* MLA's fourfold enlargement aligns corners, all other resizing does not. Its classifier is 3 x 3.
* PUP has an auxiliary head on the last layer, the one its main decoder reads.

Kept out: the code tells the class token by the number of tokens, takes square roots for sizes and asserts one square
image size (see encoders/vit.py), and saves a classifier `conv_seg` that nothing uses. Its hybrid (ResNet-50 under the
transformer) cannot run as released.

mmsegmentation published weights of a re-implementation with T-Large, which computes something else in places. Those are
the variants that end in ``_mmseg``: Naive enlarges its logits in two steps; MLA's classifier is 1 x 1 and does not
align corners, and its auxiliary classifiers have biases; the auxiliary heads of Naive and PUP, on layers 10, 15 and 20,
have two convolutions. (Its Cityscapes run of Naive had one; those heads are for training only and do not fit here.)

Variants with DeiT-Tiny and DeiT-Small (arXiv 2012.12877, table 1) are not in the paper. They are for training on small
data and small machines; the decoders keep the paper's widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from terrazzo.models.decoders.mla import MLAAuxiliaryHead, MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.models.segmenter import Segmenter

__all__ = ["VARIANTS", "SETRVariant", "ViTSize", "build"]


@dataclass(frozen=True)
class ViTSize:
    """A plain transformer of patch size 16 and MLP ratio 4."""

    embed_dim: int
    depth: int
    num_heads: int


T_LARGE = ViTSize(1024, 24, 16)
T_BASE = ViTSize(768, 12, 12)
DEIT_SMALL = ViTSize(384, 12, 6)
DEIT_TINY = ViTSize(192, 12, 3)


@dataclass(frozen=True)
class SETRVariant:
    """A transformer and what is made of it.

    Attributes:
        size: the encoder's numbers.
        decoder: which of the three.
        layers: the blocks after which the encoder emits a map. MLA reads all of them, the others the last.
        auxiliary: the layers with an auxiliary head.
        code: whose implementation of the decoder and its heads.
    """

    size: ViTSize
    decoder: Literal["naive", "pup", "mla"]
    layers: tuple[int, ...]
    auxiliary: tuple[int, ...]
    code: Literal["official", "mmseg"]


VARIANTS = {
    "setr_naive_large": SETRVariant(T_LARGE, "naive", (10, 15, 20, 24), (10, 15, 20), "official"),
    "setr_naive_base": SETRVariant(T_BASE, "naive", (3, 6, 9, 12), (3, 6, 9), "official"),
    "setr_naive_deit_base": SETRVariant(T_BASE, "naive", (3, 6, 9, 12), (3, 6, 9), "official"),
    "setr_naive_small": SETRVariant(DEIT_SMALL, "naive", (3, 6, 9, 12), (3, 6, 9), "official"),
    "setr_naive_tiny": SETRVariant(DEIT_TINY, "naive", (3, 6, 9, 12), (3, 6, 9), "official"),
    "setr_pup_large": SETRVariant(T_LARGE, "pup", (10, 15, 20, 24), (10, 15, 20, 24), "official"),
    "setr_pup_base": SETRVariant(T_BASE, "pup", (5, 8, 10, 12), (5, 8, 10, 12), "official"),
    "setr_pup_deit_base": SETRVariant(T_BASE, "pup", (5, 8, 10, 12), (5, 8, 10, 12), "official"),
    "setr_pup_small": SETRVariant(DEIT_SMALL, "pup", (5, 8, 10, 12), (5, 8, 10, 12), "official"),
    "setr_pup_tiny": SETRVariant(DEIT_TINY, "pup", (5, 8, 10, 12), (5, 8, 10, 12), "official"),
    "setr_mla_large": SETRVariant(T_LARGE, "mla", (6, 12, 18, 24), (6, 12, 18, 24), "official"),
    "setr_mla_base": SETRVariant(T_BASE, "mla", (3, 6, 9, 12), (3, 6, 9, 12), "official"),
    "setr_mla_deit_base": SETRVariant(T_BASE, "mla", (3, 6, 9, 12), (3, 6, 9, 12), "official"),
    "setr_mla_small": SETRVariant(DEIT_SMALL, "mla", (3, 6, 9, 12), (3, 6, 9, 12), "official"),
    "setr_mla_tiny": SETRVariant(DEIT_TINY, "mla", (3, 6, 9, 12), (3, 6, 9, 12), "official"),
    "setr_naive_large_mmseg": SETRVariant(T_LARGE, "naive", (10, 15, 20, 24), (10, 15, 20), "mmseg"),
    "setr_pup_large_mmseg": SETRVariant(T_LARGE, "pup", (10, 15, 20, 24), (10, 15, 20), "mmseg"),
    "setr_mla_large_mmseg": SETRVariant(T_LARGE, "mla", (6, 12, 18, 24), (6, 12, 18, 24), "mmseg"),
}


def build(
    variant: SETRVariant, num_classes: int, drop_path_rate: float = 0.0, image_size: tuple[int, int] = (768, 768)
) -> Segmenter:
    """Return a randomly initialised SETR.

    Args:
        variant: a row of `VARIANTS`.
        num_classes: K, at least 2.
        drop_path_rate: drop path of the last encoder block; 0 in the paper's code.
        image_size: (H, W) that the position embeddings are made for. The papers' crops are 768, 512 and 480 a side.
    """
    encoder = VisionTransformer(
        embed_dim=variant.size.embed_dim,
        depth=variant.size.depth,
        num_heads=variant.size.num_heads,
        mlp_ratio=4,
        patch_size=16,
        image_size=image_size,
        layers=variant.layers,
        class_token_in_blocks=variant.decoder != "mla",
        drop_path_rate=drop_path_rate,
    )
    return Segmenter(encoder, _decoder(variant, num_classes), _auxiliary(variant, num_classes))


def _decoder(variant: SETRVariant, num_classes: int) -> nn.Module:
    dim, official = variant.size.embed_dim, variant.code == "official"
    if variant.decoder == "naive":
        return NaiveDecoder(dim, num_classes, resize=1 if official else 4)
    if variant.decoder == "pup":
        return PUPDecoder(dim, num_classes)
    return MLADecoder(
        [dim] * len(variant.layers), num_classes, kernel_size=3 if official else 1, align_corners=official
    )


def _auxiliary(variant: SETRVariant, num_classes: int) -> list[nn.Module]:
    dim, official = variant.size.embed_dim, variant.code == "official"
    levels = [variant.layers.index(layer) for layer in variant.auxiliary]
    if variant.decoder == "mla":
        return [MLAAuxiliaryHead(256, num_classes, level, bias=not official) for level in levels]
    if not official:
        kernel_size = 1 if variant.decoder == "naive" else 3
        return [PUPDecoder(dim, num_classes, level, factors=(1, 4), kernel_size=kernel_size) for level in levels]
    if variant.decoder == "naive":
        return [NaiveDecoder(dim, num_classes, level) for level in levels]
    return [PUPDecoder(dim, num_classes, level, factors=(1,), resize=4) for level in levels]
