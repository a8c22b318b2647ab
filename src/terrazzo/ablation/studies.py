"""The studies: for each claim of the papers a list of networks, which are trained by one recipe.

A network is a model by name, or the spec of a SegFormer-B0 in which one thing differs. All have 2 to 10 million
parameters, so that their scores can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from terrazzo.errors import ConfigError
from terrazzo.fields import refuse_unknown
from terrazzo.models import DECODERS, MODELS, ModelSpec, Part, find_spec
from terrazzo.models.maps import Maps

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
        refuse_unknown(keys, known, f"the study {self.name}", what="network", code="ablation-network")
        if not keys:
            raise ConfigError("no network is chosen", fix=f"choose some of {', '.join(known)}", code="ablation-network")
        return replace(self, variants=tuple(variant for variant in self.variants if variant.key in keys))


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        ConfigError: the name is unknown.
    """
    refuse_unknown([name], STUDIES, "the command", what="study", code="ablation-study")
    return STUDIES[name]


# -- the networks -----------------------------------------------------------------------------------------------------

B0 = MODELS["segformer_b0"]
WIDTHS = [32, 64, 160, 256]  # of SegFormer-B0's stages
RESNET_18 = {  # arXiv 1512.03385, table 1, but for the widths
    "model_type": "resnet", "embedding_size": 32, "hidden_sizes": WIDTHS, "depths": [2, 2, 2, 2], "layer_type": "basic",
}  # fmt: skip
PVT_V2_B0 = {  # as published: arXiv 2106.13797, table 1
    "model_type": "pvt_v2", "hidden_sizes": WIDTHS, "depths": [2, 2, 2, 2], "num_attention_heads": [1, 2, 5, 8],
    "sr_ratios": [8, 4, 2, 1], "mlp_ratios": [8, 8, 4, 4],
}  # fmt: skip
ENCODERS = {
    "resnet": Part("backbone", {"config": RESNET_18}),
    "pvt_v2_b0": Part("backbone", {"config": PVT_V2_B0}),
    "pvt": Part("pvt", {"depths": (2, 2, 2, 2), "embed_dims": tuple(WIDTHS)}),
    "hybrid": Part("hybrid", {"config": RESNET_18, "embed_dim": 192, "depth": 12, "num_heads": 3}),
}


def _b0(title: str, **others: tuple[str, dict[str, Any]]) -> tuple[Variant, ...]:
    """SegFormer-B0, under a title that says in what its rivals differ, and the rivals: B0 with other fields.

    The rivals have names that no model has. All studies share the run of B0 itself.
    """
    variants = [Variant("segformer_b0", title, B0.title)]
    for key, (name, fields) in others.items():
        spec = B0.with_encoder(**fields) if fields.keys() <= B0.encoder.fields.keys() else B0.with_decoder(**fields)
        variants.append(Variant(key, name, replace(spec, name=f"{B0.name} ({name})")))
    return tuple(variants)


def _setr(decoder: str) -> Variant:
    title = {"naive": "Naive"}.get(decoder, decoder.upper())
    return Variant(f"setr_{decoder}_tiny", f"SETR-{title}, DeiT-Tiny", f"setr_{decoder}_tiny")


def _pair(key: str, title: str, encoder: str, decoder: str) -> Variant:
    return Variant(key, title, ModelSpec(ENCODERS[encoder], Part(decoder), name=decoder))


def _on_mit(decoder: str) -> Variant:
    spec = find_spec(f"mit_b0+{decoder}")
    if decoder == "upernet":  # at its usual width it would have eight times the parameters of the encoder
        spec = replace(spec.with_decoder(embed_dim=128), name=f"{spec.title} (narrow)")
    return Variant(f"mit_b0_{decoder}", f"{decoder}, MiT-B0", spec)


def _with(*maps: Maps, but: str) -> list[str]:
    return [name for name, row in DECODERS.items() if row.maps in maps and name != but]


# -- the comparisons --------------------------------------------------------------------------------------------------

