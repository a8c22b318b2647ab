"""The plain ViT encoder's names in timm (and SETR's own code), in mmsegmentation, and in transformers 4 and 5.

DeiT and DINOv2 are the same network but for these, which `_made_regular` takes out of their tensors:

* DeiT's distillation token, not used for segmentation.
* DINOv2's layer scale, a factor for each channel of what attention and MLP add. It is multiplied into the matrix before
  it, which changes nothing.
* DINOv2's patches of 14 x 14. The projection becomes one of 16 x 16 that gives a patch enlarged bilinearly the token
  that it had (FlexiViT, arXiv 2212.08013, section 3.4). So it sees a photo about as DINOv2 does at 7/8 of the size.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from terrazzo.models.layers import interpolation_matrix
from terrazzo.models.setr import VARIANTS
from terrazzo.models.spec import ModelSpec
from terrazzo.weights.remap.layout import Layout, Place, Shapes

__all__ = ["LAYOUTS", "PATCH", "mmseg_encoder", "size_in", "timm_encoder", "variant_in"]

PATCH = 16
LAYER_SCALES = (
    (r"(blocks\.\d+)\.ls1\.gamma", "attn.proj"),
    (r"(blocks\.\d+)\.ls2\.gamma", "mlp.fc2"),
    (r"(encoder\.layer\.\d+)\.layer_scale1\.lambda1", "attention.output.dense"),
    (r"(encoder\.layer\.\d+)\.layer_scale1\.lambda1", "attention.o_proj"),
    (r"(encoder\.layer\.\d+)\.layer_scale2\.lambda1", "mlp.fc2"),
)
"""DINOv2's factors, in timm and in transformers, and the module of the same block that they go into."""


def timm_encoder(prefix: str) -> dict[str, Place]:
    """timm's names, which SETR's authors kept."""
    block, positions = f"{prefix}blocks.{{i}}", Place(f"{prefix}pos_embed", tokens=True)
    return {
        "encoder.cls_token": Place(f"{prefix}cls_token"),
        "encoder.cls_pos_embed": positions,
        "encoder.pos_embed": positions,
        "encoder.patch_embed.proj": Place(f"{prefix}patch_embed.proj"),
        **{
            f"encoder.blocks.{{i}}.{name}": Place(f"{block}.{name}")
            for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        },
    }


def mmseg_encoder(prefix: str) -> dict[str, Place]:
    """mmsegmentation's names."""
    block, positions = f"{prefix}layers.{{i}}", Place(f"{prefix}pos_embed", tokens=True)
    return {
        "encoder.cls_token": Place(f"{prefix}cls_token"),
        "encoder.cls_pos_embed": positions,
        "encoder.pos_embed": positions,
        "encoder.patch_embed.proj": Place(f"{prefix}patch_embed.projection"),
        "encoder.blocks.{i}.norm1": Place(f"{block}.ln1"),
        "encoder.blocks.{i}.attn.qkv": Place(f"{block}.attn.attn.in_proj_{{leaf}}"),
        "encoder.blocks.{i}.attn.proj": Place(f"{block}.attn.attn.out_proj"),
        "encoder.blocks.{i}.norm2": Place(f"{block}.ln2"),
        "encoder.blocks.{i}.mlp.fc1": Place(f"{block}.ffn.layers.0.0"),
        "encoder.blocks.{i}.mlp.fc2": Place(f"{block}.ffn.layers.1"),
    }


def _hf_encoder(
    block: str, norms: tuple[str, str], attention: tuple[str, ...], mlp: tuple[str, str]
) -> dict[str, Place]:
    """transformers' names: of its norms, of query, key, value and output, and of both linear layers of the MLP."""
    positions = Place("embeddings.position_embeddings", tokens=True)
    *qkv, output = (f"{block}.{name}" for name in attention)
    return {
        "encoder.cls_token": Place("embeddings.cls_token"),
        "encoder.cls_pos_embed": positions,
        "encoder.pos_embed": positions,
        "encoder.patch_embed.proj": Place("embeddings.patch_embeddings.projection"),
        "encoder.blocks.{i}.norm1": Place(f"{block}.{norms[0]}"),
        "encoder.blocks.{i}.attn.qkv": Place(*qkv),
        "encoder.blocks.{i}.attn.proj": Place(output),
        "encoder.blocks.{i}.norm2": Place(f"{block}.{norms[1]}"),
        "encoder.blocks.{i}.mlp.fc1": Place(f"{block}.{mlp[0]}"),
        "encoder.blocks.{i}.mlp.fc2": Place(f"{block}.{mlp[1]}"),
    }


def _made_regular(tensors: dict[str, Tensor]) -> None:
    """Take out what only DeiT and DINOv2 have. What is not of their shape stays, to be refused."""
    _without_distillation(tensors)
    for key in list(tensors):
        for pattern, name in LAYER_SCALES:
            if (match := re.fullmatch(pattern, key)) and f"{match[1]}.{name}.weight" in tensors:
                _scale_rows(tensors, f"{match[1]}.{name}", key)
                break
    for key in ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"):
        if key in tensors and tensors[key].ndim == 4 and 1 < tensors[key].shape[2] == tensors[key].shape[3] < PATCH:
            tensors[key] = _enlarged_patches(tensors[key])


