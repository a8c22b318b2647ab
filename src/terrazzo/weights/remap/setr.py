"""SETR's names in its authors' files and in mmsegmentation's, which are models of their own (``setr_..._mmseg``)."""

from __future__ import annotations

import torch
from torch import Tensor

from terrazzo.models.setr import VARIANTS
from terrazzo.models.spec import ModelSpec
from terrazzo.weights.remap.layout import Layout, Place, Shapes
from terrazzo.weights.remap.vit import mmseg_encoder, size_in, timm_encoder

__all__ = ["LAYOUTS", "MLA", "MMSEG_MLA", "MMSEG_NAIVE", "MMSEG_PUP", "NAIVE", "PUP", "variant_in"]

NOT_USED = ("decode_head.conv_seg.*", "auxiliary_head.*.conv_seg.*", "backbone.norm.*", "backbone.head.*")
MIT_LICENCE = "not stated in the file; SETR's authors release theirs under MIT"
MMSEG_LICENCE = "not stated in the file; mmsegmentation releases its own under Apache-2.0"


def _no_biases(*places: str) -> dict[str, Place]:
    """mmsegmentation's convolutions before a BatchNorm have no bias."""
    return {f"{place}.bias": Place() for place in places}


def _prepare_mmseg(tensors: dict[str, Tensor]) -> None:
    """Some of its files have no bias in the patch embedding."""
    weight = tensors.get("backbone.patch_embed.projection.weight")
    if weight is not None and weight.ndim:
        tensors.setdefault("backbone.patch_embed.projection.bias", torch.zeros(weight.shape[0]))


NAIVE = Layout(
    "SETR-Naive of its authors",
    "decode_head.syncbn_fc_0.weight",
    {
        **timm_encoder("backbone."),
        "decoder.norm": Place("decode_head.norm"),
        "decoder.proj": Place("decode_head.conv_0", conv=True),
        "decoder.proj_norm": Place("decode_head.syncbn_fc_0"),
        "decoder.classifier": Place("decode_head.conv_1", conv=True),
        "auxiliary.{i}.norm": Place("auxiliary_head.{i}.norm"),
        "auxiliary.{i}.proj": Place("auxiliary_head.{i}.conv_0", conv=True),
        "auxiliary.{i}.proj_norm": Place("auxiliary_head.{i}.syncbn_fc_0"),
        "auxiliary.{i}.classifier": Place("auxiliary_head.{i}.conv_1", conv=True),
    },
    dropped=NOT_USED,
    licence=MIT_LICENCE,
)
PUP = Layout(
    "SETR-PUP of its authors",
    "decode_head.syncbn_fc_3.weight",
    {
        **timm_encoder("backbone."),
        "decoder.norm": Place("decode_head.norm"),
        "decoder.stages.{i}.conv": Place("decode_head.conv_{i}"),
        "decoder.stages.{i}.norm": Place("decode_head.syncbn_fc_{i}"),
        "decoder.classifier": Place("decode_head.conv_4", conv=True),
        "auxiliary.{i}.norm": Place("auxiliary_head.{i}.norm"),
        "auxiliary.{i}.stages.{j}.conv": Place("auxiliary_head.{i}.conv_{j}"),
        "auxiliary.{i}.stages.{j}.norm": Place("auxiliary_head.{i}.syncbn_fc_{j}"),
        "auxiliary.{i}.classifier": Place("auxiliary_head.{i}.conv_1", conv=True),
    },
    dropped=NOT_USED,
    licence=MIT_LICENCE,
)
MLA = Layout(
    "SETR-MLA of its authors",
    "decode_head.mlahead.head2.0.weight",
    {
        **timm_encoder("backbone."),
        "decoder.aggregation.norms.{i}": Place("backbone.norm_{i}"),
        "decoder.aggregation.projections.{i}.conv": Place("backbone.mla.mla_p{i2}_1x1.0"),
        "decoder.aggregation.projections.{i}.norm": Place("backbone.mla.mla_p{i2}_1x1.1"),
        "decoder.aggregation.outputs.{i}.conv": Place("backbone.mla.mla_p{i2}.0"),
        "decoder.aggregation.outputs.{i}.norm": Place("backbone.mla.mla_p{i2}.1"),
        "decoder.streams.{i}.{j}.conv": Place("decode_head.mlahead.head{i2}.{j3}"),
        "decoder.streams.{i}.{j}.norm": Place("decode_head.mlahead.head{i2}.{n3}"),
        "decoder.classifier": Place("decode_head.cls"),
        "auxiliary.{i}.classifier": Place("auxiliary_head.{i}.aux", conv=True),
    },
    dropped=NOT_USED,
    licence=MIT_LICENCE,
)
_MMSEG_AUXILIARY = {
    "auxiliary.{i}.norm": Place("auxiliary_head.{i}.norm"),
    "auxiliary.{i}.stages.{j}.conv": Place("auxiliary_head.{i}.up_convs.{j}.0.conv"),
    "auxiliary.{i}.stages.{j}.norm": Place("auxiliary_head.{i}.up_convs.{j}.0.bn"),
    "auxiliary.{i}.classifier": Place("auxiliary_head.{i}.conv_seg", conv=True),
    **_no_biases("auxiliary.{i}.stages.{j}.conv"),
}
MMSEG_NAIVE = Layout(
    "mmsegmentation SETR-Naive",
    "decode_head.up_convs.0.0.conv.weight",
    {
        **mmseg_encoder("backbone."),
        "decoder.norm": Place("decode_head.norm"),
        "decoder.proj": Place("decode_head.up_convs.0.0.conv", conv=True),
        "decoder.proj_norm": Place("decode_head.up_convs.0.0.bn"),
        "decoder.classifier": Place("decode_head.conv_seg", conv=True),
        **_no_biases("decoder.proj"),
        **_MMSEG_AUXILIARY,
    },
    dropped=("backbone.ln1.*",),
    prepare=_prepare_mmseg,
    licence=MMSEG_LICENCE,
)
MMSEG_PUP = Layout(
    "mmsegmentation SETR-PUP",
    "decode_head.up_convs.3.0.conv.weight",
    {
        **mmseg_encoder("backbone."),
        "decoder.norm": Place("decode_head.norm"),
        "decoder.stages.{i}.conv": Place("decode_head.up_convs.{i}.0.conv"),
        "decoder.stages.{i}.norm": Place("decode_head.up_convs.{i}.0.bn"),
        "decoder.classifier": Place("decode_head.conv_seg", conv=True),
        **_no_biases("decoder.stages.{i}.conv"),
        **_MMSEG_AUXILIARY,
    },
    dropped=("backbone.ln1.*",),
    prepare=_prepare_mmseg,
    licence=MMSEG_LICENCE,
)
MMSEG_MLA = Layout(  # its aggregation hands the levels on in reverse, the deepest first
    "mmsegmentation SETR-MLA",
    "neck.mla.channel_proj.0.conv.weight",
    {
        **mmseg_encoder("backbone."),
        "decoder.aggregation.norms.{i}": Place("neck.norm.{i}"),
        "decoder.aggregation.projections.{i}.conv": Place("neck.mla.channel_proj.{i}.conv"),
        "decoder.aggregation.projections.{i}.norm": Place("neck.mla.channel_proj.{i}.bn"),
        "decoder.aggregation.outputs.{i}.conv": Place("neck.mla.feat_extract.{r}.conv"),
        "decoder.aggregation.outputs.{i}.norm": Place("neck.mla.feat_extract.{r}.bn"),
        "decoder.streams.{i}.{j}.conv": Place("decode_head.up_convs.{r}.{j}.conv"),
        "decoder.streams.{i}.{j}.norm": Place("decode_head.up_convs.{r}.{j}.bn"),
        "decoder.classifier": Place("decode_head.conv_seg", flipped=4),
        "auxiliary.{i}.classifier": Place("auxiliary_head.{r}.conv_seg", conv=True),
    },
    dropped=("backbone.ln1.*",),
    prepare=_prepare_mmseg,
    licence=MMSEG_LICENCE,
)


