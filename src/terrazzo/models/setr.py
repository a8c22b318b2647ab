"""SETR (Zheng et al. 2021, arXiv 2012.15840): which class holds which section, and the variants.

    section 3.1  image to sequence       encoders/vit.py     PatchEmbed, and the position embeddings
    section 3.2  transformer             encoders/vit.py     VisionTransformer, Block, SelfAttention
    section 3.3  naive upsampling        decoders/naive.py   NaiveDecoder
                 progressive upsampling  decoders/pup.py     PUPDecoder
                 multi-level aggregation decoders/mla.py     MLADecoder, MultiLevelAggregation
                 auxiliary losses        the same decoders on earlier layers; decoders/mla.py MLAAuxiliaryHead
    section 4.1  hybrid                  encoders/hybrid.py  HybridEncoder; `hybrid_base+setr_naive`

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

The paper's sizes (table 2, such as 87.69 M for Naive with T-Base) are those of its ADE20K networks in training: 512 x
512, 150 classes, with the auxiliary heads, and with the unused `conv_seg` (512 K + K parameters) in every head.

Variants with DeiT-Tiny and DeiT-Small (arXiv 2012.12877, table 1) are not in the paper. They are for training on small
data and small machines; the decoders keep the paper's widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from terrazzo.models.encoders.vit import SIZES
from terrazzo.models.spec import ModelSpec, Part

__all__ = ["VARIANTS", "setr_spec"]

Decoder = Literal["naive", "pup", "mla"]


def setr_spec(
    name: str,
    size: Mapping[str, Any],
    decoder: Decoder,
    layers: tuple[int, ...],
    auxiliary: tuple[int, ...],
    mmseg: bool = False,
) -> ModelSpec:
    """Return the spec of a SETR.

    Args:
        name: what it is called.
        size: the encoder's numbers, such as a value of `vit.SIZES`.
        decoder: which of the three.
        layers: the blocks after which the encoder emits a map. MLA reads all of them, the others the last.
        auxiliary: the layers with an auxiliary head.
        mmseg: mmsegmentation's implementation of the decoder and its heads, not the official one.
    """
    encoder = Part("vit", {**size, "layers": layers, "class_token_in_blocks": decoder != "mla"})
    levels = [layers.index(layer) for layer in auxiliary]
    heads = [_auxiliary(decoder, level, mmseg) for level in levels]
    return ModelSpec(encoder, Part(f"setr_{decoder}", _decoder(decoder, mmseg)), auxiliary=tuple(heads), name=name)


def _decoder(decoder: Decoder, mmseg: bool) -> dict[str, object]:
    if decoder == "naive":
        return {"resize": 4 if mmseg else 1}
    if decoder == "pup":
        return {}
    return {"kernel_size": 1 if mmseg else 3, "align_corners": not mmseg}


def _auxiliary(decoder: Decoder, level: int, mmseg: bool) -> Part:
    if decoder == "mla":
        return Part("setr_mla", {"level": level, "bias": mmseg})
    if mmseg:
        kernel_size = 1 if decoder == "naive" else 3
        return Part("setr_pup", {"level": level, "factors": (1, 4), "kernel_size": kernel_size})
    if decoder == "naive":
        return Part("setr_naive", {"level": level})
    return Part("setr_pup", {"level": level, "factors": (1,), "resize": 4})


NAIVE, PUP = (3, 6, 9, 12), (5, 8, 10, 12)
LARGE, LARGE_MLA = (10, 15, 20, 24), (6, 12, 18, 24)

VARIANTS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        str(spec.name): spec
        for spec in (
            setr_spec("setr_naive_large", SIZES["vit_large"], "naive", LARGE, LARGE[:3]),
            *(
                setr_spec(f"setr_naive_{name}", SIZES[f"vit_{size}"], "naive", NAIVE, NAIVE[:3])
                for name, size in (("base", "base"), ("deit_base", "base"), ("small", "small"), ("tiny", "tiny"))
            ),
            setr_spec("setr_pup_large", SIZES["vit_large"], "pup", LARGE, LARGE),
            *(
                setr_spec(f"setr_pup_{name}", SIZES[f"vit_{size}"], "pup", PUP, PUP)
                for name, size in (("base", "base"), ("deit_base", "base"), ("small", "small"), ("tiny", "tiny"))
            ),
            setr_spec("setr_mla_large", SIZES["vit_large"], "mla", LARGE_MLA, LARGE_MLA),
            *(
                setr_spec(f"setr_mla_{name}", SIZES[f"vit_{size}"], "mla", NAIVE, NAIVE)
                for name, size in (("base", "base"), ("deit_base", "base"), ("small", "small"), ("tiny", "tiny"))
            ),
            setr_spec("setr_naive_large_mmseg", SIZES["vit_large"], "naive", LARGE, LARGE[:3], mmseg=True),
            setr_spec("setr_pup_large_mmseg", SIZES["vit_large"], "pup", LARGE, LARGE[:3], mmseg=True),
            setr_spec("setr_mla_large_mmseg", SIZES["vit_large"], "mla", LARGE_MLA, LARGE_MLA, mmseg=True),
        )
    }
)