_ALL = (
    Study(
        "position",
        "Position: Mix-FFN or learned embeddings",
        "No positional encoding is needed: a depthwise 3 x 3 convolution tells tokens where they are, so testing "
        "at another size than the training windows' costs little (SegFormer, section 3.1).",
        _b0(
            "Mix-FFN (the paper's)",
            learned_positions=("learned positions, plain FFN", {"ffn_convolution": False, "positions": True}),
            no_positions=("plain FFN, no positions", {"ffn_convolution": False}),
        ),
        "sizes",
    ),
    Study(
        "patches",
        "Patches: overlapping, plain, and larger",
        "Overlapping patches keep the local continuity that patches side by side lose, and small patches of 4 x 4 "
        "pixels suit dense prediction better than ViT's 16 x 16 (SegFormer, section 3.1).",
        _b0(
            "4 x 4, overlapping (the paper's)",
            plain_patches=("4 x 4, side by side", {"patch_sizes": (4, 2, 2, 2)}),
            patches_of_16=(  # the coarsest maps, keys and values stay at 1/32: only the pyramid's fine end is missing
                "16 x 16, overlapping",
                {"patch_sizes": (31, 3, 3, 3), "patch_strides": (16, 2, 1, 1), "sr_ratios": (2, 1, 1, 1)},
            ),
        ),
        "masks",
    ),
    Study(
        "reduction",
        "Sequence reduction: the ratio R of each stage",
        "Self-attention over a sequence reduced R-fold costs N^2 / R in place of N^2, with R = 64, 16, 4, 1 from "
        "stage to stage, sides of windows 8, 4, 2, 1 (SegFormer, section 3.1).",
        _b0(
            "8, 4, 2, 1 (the paper's)",
            reduction_4211=("4, 2, 1, 1", {"sr_ratios": (4, 2, 1, 1)}),
            reduction_1111=("1, 1, 1, 1 (none)", {"sr_ratios": (1, 1, 1, 1)}),
        ),
        "attention",
    ),
    Study(
        "width",
        "Decoder width C",
        "A decoder of C = 256 channels already does well, and wider ones cost more than they bring (SegFormer, "
        "section 4.2, table 1b).",
        _b0(
            "C = 256 (the paper's)",
            width_64=("C = 64", {"embed_dim": 64}),
            width_768=("C = 768", {"embed_dim": 768}),
        ),
    ),
    Study(
        "stages",
        "Encoder stages fed to the decoder",
        "The all-MLP decoder is enough because the encoder's stages see both what is near (1 to 3) and everything "
        "(4); it needs them together (SegFormer, section 3.2).",
        _b0(
            "1, 2, 3, 4 (the paper's)",
            stages_34=("3, 4", {"emitted": (3, 4)}),
            stages_4=("4", {"emitted": (4,)}),
            stages_123=("1, 2, 3 (no stage 4)", {"emitted": (1, 2, 3)}),
        ),
    ),
    Study(
        "decoders",
        "SETR's decoders",
        "An encoder that only transforms a sequence needs a decoder that restores the resolution: Naive, "
        "progressive upsampling (PUP) or multi-level aggregation (MLA) (SETR, section 3.3).",
        tuple(map(_setr, ("naive", "pup", "mla"))),
    ),
    Study(
        "models",
        "SegFormer, SETR, PVT, FCN and all other decoders",
        "A plain transformer has one coarse scale and costs too much on large images; PVT has the pyramid and "
        "neglects the decoder; an FCN's field grows only with its depth (SegFormer, sections 1 and 3; SETR, "
        "section 1).",
        (
            *_b0("SegFormer-B0"),
            _pair("pvt_v2_b0", "PVT v2-B0, all-MLP", "pvt_v2_b0", "all_mlp"),
            _setr("mla"),
            _pair("fcn_resnet", "FCN, narrow ResNet-18", "resnet", "fcn"),
            _pair("fcn_dilated_resnet", "dilated FCN, narrow ResNet-18", "resnet", "fcn_dilated"),
            _pair("pvt_fpn", "FPN, narrow PVT-Tiny", "pvt", "fpn"),
            _pair("hybrid_naive", "SETR-Naive, narrow hybrid", "hybrid", "setr_naive"),
            # Every other decoder; SETR-MLA's takes maps of one size, which neither encoder makes.
            *map(_on_mit, _with("last", "levels", but="all_mlp")),
            *(
                _pair(f"{name}_resnet", f"{name}, narrow ResNet-18", "resnet", name)
                for name in _with("dilated", but="fcn_dilated")
            ),
        ),
        "resources",
    ),
)
STUDIES = MappingProxyType({study.name: study for study in _ALL})