def _ours(name: str, marker: str, *theirs: Layout) -> Layout:
    """Our own names; those of mmsegmentation's variants are among them, with other auxiliary heads."""
    modules = [path for layout in theirs for path in layout.places if path.rpartition(".")[2] not in ("bias",)]
    return Layout(name, marker, {path: Place(path) for path in modules})


OURS_MLA = _ours("Terrazzo SETR-MLA", "decoder.aggregation.norms.0.weight", MLA)
OURS_PUP = _ours("Terrazzo SETR-PUP", "decoder.stages.0.conv.weight", PUP)
OURS_NAIVE = _ours("Terrazzo SETR-Naive", "decoder.proj_norm.weight", NAIVE, MMSEG_NAIVE)

LAYOUTS = (MLA, PUP, NAIVE, MMSEG_MLA, MMSEG_PUP, MMSEG_NAIVE, OURS_MLA, OURS_PUP, OURS_NAIVE)
DECODERS = {
    MLA: "mla", MMSEG_MLA: "mla", OURS_MLA: "mla", PUP: "pup", MMSEG_PUP: "pup", OURS_PUP: "pup",
    NAIVE: "naive", MMSEG_NAIVE: "naive", OURS_NAIVE: "naive",
}  # fmt: skip


def variant_in(layout: Layout, shapes: Shapes) -> tuple[ModelSpec | None, str]:
    """Return which of our models a file of one of these layouts holds, and a description for when it is none of them.

    The paper's Base and DeiT-Base are one network, and so have one name here: that of Base.
    """
    channels, depth = size_in(layout, shapes)
    is_mmseg = layout in (MMSEG_MLA, MMSEG_PUP, MMSEG_NAIVE) or _is_mmseg(layout, shapes)
    wanted = f"setr_{DECODERS[layout]}", is_mmseg, channels, depth
    fitting = (
        spec
        for name, spec in VARIANTS.items()
        if (spec.decoder.name, name.endswith("_mmseg"), spec.encoder.fields["embed_dim"], spec.encoder.fields["depth"])
        == wanted
    )
    return next(fitting, None), f"{depth} blocks of {channels} channels"


def _is_mmseg(layout: Layout, shapes: Shapes) -> bool:
    """Of our own names: MLA's classifier is 1 x 1, the auxiliary heads of Naive and PUP have two stages."""
    if layout is OURS_MLA:
        return shapes.get("decoder.classifier.weight", ())[2:] == (1, 1)
    return layout in (OURS_PUP, OURS_NAIVE) and "auxiliary.0.stages.1.conv.weight" in shapes
