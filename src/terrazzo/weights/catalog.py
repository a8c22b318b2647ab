"""The weights that have names: what ships in the package, and what the two papers' authors have published.

Scores are the papers' own, single-scale and multi-scale with mirroring, in per cent; none was measured here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BUNDLED_FOLDER",
    "DEFAULT_MODEL",
    "PUBLISHED",
    "PublishedWeights",
    "bundled_folder",
    "bundled_names",
    "bundled_record",
    "is_cached",
    "published",
]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
DEFAULT_MODEL = "segformer_b0.camvid"

NVIDIA = "NVIDIA Source Code License for SegFormer: non-commercial use only"
SETR_MIT = "MIT"
HUB = "Hugging Face hub"
SETR_README = "links in the README of github.com/fudan-zvg/SETR"

WHOLE = "whole photo, short side {}, both sides rounded up to multiples of 32"
SLIDE = "windows of {0} x {0}, stride {1}"


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that the authors of a paper have published.

    Attributes:
        name: hub id, or what their table calls it.
        architecture: our name for the network.
        labels: class list that it was trained on.
        parameters: of the network, without heads that exist only for training.
        protocol: how it was measured, in words.
        mIoU: on the validation split, single-scale.
        mIoU_multi: with several scales and mirroring; None where the paper has none.
        licence: of the weights.
        where: who has them.
    """

    name: str
    architecture: str
    labels: str
    parameters: int
    protocol: str
    mIoU: float
    mIoU_multi: float | None
    licence: str
    where: str


def bundled_names() -> list[str]:
    """Return the names of the models that ship in the package."""
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob("*/config.json"))


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a model that ships in the package, or None."""
    return BUNDLED_FOLDER / name if name in bundled_names() else None


def bundled_record(name: str) -> dict[str, Any]:
    """Return a shipped model's ``config.json`` without opening its weights."""
    config: dict[str, Any] = json.loads((BUNDLED_FOLDER / name / "config.json").read_text(encoding="utf-8"))
    return config


def published(name: str) -> PublishedWeights | None:
    """Return what is known of a hub id, whatever its revision, or None."""
    return next((weights for weights in PUBLISHED if weights.name == name.partition("@")[0]), None)


def is_cached(name: str) -> bool:
    """Whether a hub id's files are in the cache of huggingface_hub already."""
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(name, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    )


def _segformer() -> list[PublishedWeights]:
    """SegFormer's tables 1 and 2, for what is on the hub."""
    ade = {  # parameters at 150 classes, mIoU, multi-scale
        "b0": (3_752_694, 37.4, 38.0),
        "b1": (13_715_798, 42.2, 43.1),
        "b2": (27_461_974, 46.5, 47.5),
        "b3": (47_337_814, 49.4, 50.0),
        "b4": (64_108_374, 50.3, 51.1),
        "b5": (84_708_694, 51.0, 51.8),
    }
    cityscapes = {  # parameters at 19 classes, mIoU, multi-scale
        "b0": (3_719_027, 76.2, 78.1),
        "b1": (13_682_131, 78.5, 80.0),
        "b2": (27_361_235, 81.0, 82.2),
        "b3": (47_237_075, 81.7, 83.3),
        "b4": (64_007_635, 82.3, 83.9),
        "b5": (84_607_955, 82.4, 84.0),
    }
    smaller = {"768-768": 75.3, "640-1280": 73.7, "512-1024": 71.9}  # B0 by the photo's short side
    rows: list[tuple[str, str, str, int, str, float, float | None]] = []
    for size, (parameters, single, multi) in ade.items():
        side = 640 if size == "b5" else 512
        name = f"nvidia/segformer-{size}-finetuned-ade-{side}-{side}"
        rows.append((name, size, "ade20k", parameters, WHOLE.format(side), single, multi))
    for size, (parameters, single, multi) in cityscapes.items():
        name = f"nvidia/segformer-{size}-finetuned-cityscapes-1024-1024"
        rows.append((name, size, "cityscapes", parameters, SLIDE.format(1024, 768), single, multi))
    for tag, single in smaller.items():
        name, protocol = (
            f"nvidia/segformer-b0-finetuned-cityscapes-{tag}",
            f"short side {min(map(int, tag.split('-')))}",
        )
        rows.append((name, "b0", "cityscapes", cityscapes["b0"][0], protocol, single, None))
    return [
        PublishedWeights(name, f"segformer_{size}", labels, parameters, protocol, single, multi, NVIDIA, HUB)
        for name, size, labels, parameters, protocol, single, multi in rows
    ]


def _setr() -> list[PublishedWeights]:
    """The table in the README of SETR's authors."""
    cityscapes = {  # 40 000 and 80 000 iterations
        "naive_large": (77.37, 77.90),
        "mla_large": (76.65, 77.24),
        "pup_large": (78.39, 79.34),
        "naive_deit_base": (77.85, 78.66),
        "mla_deit_base": (78.04, 78.98),
        "pup_deit_base": (78.79, 79.45),
    }
    ade = {
        "naive_large": (48.06, 48.80),
        "pup_large": (48.62, 50.09),
        "mla_large": (48.64, 50.28),
        "pup_deit_base": (46.34, 47.30),
        "mla_deit_base": (46.15, 47.71),
    }
    context = {
        "naive_large": (52.89, 53.61),
        "pup_large": (54.37, 55.27),
        "mla_large": (55.01, 55.83),
        "pup_deit_base": (52.00, 52.50),
        "mla_deit_base": (52.91, 53.74),
    }
    parameters = {  # 19 classes at 768 x 768
        "naive_large": 305_728_019,
        "mla_large": 310_737_427,
        "pup_large": 309_596_947,
        "naive_deit_base": 87_619_859,
        "mla_deit_base": 92_431_123,
        "pup_deit_base": 90_964_499,
    }
    rows: list[tuple[str, str, str, str, float, float | None]] = []
    for name, scores in cityscapes.items():
        for iterations, score in zip(("40k", "80k"), scores, strict=True):
            rows.append((name, f"Cityscapes, {iterations}", "cityscapes", SLIDE.format(768, 512), score, None))
    for data, labels, protocol, table in (
        ("ADE20K, 160k", "ade20k", SLIDE.format(512, 341), ade),
        ("Pascal Context, 80k", "pascal_context", SLIDE.format(480, 320), context),
    ):
        rows += [(name, data, labels, protocol, single, multi) for name, (single, multi) in table.items()]
    return [
        PublishedWeights(
            f"SETR {name}: {data}",
            f"setr_{name}",
            labels,
            parameters[name],
            protocol,
            single,
            multi,
            SETR_MIT,
            SETR_README,
        )
        for name, data, labels, protocol, single, multi in rows
    ]


PUBLISHED = (*_segformer(), *_setr())
