"""The studies: for each claim of the papers a list of networks, which are trained by one recipe.

A network is a model by name, or the spec of a SegFormer-B0 in which one thing differs. All have 2 to 10 million
parameters, so that their scores can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from terrazzo.errors import ConfigError
from terrazzo.models import DECODERS, MODELS, ModelSpec, Part, find_spec
from terrazzo.text import did_you_mean, show

__all__ = ["STUDIES", "Study", "Variant", "find_study"]


@dataclass(frozen=True)
class Variant:
    """One of the networks that a study compares.

    Attributes:
        key: the name of its run's folder.
        title: its name in tables and pictures.
        model: as `terrazzo.create_model` takes it: a name such as ``segformer_b0`` or ``mit_b0+fcn``, or a spec.
    """

    key: str
    title: str
    model: str | ModelSpec


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        name: what users ask for it by.
        title: the heading of its table and plot.
        claim: the claim that it tests, and where the paper makes it.
        variants: the networks, the paper's own first.
        measures: what is measured beside scores and costs: scores by the images' ``sizes``, ``attention`` against image
            size, ``masks`` side by side, or ``resources``: operations, time and memory against image size, and
            receptive fields.
    """

    name: str
    title: str
    claim: str
    variants: tuple[Variant, ...]
    measures: Literal["sizes", "attention", "masks", "resources"] | None = None

    def only(self, keys: Sequence[str]) -> Study:
        """Return the study with some of its networks, in its own order.

        Raises:
            ConfigError: a key is unknown, or none is given.
        """
        known = [variant.key for variant in self.variants]
        if other := [key for key in keys if key not in known]:
            raise ConfigError(
                f"the study {self.name} has no network {show(other[0])}",
                fix=f"{did_you_mean(other[0], known)}choose some of {', '.join(known)}",
                code="ablation-network",
            )
        if not keys:
            raise ConfigError("no network is chosen", fix=f"choose some of {', '.join(known)}", code="ablation-network")
        return replace(self, variants=tuple(variant for variant in self.variants if variant.key in keys))


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        ConfigError: the name is unknown.
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
B0_WIDTHS = [32, 64, 160, 256]
SEGFORMER = Variant("segformer_b0", "SegFormer-B0", "segformer_b0")
SETR = {
    name: Variant(f"setr_{name}_tiny", f"SETR-{title}, DeiT-Tiny", f"setr_{name}_tiny")
    for name, title in (("naive", "Naive"), ("pup", "PUP"), ("mla", "MLA"))
}
# PVT v2-B0 as published (arXiv 2106.13797, table 1); it has the widths and depths of SegFormer-B0.
PVT_V2_B0 = Part(
    "backbone",
    {
        "config": {
            "model_type": "pvt_v2", "hidden_sizes": B0_WIDTHS, "depths": [2, 2, 2, 2],
            "num_attention_heads": [1, 2, 5, 8], "sr_ratios": [8, 4, 2, 1], "mlp_ratios": [8, 8, 4, 4],
        },
    },
)  # fmt: skip
# ResNet-18 (arXiv 1512.03385, table 1) with the widths of SegFormer-B0.
RESNET = {
    "model_type": "resnet", "embedding_size": 32, "hidden_sizes": B0_WIDTHS, "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}  # fmt: skip
NARROW_RESNET_18 = Part("backbone", {"config": RESNET})
NARROW_PVT = Part("pvt", {"depths": (2, 2, 2, 2), "embed_dims": tuple(B0_WIDTHS)})
NARROW_HYBRID = Part("hybrid", {"config": RESNET, "embed_dim": 192, "depth": 12, "num_heads": 3})
NARROW_DECODERS = {"upernet": {"embed_dim": 128}}
"""UPerNet at its usual width would have eight times the parameters of the encoder."""


def _paper(title: str) -> Variant:
    """SegFormer-B0 itself, under a title that says in what its rivals differ; all studies share its run."""
    return replace(SEGFORMER, title=title)


def _changed(key: str, title: str, **fields: Any) -> Variant:
    """SegFormer-B0 with other fields of its encoder, or of its decoder, under a name that no model has."""
    spec = B0.with_encoder(**fields) if fields.keys() <= B0.encoder.fields.keys() else B0.with_decoder(**fields)
    return Variant(key, title, replace(spec, name=f"{B0.name} ({title})"))


def _of_parts(key: str, title: str, encoder: Part, decoder: str) -> Variant:
    return Variant(key, title, ModelSpec(encoder, Part(decoder), name=decoder))


def _on_mit(decoder: str) -> str | ModelSpec:
    name, fields = f"mit_b0+{decoder}", NARROW_DECODERS.get(decoder)
    return name if fields is None else replace(find_spec(name).with_decoder(**fields), name=f"{name} (narrow)")


def _other_decoders() -> list[Variant]:
    """Return every decoder of the table that the other networks lack: on MiT-B0, or where it needs dilation on the
    ResNet. SETR-MLA's takes maps of one size, which neither makes."""
    plain = [name for name, row in DECODERS.items() if row.maps in ("last", "levels") and name != B0.decoder.name]
    dilated = [name for name, row in DECODERS.items() if row.maps == "dilated" and name != "fcn_dilated"]
    return [
        *(Variant(f"mit_b0_{name}", f"{name}, MiT-B0", _on_mit(name)) for name in plain),
        *(_of_parts(f"{name}_resnet", f"{name}, narrow ResNet-18", NARROW_RESNET_18, name) for name in dilated),
    ]


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
                _changed("learned_positions", "learned positions, plain FFN", ffn_convolution=False, positions=True),
                _changed("no_positions", "plain FFN, no positions", ffn_convolution=False),
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
                _changed("plain_patches", "4 x 4, side by side", patch_sizes=(4, 2, 2, 2)),
                # The coarsest maps stay at 1/32, and so do keys and values: only the pyramid's fine end is missing.
                _changed(
                    "patches_of_16",
                    "16 x 16, overlapping",
                    patch_sizes=(31, 3, 3, 3),
                    patch_strides=(16, 2, 1, 1),
                    sr_ratios=(2, 1, 1, 1),
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
                _changed("reduction_4211", "4, 2, 1, 1", sr_ratios=(4, 2, 1, 1)),
                _changed("reduction_1111", "1, 1, 1, 1 (none)", sr_ratios=(1, 1, 1, 1)),
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
                _changed("width_64", "C = 64", embed_dim=64),
                _changed("width_768", "C = 768", embed_dim=768),
            ),
        ),
        Study(
            "stages",
            "Encoder stages fed to the decoder",
            "The all-MLP decoder is enough because the encoder's stages see both what is near (1 to 3) and everything "
            "(4); it needs them together (SegFormer, section 3.2).",
            (
                _paper("1, 2, 3, 4 (the paper's)"),
                _changed("stages_34", "3, 4", emitted=(3, 4)),
                _changed("stages_4", "4", emitted=(4,)),
                _changed("stages_123", "1, 2, 3 (no stage 4)", emitted=(1, 2, 3)),
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
            "SegFormer, SETR, PVT, FCN and all other decoders",
            "A plain transformer has one coarse scale and costs too much on large images; PVT has the pyramid and "
            "neglects the decoder; an FCN's field grows only with its depth (SegFormer, sections 1 and 3; SETR, "
            "section 1).",
            (
                SEGFORMER,
                _of_parts("pvt_v2_b0", "PVT v2-B0, all-MLP", PVT_V2_B0, "all_mlp"),
                SETR["mla"],
                _of_parts("fcn_resnet", "FCN, narrow ResNet-18", NARROW_RESNET_18, "fcn"),
                _of_parts("fcn_dilated_resnet", "dilated FCN, narrow ResNet-18", NARROW_RESNET_18, "fcn_dilated"),
                _of_parts("pvt_fpn", "FPN, narrow PVT-Tiny", NARROW_PVT, "fpn"),
                _of_parts("hybrid_naive", "SETR-Naive, narrow hybrid", NARROW_HYBRID, "setr_naive"),
                *_other_decoders(),
            ),
            "resources",
        ),
    )
}
