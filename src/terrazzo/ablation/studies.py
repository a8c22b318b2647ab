"""The studies: one for each claim of the papers, and the networks that it compares.

A network is one of the ordinary models, or the spec of a SegFormer-B0 of which one argument differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from terrazzo.errors import ConfigError
from terrazzo.models import MODELS, ModelSpec, Part
from terrazzo.text import did_you_mean, show

__all__ = ["STUDIES", "Study", "Variant", "find_study"]


@dataclass(frozen=True)
class Variant:
    """One of the networks that a study compares.

    Attributes:
        key: names the folder of its run.
        title: names it for people.
        model: as `terrazzo.create_model` takes it: a name such as ``segformer_b0`` or ``mit_b0+fcn``, or a spec.
    """

    key: str
    title: str
    model: str | ModelSpec


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        name: what it is asked for by.
        title: heads the table and the plot.
        claim: the sentence that it puts to the test, and whose it is.
        variants: what is trained, the paper's own first.
        measures: what is measured beside scores and costs: scores by the photos' ``sizes``, ``attention`` against image
            size, ``masks`` side by side, or ``resources``: operations, time and memory against image size, and
            receptive fields.
    """

    name: str
    title: str
    claim: str
    variants: tuple[Variant, ...]
    measures: Literal["sizes", "attention", "masks", "resources"] | None = None


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in STUDIES:
        raise ConfigError(
            f"unknown study {show(name)}",
            fix=f"{did_you_mean(name, STUDIES)}choose one of {', '.join(STUDIES)}",
            code="ablation-study",
        )
    return STUDIES[name]


# -- the networks -----------------------------------------------------------------------------------------------------

B0 = MODELS["segformer_b0"]
SEGFORMER = Variant("segformer_b0", "SegFormer-B0", "segformer_b0")
SETR = {
    name: Variant(f"setr_{name}_tiny", f"SETR-{title}, DeiT-Tiny", f"setr_{name}_tiny")
    for name, title in (("naive", "Naive"), ("pup", "PUP"), ("mla", "MLA"))
}
# PVT v2-B0 as published (arXiv 2106.13797, table 1); it has the widths and depths of SegFormer-B0.
PVT_V2_B0 = {
    "model_type": "pvt_v2",
    "hidden_sizes": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "num_attention_heads": [1, 2, 5, 8],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [8, 8, 4, 4],
}
# ResNet-18 (arXiv 1512.03385, table 1) with the widths of SegFormer-B0, so that all networks are of one size.
NARROW_RESNET_18 = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}


def _paper(title: str) -> Variant:
    """SegFormer-B0 as it is, under the title that says in what it differs from its rivals; they share its run."""
    return replace(SEGFORMER, title=title)


def _changed(key: str, title: str, spec: ModelSpec) -> Variant:
    """A SegFormer-B0 that differs from the paper's, under a name that no model has."""
    return Variant(key, title, replace(spec, name=f"{B0.name} ({title})"))


def _on_backbone(key: str, title: str, decoder: str, config: Mapping[str, Any]) -> Variant:
    """A decoder on a backbone of transformers."""
    return Variant(key, title, ModelSpec(Part("backbone", {"config": config}), Part(decoder), name=decoder))


# -- the comparisons --------------------------------------------------------------------------------------------------

STUDIES = {
    study.name: study
    for study in (
        Study(
            "position",
            "Position: Mix-FFN or learned embeddings",
            "No positional encoding is needed: a depthwise 3 x 3 convolution tells tokens where they are, so testing "
            "at another size than the training windows' costs little (SegFormer, section 3.1).",
            (
                _paper("Mix-FFN (the paper's)"),
                _changed(
                    "learned_positions",
                    "learned positions, plain FFN",
                    B0.with_encoder(ffn_convolution=False, positions=True),
                ),
                _changed("no_positions", "plain FFN, no positions", B0.with_encoder(ffn_convolution=False)),
            ),
            "sizes",
        ),
        Study(
            "patches",
            "Patches: overlapping, plain, and larger",
            "Overlapping patches keep the local continuity that patches side by side lose, and small patches of 4 x 4 "
            "pixels suit dense prediction better than ViT's 16 x 16 (SegFormer, section 3.1).",
            (
                _paper("4 x 4, overlapping (the paper's)"),
                _changed("plain_patches", "4 x 4, side by side", B0.with_encoder(patch_sizes=(4, 2, 2, 2))),
                # The coarsest maps stay at 1/32, and so do keys and values: only the pyramid's fine end is missing.
                _changed(
                    "patches_of_16",
                    "16 x 16, overlapping",
                    B0.with_encoder(patch_sizes=(31, 3, 3, 3), patch_strides=(16, 2, 1, 1), sr_ratios=(2, 1, 1, 1)),
                ),
            ),
            "masks",
        ),
        Study(
            "reduction",
            "Sequence reduction: the ratio R of each stage",
            "Self-attention over a sequence reduced R-fold costs N^2 / R in place of N^2, with R = 64, 16, 4, 1 from "
            "stage to stage, sides of windows 8, 4, 2, 1 (SegFormer, section 3.1).",
            (
                _paper("8, 4, 2, 1 (the paper's)"),
                _changed("reduction_4211", "4, 2, 1, 1", B0.with_encoder(sr_ratios=(4, 2, 1, 1))),
                _changed("reduction_1111", "1, 1, 1, 1 (none)", B0.with_encoder(sr_ratios=(1, 1, 1, 1))),
            ),
            "attention",
        ),
        Study(
            "width",
            "Decoder width C",
            "A decoder of C = 256 channels already does well, and wider ones cost more than they bring (SegFormer, "
            "section 4.2, table 1b).",
            (
                _paper("C = 256 (the paper's)"),
                _changed("width_64", "C = 64", B0.with_decoder(embed_dim=64)),
                _changed("width_768", "C = 768", B0.with_decoder(embed_dim=768)),
            ),
        ),
        Study(
            "stages",
            "Encoder stages fed to the decoder",
            "The all-MLP decoder is enough because the encoder's stages see both what is near (1 to 3) and everything "
            "(4); it needs them together (SegFormer, section 3.2).",
            (
                _paper("1, 2, 3, 4 (the paper's)"),
                _changed("stages_34", "3, 4", B0.with_encoder(emitted=(3, 4))),
                _changed("stages_4", "4", B0.with_encoder(emitted=(4,))),
                _changed("stages_123", "1, 2, 3 (no stage 4)", B0.with_encoder(emitted=(1, 2, 3))),
            ),
        ),
        Study(
            "decoders",
            "SETR's decoders",
            "An encoder that only transforms a sequence needs a decoder that restores the resolution: Naive, "
            "progressive upsampling (PUP) or multi-level aggregation (MLA) (SETR, section 3.3).",
            tuple(SETR.values()),
        ),
        Study(
            "models",
            "SegFormer, SETR, PVT v2 and FCN",
            "A plain transformer has one coarse scale and costs too much on large images; PVT has the pyramid and "
            "neglects the decoder; an FCN's field grows only with its depth (SegFormer, sections 1 and 3; SETR, "
            "section 1).",
            (
                SEGFORMER,
                _on_backbone("pvt_v2_b0", "PVT v2-B0, all-MLP", "all_mlp", PVT_V2_B0),
                SETR["mla"],
                _on_backbone("fcn_resnet", "FCN, narrow ResNet-18", "fcn", NARROW_RESNET_18),
                _on_backbone("fcn_dilated_resnet", "dilated FCN, narrow ResNet-18", "fcn_dilated", NARROW_RESNET_18),
            ),
            "resources",
        ),
    )
}
