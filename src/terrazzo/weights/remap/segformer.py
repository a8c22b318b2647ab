"""SegFormer's names in NVlabs' files, in Hugging Face transformers 4 and 5, in mmsegmentation and in smp.

NVlabs' decoder, transformers' and that of segmentation_models.pytorch (smp) are one network. smp enlarges the logits to
the photo's size with aligned corners, which is outside of the network and done here as the paper's code does it.
mmsegmentation's encoder is theirs too, but its decoder is another network, `decoders/conv_mlp.py`, so its files are
models of their own (``segformer_b0_mmseg``).
"""

from __future__ import annotations

from itertools import count
from typing import Any

from terrazzo.models.segformer import VARIANTS
from terrazzo.models.spec import ModelSpec
from terrazzo.weights.remap.layout import Layout, Place, Shapes

__all__ = ["HF4", "HF4_MIT", "HF5", "HF5_MIT", "LAYOUTS", "OF_TRANSFORMERS", "measured", "variant_in"]


def _nvlabs_encoder(prefix: str) -> dict[str, Place]:
    block = f"{prefix}block{{I}}.{{j}}"
    return {
        "encoder.stages.{i}.patch_embed.proj": Place(f"{prefix}patch_embed{{I}}.proj"),
        "encoder.stages.{i}.patch_embed.norm": Place(f"{prefix}patch_embed{{I}}.norm"),
        "encoder.stages.{i}.norm": Place(f"{prefix}norm{{I}}"),
        "encoder.stages.{i}.blocks.{j}.norm1": Place(f"{block}.norm1"),
        "encoder.stages.{i}.blocks.{j}.norm2": Place(f"{block}.norm2"),
        "encoder.stages.{i}.blocks.{j}.attn.q": Place(f"{block}.attn.q"),
        "encoder.stages.{i}.blocks.{j}.attn.kv": Place(f"{block}.attn.kv"),
        "encoder.stages.{i}.blocks.{j}.attn.proj": Place(f"{block}.attn.proj"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.conv": Place(f"{block}.attn.sr"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.norm": Place(f"{block}.attn.norm"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc1": Place(f"{block}.mlp.fc1"),
        "encoder.stages.{i}.blocks.{j}.ffn.dwconv": Place(f"{block}.mlp.dwconv.dwconv"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc2": Place(f"{block}.mlp.fc2"),
    }


def _hf4_encoder(prefix: str) -> dict[str, Place]:
    block = f"{prefix}encoder.block.{{i}}.{{j}}"
    return {
        "encoder.stages.{i}.patch_embed.proj": Place(f"{prefix}encoder.patch_embeddings.{{i}}.proj"),
        "encoder.stages.{i}.patch_embed.norm": Place(f"{prefix}encoder.patch_embeddings.{{i}}.layer_norm"),
        "encoder.stages.{i}.norm": Place(f"{prefix}encoder.layer_norm.{{i}}"),
        "encoder.stages.{i}.blocks.{j}.norm1": Place(f"{block}.layer_norm_1"),
        "encoder.stages.{i}.blocks.{j}.norm2": Place(f"{block}.layer_norm_2"),
        "encoder.stages.{i}.blocks.{j}.attn.q": Place(f"{block}.attention.self.query"),
        "encoder.stages.{i}.blocks.{j}.attn.kv": Place(f"{block}.attention.self.key", f"{block}.attention.self.value"),
        "encoder.stages.{i}.blocks.{j}.attn.proj": Place(f"{block}.attention.output.dense"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.conv": Place(f"{block}.attention.self.sr"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.norm": Place(f"{block}.attention.self.layer_norm"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc1": Place(f"{block}.mlp.dense1"),
        "encoder.stages.{i}.blocks.{j}.ffn.dwconv": Place(f"{block}.mlp.dwconv.dwconv"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc2": Place(f"{block}.mlp.dense2"),
    }


def _hf5_encoder(prefix: str) -> dict[str, Place]:
    stage = f"{prefix}stages.{{i}}"
    block = f"{stage}.blocks.{{j}}"
    reduction = f"{block}.attention.sequence_reduction"
    return {
        "encoder.stages.{i}.patch_embed.proj": Place(f"{stage}.patch_embeddings.proj"),
        "encoder.stages.{i}.patch_embed.norm": Place(f"{stage}.patch_embeddings.layer_norm"),
        "encoder.stages.{i}.norm": Place(f"{stage}.layer_norm"),
        "encoder.stages.{i}.blocks.{j}.norm1": Place(f"{block}.layernorm_before"),
        "encoder.stages.{i}.blocks.{j}.norm2": Place(f"{block}.layernorm_after"),
        "encoder.stages.{i}.blocks.{j}.attn.q": Place(f"{block}.attention.q_proj"),
        "encoder.stages.{i}.blocks.{j}.attn.kv": Place(f"{block}.attention.k_proj", f"{block}.attention.v_proj"),
        "encoder.stages.{i}.blocks.{j}.attn.proj": Place(f"{block}.attention.o_proj"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.conv": Place(f"{reduction}.sequence_reduction"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.norm": Place(f"{reduction}.layer_norm"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc1": Place(f"{block}.mlp.fc1"),
        "encoder.stages.{i}.blocks.{j}.ffn.dwconv": Place(f"{block}.mlp.dwconv.dwconv"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc2": Place(f"{block}.mlp.fc2"),
    }


def _mmseg_encoder(prefix: str) -> dict[str, Place]:
    stage = f"{prefix}layers.{{i}}"
    block = f"{stage}.1.{{j}}"
    packed = Place(f"{block}.attn.attn.in_proj_{{leaf}}")
    return {
        "encoder.stages.{i}.patch_embed.proj": Place(f"{stage}.0.projection"),
        "encoder.stages.{i}.patch_embed.norm": Place(f"{stage}.0.norm"),
        "encoder.stages.{i}.norm": Place(f"{stage}.2"),
        "encoder.stages.{i}.blocks.{j}.norm1": Place(f"{block}.norm1"),
        "encoder.stages.{i}.blocks.{j}.norm2": Place(f"{block}.norm2"),
        "encoder.stages.{i}.blocks.{j}.attn.q": packed,
        "encoder.stages.{i}.blocks.{j}.attn.kv": packed,
        "encoder.stages.{i}.blocks.{j}.attn.proj": Place(f"{block}.attn.attn.out_proj"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.conv": Place(f"{block}.attn.sr"),
        "encoder.stages.{i}.blocks.{j}.attn.sr.norm": Place(f"{block}.attn.norm"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc1": Place(f"{block}.ffn.layers.0", conv=True),
        "encoder.stages.{i}.blocks.{j}.ffn.dwconv": Place(f"{block}.ffn.layers.1"),
        "encoder.stages.{i}.blocks.{j}.ffn.fc2": Place(f"{block}.ffn.layers.4", conv=True),
    }


def _hf_decoder(projection: str) -> dict[str, Place]:
    return {
        "decoder.projections.{i}": Place(f"decode_head.{projection}.{{i}}.proj"),
        "decoder.fuse": Place("decode_head.linear_fuse", conv=True),
        "decoder.norm": Place("decode_head.batch_norm"),
        "decoder.classifier": Place("decode_head.classifier", conv=True),
    }


NVLABS_LICENCE = "not stated in the file; NVlabs' releases: NVIDIA Source Code License, non-commercial use only"

NVLABS = Layout(
    "NVlabs SegFormer",
    "decode_head.linear_c1.proj.weight",
    _nvlabs_encoder("backbone.")
    | {
        "decoder.projections.{i}": Place("decode_head.linear_c{I}.proj"),
        "decoder.fuse": Place("decode_head.linear_fuse.conv", conv=True),
        "decoder.norm": Place("decode_head.linear_fuse.bn"),
        "decoder.classifier": Place("decode_head.linear_pred", conv=True),
    },
    dropped=("decode_head.conv_seg.*",),
    licence=NVLABS_LICENCE,
)
HF4 = Layout(
    "Hugging Face SegFormer (transformers 4 names)",
    "decode_head.linear_c.0.proj.weight",
    _hf4_encoder("segformer.") | _hf_decoder("linear_c"),
)
HF5 = Layout(
    "Hugging Face SegFormer (transformers 5 names)",
    "decode_head.linear_projections.0.proj.weight",
    _hf5_encoder("segformer.") | _hf_decoder("linear_projections"),
)
MMSEG = Layout(
    "mmsegmentation SegFormer",
    "decode_head.fusion_conv.conv.weight",
    _mmseg_encoder("backbone.")
    | {
        "decoder.projections.{i}": Place("decode_head.convs.{i}.conv", conv=True),
        "decoder.projection_norms.{i}": Place("decode_head.convs.{i}.bn"),
        "decoder.fuse": Place("decode_head.fusion_conv.conv", conv=True),
        "decoder.norm": Place("decode_head.fusion_conv.bn"),
        "decoder.classifier": Place("decode_head.conv_seg", conv=True),
    },
    licence="not stated in the file; parts of mmsegmentation's SegFormer are for non-commercial use only",
)
SMP = Layout(  # its levels are counted from the deepest
    "SegFormer of segmentation_models.pytorch",
    "decoder.mlp_stage.0.linear.weight",
    _nvlabs_encoder("encoder.")
    | {
        "decoder.projections.{i}": Place("decoder.mlp_stage.{r}.linear"),
        "decoder.fuse": Place("decoder.fuse_stage.0", conv=True),
        "decoder.norm": Place("decoder.fuse_stage.1"),
        "decoder.classifier": Place("segmentation_head.0", conv=True),
    },
    licence="not stated in the file; encoders that were started from NVlabs' are for non-commercial use only",
    remark="segmentation_models.pytorch enlarges the logits with aligned corners, and the paper's code, which is "
    "followed here, does not: towards the photo's borders masks lie up to 1.5 pixels further out",
)
MIT = Layout(
    "MiT encoder, NVlabs names",
    "patch_embed1.proj.weight",
    _nvlabs_encoder(""),
    dropped=("head.*",),
    encoder_only=True,
    licence=NVLABS_LICENCE,
)
HF4_MIT = Layout(
    "MiT encoder, transformers 4 names",
    "encoder.patch_embeddings.0.proj.weight",
    _hf4_encoder(""),
    dropped=("classifier.*",),
    encoder_only=True,
    licence=NVLABS_LICENCE,
)
HF5_MIT = Layout(
    "MiT encoder, transformers 5 names",
    "stages.0.patch_embeddings.proj.weight",
    _hf5_encoder(""),
    dropped=("classifier.*",),
    encoder_only=True,
    licence=NVLABS_LICENCE,
)
MMSEG_MIT = Layout(
    "MiT encoder, mmsegmentation names",
    "layers.0.0.projection.weight",
    _mmseg_encoder(""),
    dropped=("head.*",),
    encoder_only=True,
    licence=NVLABS_LICENCE,
)

OURS = Layout("Terrazzo SegFormer", "decoder.projections.0.bias", {path: Place(path) for path in NVLABS.places})
OURS_MMSEG = Layout(
    "Terrazzo SegFormer with mmsegmentation's decoder",
    "decoder.projection_norms.0.weight",
    {path: Place(path) for path in MMSEG.places},
)

LAYOUTS = (NVLABS, HF4, HF5, MMSEG, SMP, OURS, OURS_MMSEG, MIT, HF4_MIT, HF5_MIT, MMSEG_MIT)


OF_TRANSFORMERS = (HF4, HF5, HF4_MIT, HF5_MIT)


def variant_in(layout: Layout, shapes: Shapes) -> tuple[ModelSpec | None, str]:
    """Return which of our models a file of one of these layouts holds, and a description for when it is none of them.

    Args:
        layout: one of `LAYOUTS`.
        shapes: of the file's tensors, under the layout's own names.
    """
    found = measured(layout, shapes)
    dims, depths, width = (found.get(key) for key in ("hidden_sizes", "depths", "decoder_hidden_size"))
    described = f"stages of {dims} channels and {depths} blocks" if dims else "an encoder that is not MiT"
    if not layout.encoder_only:
        described += f" under a decoder of width {width}"
    decoder = "conv_mlp" if layout in (MMSEG, OURS_MMSEG) else "all_mlp"
    for spec in VARIANTS.values():
        fits = width in (None, spec.decoder.fields["embed_dim"]) and spec.decoder.name == decoder
        if fits and (spec.encoder.fields["embed_dims"], spec.encoder.fields["depths"]) == (dims, depths):
            return spec, described
    return None, described


def measured(layout: Layout, shapes: Shapes) -> dict[str, Any]:
    """Return what the shapes of a file's tensors tell, under transformers' names for it.

    Args:
        layout: one of `LAYOUTS`.
        shapes: of the file's tensors, under the layout's own names.
    """

    def width(key: str, axis: int) -> int:
        shape = shapes.get(layout.theirs(key)[0], ())
        return shape[axis] if len(shape) > axis else 0

    def depth(stage: int) -> int:
        return next(j for j in count() if not width(f"encoder.stages.{stage}.blocks.{j}.norm1.weight", 0))

    embed = "encoder.stages.{}.patch_embed.proj.weight"
    stages = next(i for i in count() if not width(embed.format(i), 0))
    if not stages:
        return {}
    return {
        "num_encoder_blocks": stages,
        "hidden_sizes": tuple(width(embed.format(i), 0) for i in range(stages)),
        "depths": tuple(depth(i) for i in range(stages)),
        "num_channels": width(embed.format(0), 1),
        **({} if layout.encoder_only else {"decoder_hidden_size": width("decoder.classifier.weight", 1)}),
    }
