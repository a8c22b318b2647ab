"""The plain ViT encoder's names in timm (and SETR's own code), in mmsegmentation, and in transformers 4 and 5."""

from __future__ import annotations

from torch import Tensor

from terrazzo.models.setr import VARIANTS
from terrazzo.weights.remap.layout import Layout, Place, Shapes

__all__ = ["LAYOUTS", "mmseg_encoder", "size_in", "timm_encoder", "variant_in"]


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
    block: str, attention: str, names: tuple[str, ...], output: str, fc1: str, fc2: str
) -> dict[str, Place]:
    positions = Place("embeddings.position_embeddings", tokens=True)
    return {
        "encoder.cls_token": Place("embeddings.cls_token"),
        "encoder.cls_pos_embed": positions,
        "encoder.pos_embed": positions,
        "encoder.patch_embed.proj": Place("embeddings.patch_embeddings.projection"),
        "encoder.blocks.{i}.norm1": Place(f"{block}.layernorm_before"),
        "encoder.blocks.{i}.attn.qkv": Place(*(f"{block}.{attention}.{name}" for name in names)),
        "encoder.blocks.{i}.attn.proj": Place(f"{block}.{output}"),
        "encoder.blocks.{i}.norm2": Place(f"{block}.layernorm_after"),
        "encoder.blocks.{i}.mlp.fc1": Place(f"{block}.{fc1}"),
        "encoder.blocks.{i}.mlp.fc2": Place(f"{block}.{fc2}"),
    }


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
    dropped=("norm.*", "head.*", "head_dist.*", "pre_logits.*"),
    encoder_only=True,
    prepare=_without_distillation,
)
HF4 = Layout(
    "ViT encoder, transformers 4 names",
    "encoder.layer.0.attention.attention.query.weight",
    {
        **_hf_encoder(
            "encoder.layer.{i}",
            "attention.attention",
            ("query", "key", "value"),
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    },
    dropped=("layernorm.*", "pooler.*", "classifier.*", "cls_classifier.*", "distillation_classifier.*"),
    encoder_only=True,
    prepare=_without_distillation,
)
HF5 = Layout(
    "ViT encoder, transformers 5 names",
    "layers.0.attention.q_proj.weight",
    _hf_encoder("layers.{i}", "attention", ("q_proj", "k_proj", "v_proj"), "attention.o_proj", "mlp.fc1", "mlp.fc2"),
    dropped=HF4.dropped,
    encoder_only=True,
    prepare=_without_distillation,
)

LAYOUTS = (TIMM, HF4, HF5)


def size_in(layout: Layout, shapes: Shapes) -> tuple[int, int]:
    """Return the channels and the number of blocks of a file's encoder."""
    channels = (shapes.get(layout.theirs("encoder.cls_token")[0]) or (0,))[-1]
    depth = 0
    while layout.theirs(f"encoder.blocks.{depth}.norm1.weight")[0] in shapes:
        depth += 1
    return channels, depth


def variant_in(layout: Layout, shapes: Shapes) -> tuple[str | None, str]:
    """Return a SETR that has a file's encoder, and a description for when there is none."""
    channels, depth = size_in(layout, shapes)
    described = f"{depth} blocks of {channels} channels"
    fitting = (
        name
        for name, variant in VARIANTS.items()
        if (variant.size.embed_dim, variant.size.depth) == (channels, depth) and variant.decoder == "pup"
    )
    return next(fitting, None), described