def _scale_rows(tensors: dict[str, Tensor], module: str, factors: str) -> None:
    """Multiply the factors of a module's outputs into its weight and bias."""
    factor, weight, bias = (tensors.get(key) for key in (factors, f"{module}.weight", f"{module}.bias"))
    if factor is None or weight is None or bias is None or (weight.ndim, bias.ndim, factor.ndim) != (2, 1, 1):
        return
    if len(factor) == len(weight) == len(bias):
        tensors[f"{module}.weight"] = factor.float()[:, None] * weight.float()
        tensors[f"{module}.bias"] = factor.float() * bias.float()
        del tensors[factors]


def _enlarged_patches(weight_C3pp: Tensor) -> Tensor:
    """Return the projection of 16 x 16 patches that gives an enlarged patch the token of the patch."""
    enlarge = interpolation_matrix(weight_C3pp.shape[-1], PATCH, torch.empty(0, dtype=torch.float64))
    back = torch.linalg.pinv(enlarge.T)
    enlarged: Tensor = back @ weight_C3pp.double() @ back.T
    return enlarged.to(torch.float32)


def _without_distillation(tensors: dict[str, Tensor]) -> None:
    """DeiT's distillation token and its position, the second one, are not used for segmentation."""
    for token, positions in (
        ("dist_token", "pos_embed"),
        ("embeddings.distillation_token", "embeddings.position_embeddings"),
    ):
        if token in tensors:
            del tensors[token]
            if positions in tensors and tensors[positions].ndim == 3:
                kept = tensors[positions]
                tensors[positions] = kept[:, [0, *range(2, kept.shape[1])]]


TIMM = Layout(
    "ViT encoder, timm names",
    "blocks.0.attn.qkv.weight",
    timm_encoder(""),
    dropped=("norm.*", "head.*", "head_dist.*", "pre_logits.*", "mask_token"),
    encoder_only=True,
    prepare=_made_regular,
)
HF4_ATTENTION = (
    *("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense",
)
HF5_ATTENTION = tuple(f"attention.{letter}_proj" for letter in "qkvo")
VIT_NORMS, DINOV2_NORMS = ("layernorm_before", "layernorm_after"), ("norm1", "norm2")
MLP = ("mlp.fc1", "mlp.fc2")

HF4 = Layout(
    "ViT encoder, transformers 4 names",
    "encoder.layer.0.attention.attention.query.weight",
    _hf_encoder("encoder.layer.{i}", VIT_NORMS, HF4_ATTENTION, ("intermediate.dense", "output.dense")),
    dropped=("layernorm.*", "pooler.*", "classifier.*", "cls_classifier.*", "distillation_classifier.*"),
    encoder_only=True,
    prepare=_made_regular,
)
HF5 = Layout(
    "ViT encoder, transformers 5 names",
    "layers.0.attention.q_proj.weight",
    _hf_encoder("layers.{i}", VIT_NORMS, HF5_ATTENTION, MLP),
    dropped=HF4.dropped,
    encoder_only=True,
    prepare=_made_regular,
)
DINOV2_HF4 = Layout(
    "DINOv2 encoder, transformers 4 names",
    "encoder.layer.0.layer_scale1.lambda1",
    _hf_encoder("encoder.layer.{i}", DINOV2_NORMS, HF4_ATTENTION, MLP),
    dropped=("layernorm.*", "classifier.*", "embeddings.mask_token"),
    encoder_only=True,
    prepare=_made_regular,
)
DINOV2_HF5 = Layout(
    "DINOv2 encoder, transformers 5 names",
    "encoder.layer.0.attention.q_proj.weight",
    _hf_encoder("encoder.layer.{i}", DINOV2_NORMS, HF5_ATTENTION, MLP),
    dropped=DINOV2_HF4.dropped,
    encoder_only=True,
    prepare=_made_regular,
)

LAYOUTS = (DINOV2_HF5, DINOV2_HF4, TIMM, HF4, HF5)
"""DINOv2's first: its files hold the markers of others too."""


def size_in(layout: Layout, shapes: Shapes) -> tuple[int, int]:
    """Return the channels and the number of blocks of a file's encoder."""
    channels = (shapes.get(layout.theirs("encoder.blocks.0.norm1.weight")[0]) or (0,))[-1]
    depth = 0
    while layout.theirs(f"encoder.blocks.{depth}.norm1.weight")[0] in shapes:
        depth += 1
    return channels, depth


def variant_in(layout: Layout, shapes: Shapes) -> tuple[ModelSpec | None, str]:
    """Return a SETR that has a file's encoder, and a description for when there is none."""
    channels, depth = size_in(layout, shapes)
    described = f"{depth} blocks of {channels} channels"
    fitting = (
        spec
        for spec in VARIANTS.values()
        if spec.decoder.name == "setr_pup"
        and (spec.encoder.fields["embed_dim"], spec.encoder.fields["depth"]) == (channels, depth)
    )
    return next(fitting, None), described
