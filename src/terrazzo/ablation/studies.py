"""The studies: one for each claim of the papers, and the networks that it compares.

A network is one of the ordinary models, or a SegFormer-B0 of which one thing is changed. What can be changed are
arguments of the encoder's and the decoder's classes (models/encoders/mit.py, models/decoders/all_mlp.py), and
`changed_segformer` is where they meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from terrazzo.errors import ConfigError
from terrazzo.models import MODELS, ModelSpec, Segmenter, create_model
from terrazzo.text import nearest

__all__ = ["STUDIES", "Study", "Variant", "build", "changed_segformer", "find_study"]

BASE = "segformer_b0"


@dataclass(frozen=True)
class Variant:
    """One of the networks that a study compares.

    Attributes:
        key: names its folder.
        title: names it for people.
        model: a model that `create_model` knows.
        encoder: the configuration of a backbone of transformers, for a `model` that is a decoder alone.
        changes: arguments of `changed_segformer`; `model` is then only what it is compared with.
    """

    key: str
    title: str
    model: str = BASE
    encoder: Mapping[str, Any] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What recipes and model folders call it; no model is called so where something is changed."""
        return f"{self.model} ({self.title})" if self.changes else self.model

    @property
    def spec(self) -> ModelSpec | None:
        """What it is, where something is changed; None where its model and its encoder say it."""
        return replace(changed_segformer(**self.changes), name=self.name) if self.changes else None


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        name: what it is asked for by.
        title: heads the table and the plot.
        claim: the sentence that it puts to the test, and whose it is.
        variants: what is trained, the paper's own first.
    """

    name: str
    title: str
    claim: str
    variants: tuple[Variant, ...]


def changed_segformer(
    *,
    patch_sizes: Sequence[int] = (7, 3, 3, 3),
    patch_strides: Sequence[int] = (4, 2, 2, 2),
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    ffn_convolution: bool = True,
    positions: bool = False,
    stages: Sequence[int] = (1, 2, 3, 4),
    decoder_dim: int | None = None,
) -> ModelSpec:
    """Return the spec of a SegFormer-B0, the paper's but for what is given.

    Args:
        patch_sizes: kernel of each patch embedding; one that equals its stride makes plain patches.
        patch_strides: stride of each patch embedding.
        sr_ratios: reduction ratio R of each stage.
        ffn_convolution: the depthwise convolution of Mix-FFN.
        positions: a learned embedding of each position in every stage.
        stages: the stages fed to the decoder; those beyond the last of them are left out.
        decoder_dim: decoder width C.
    """
    spec = MODELS[BASE].with_encoder(
        sr_ratios=sr_ratios,
        patch_sizes=patch_sizes,
        patch_strides=patch_strides,
        drop_path_rate=0.0,
        ffn_convolution=ffn_convolution,
        positions=positions,
        emitted=stages,
    )
    if decoder_dim is not None:
        spec = spec.with_decoder(embed_dim=decoder_dim)
    return spec


def build(variant: Variant, num_classes: int, crop: tuple[int, int]) -> Segmenter:
    """Return a variant's network with random weights.

    Raises:
        MissingExtraError: it needs transformers, which is not installed.
    """
    return create_model(variant.spec or variant.model, num_classes, 0.0, crop, variant.encoder)


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in STUDIES:
        near = nearest(name, STUDIES)
        hint = f"did you mean {near}? " if near else ""
        raise ConfigError(
            f"unknown study {name!r}", fix=f"{hint}choose one of {', '.join(STUDIES)}", code="ablation-study"
        )
    return STUDIES[name]


# -- the comparisons --------------------------------------------------------------------------------------------------

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

SEGFORMER = Variant("segformer_b0", "SegFormer-B0")
SETR = {
    name: Variant(f"setr_{name}_tiny", f"SETR-{title}, DeiT-Tiny", f"setr_{name}_tiny")
    for name, title in (("naive", "Naive"), ("pup", "PUP"), ("mla", "MLA"))
}


def _paper(title: str) -> Variant:
    """SegFormer-B0 as it is, under the title that says in what it differs from its rivals; they share its run."""
    return Variant(SEGFORMER.key, title)


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
                Variant(
                    "learned_positions",
                    "learned positions, plain FFN",
                    changes={"ffn_convolution": False, "positions": True},
                ),
                Variant("no_positions", "plain FFN, no positions", changes={"ffn_convolution": False}),
            ),
        ),
        Study(
            "patches",
            "Patches: overlapping, plain, and larger",
            "Overlapping patches keep the local continuity that patches side by side lose, and small patches of 4 x 4 "
            "pixels suit dense prediction better than ViT's 16 x 16 (SegFormer, section 3.1).",
            (
                _paper("4 x 4, overlapping (the paper's)"),
                Variant("plain_patches", "4 x 4, side by side", changes={"patch_sizes": (4, 2, 2, 2)}),
                # The coarsest maps stay at 1/32, and so do keys and values: only the pyramid's fine end is missing.
                Variant(
                    "patches_of_16",
                    "16 x 16, overlapping",
                    changes={
                        "patch_sizes": (31, 3, 3, 3),
                        "patch_strides": (16, 2, 1, 1),
                        "sr_ratios": (2, 1, 1, 1),
                    },
                ),
            ),
        ),
        Study(
            "reduction",
            "Sequence reduction: the ratio R of each stage",
            "Self-attention over a sequence reduced R-fold costs N^2 / R in place of N^2, with R = 64, 16, 4, 1 from "
            "stage to stage, sides of windows 8, 4, 2, 1 (SegFormer, section 3.1).",
            (
                _paper("8, 4, 2, 1 (the paper's)"),
                Variant("reduction_4211", "4, 2, 1, 1", changes={"sr_ratios": (4, 2, 1, 1)}),
                Variant("reduction_1111", "1, 1, 1, 1 (none)", changes={"sr_ratios": (1, 1, 1, 1)}),
            ),
        ),
        Study(
            "width",
            "Decoder width C",
            "A decoder of C = 256 channels already does well, and wider ones cost more than they bring (SegFormer, "
            "section 4.2, table 1b).",
            (
                _paper("C = 256 (the paper's)"),
                Variant("width_64", "C = 64", changes={"decoder_dim": 64}),
                Variant("width_768", "C = 768", changes={"decoder_dim": 768}),
            ),
        ),
        Study(
            "stages",
            "Encoder stages fed to the decoder",
            "The all-MLP decoder is enough because the encoder's stages see both what is near (1 to 3) and everything "
            "(4); it needs them together (SegFormer, section 3.2).",
            (
                _paper("1, 2, 3, 4 (the paper's)"),
                Variant("stages_34", "3, 4", changes={"stages": (3, 4)}),
                Variant("stages_4", "4", changes={"stages": (4,)}),
                Variant("stages_123", "1, 2, 3 (no stage 4)", changes={"stages": (1, 2, 3)}),
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
                Variant("pvt_v2_b0", "PVT v2-B0, all-MLP", "all_mlp", PVT_V2_B0),
                SETR["mla"],
                Variant("fcn_resnet", "FCN, narrow ResNet-18", "fcn", NARROW_RESNET_18),
                Variant("fcn_dilated_resnet", "dilated FCN, narrow ResNet-18", "fcn_dilated", NARROW_RESNET_18),
            ),
        ),
    )
}
