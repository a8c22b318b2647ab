"""The weights that have names: what ships in the package, and what the two papers' authors have published.

Scores are the papers' own, single-scale and multi-scale with mirroring, in per cent; none was measured here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.config import read_json

__all__ = [
    "BUNDLED_FOLDER",
    "DEFAULT_MODEL",
    "PUBLISHED",
    "PublishedWeights",
    "bundled_folder",
    "bundled_names",
    "bundled_record",
    "example_image",
    "is_cached",
    "known_licence",
    "published",
]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
DEFAULT_MODEL = "segformer_b0.camvid"

NVIDIA = "NVIDIA Source Code License for SegFormer: non-commercial use only"
SETR_MIT = "MIT"
HUB = "Hugging Face hub"
SETR_README = "README of github.com/fudan-zvg/SETR"

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
        link: the page to fetch them from; None for what is gone.
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
    link: str | None


def bundled_names() -> list[str]:
    """Return the names of the models that ship in the package."""
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob("*/config.json"))


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a model that ships in the package, or None."""
    return BUNDLED_FOLDER / name if name in bundled_names() else None


def bundled_record(name: str) -> dict[str, Any]:
    """Return a shipped model's ``config.json`` without opening its weights."""
    config: dict[str, Any] = read_json(BUNDLED_FOLDER / name / "config.json")
    return config


def example_image(name: str) -> Path | None:
    """Return the example photo of a model that ships in the package, or None; its terms are in the file beside it."""
    path = BUNDLED_FOLDER / name / "example.jpg"
    return path if name in bundled_names() and path.is_file() else None


def published(name: str) -> PublishedWeights | None:
    """Return what is known of a hub id, whatever its revision, or None."""
    return next((weights for weights in PUBLISHED if weights.name == name.partition("@")[0]), None)


def known_licence(name: str) -> str | None:
    """Return the licence of a hub id's weights, whatever its model card says; None where it is not known here."""
    if known := published(name):
        return known.licence
    return NVIDIA if re.fullmatch(r"nvidia/(mit-b\d|segformer-b\d[\w.-]*)", name.partition("@")[0]) else None


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
        PublishedWeights(
            name, f"segformer_{size}", labels, parameters, protocol, single, multi, NVIDIA, HUB,
            f"https://huggingface.co/{name}",
        )
        for name, size, labels, parameters, protocol, single, multi in rows
    ]  # fmt: skip


def _setr() -> list[PublishedWeights]:
    """The table in the README of SETR's authors (commit 1361561 of 2024). Some scores differ from the paper's.

    Eleven of its 26 links are empty.
    """
    parameters = {  # 19 classes at 768 x 768
        "naive_large": 305_728_019,
        "mla_large": 310_737_427,
        "pup_large": 309_596_947,
        "naive_base": 87_619_859,
        "naive_deit_base": 87_619_859,
        "mla_deit_base": 92_431_123,
        "pup_deit_base": 90_964_499,
    }
    runs = {
        "cityscapes": ("Cityscapes", SLIDE.format(768, 512)),
        "ade20k": ("ADE20K, 160k", SLIDE.format(512, 341)),
        "pascal_context": ("Pascal Context, 80k", SLIDE.format(480, 320)),
    }
    # Network, data set, what tells runs apart, mIoU, multi-scale, file at Google Drive.
    rows: list[tuple[str, str, str, float, float | None, str | None]] = [
        ("naive_large", "cityscapes", "40k", 77.37, None, "1f3b7I7IwKx-hcr16afjcxkAyXyeNQCAz"),
        ("naive_large", "cityscapes", "80k", 77.90, None, "1dplB4wceJhyVRQfZR5AWODywMN90CY0h"),
        ("mla_large", "cityscapes", "40k", 76.65, None, "18k26X-xM7BEQZUjzkvroeGV-6XwPgBqN"),
        ("mla_large", "cityscapes", "80k", 77.24, None, "1ke6wcsCwP_J-p8sYriCZ3pC8G61bE0v_"),
        ("pup_large", "cityscapes", "40k", 78.39, None, "1DcZltdh6eHwmQ5BvCdHudJRgJUjPzS56"),
        ("pup_large", "cityscapes", "80k", 79.34, None, "1469aYtEAuhT39BrHn0yOv1s71unF85JE"),
        ("naive_base", "cityscapes", "40k", 75.54, None, "1kGzdSLCazsbgZe0Y1Lo6sNwv9s5V3CAp"),
        ("naive_base", "cityscapes", "80k", 76.25, None, "1vOD1-PGNfuM9IUvwnm2CrAXsPkadoyW8"),
        ("naive_deit_base", "cityscapes", "40k", 77.85, None, None),
        ("naive_deit_base", "cityscapes", "80k", 78.66, None, None),
        ("mla_deit_base", "cityscapes", "40k", 78.04, None, None),
        ("mla_deit_base", "cityscapes", "80k", 78.98, None, None),
        ("pup_deit_base", "cityscapes", "40k", 78.79, None, None),
        ("pup_deit_base", "cityscapes", "80k", 79.45, None, None),
        ("naive_large", "ade20k", "", 48.06, 48.80, "17ZlPBcJRKO3c3XoAeNutrExIETu23qKY"),
        ("mla_large", "ade20k", "batch 8", 47.79, 50.03, "1Zcaut5LAKYibjyeCcD3m-aG-ETWW6uhA"),
        ("mla_large", "ade20k", "batch 16", 48.64, 50.28, None),
        ("mla_deit_base", "ade20k", "", 46.15, 47.71, None),
        ("pup_large", "ade20k", "", 48.62, 50.09, "1hCeiz60ITgVPkWsrKwah8JnwM3G8VVL4"),
        ("pup_deit_base", "ade20k", "", 46.34, 47.30, None),
        ("naive_large", "pascal_context", "", 52.89, 53.61, "140T7-wQ3UOzHA0-6pjO3lik_5Vi5RvqJ"),
        ("mla_large", "pascal_context", "batch 8", 54.39, 55.39, "1XvhUVIMcdcEYUYKudUcV99vOwhisYh61"),
        ("mla_large", "pascal_context", "batch 16", 55.01, 55.83, "1k5CwpKfpNUdAFWOuzwWz9PrRwiGS0Xu9"),
        ("mla_deit_base", "pascal_context", "", 52.91, 53.74, None),
        ("pup_large", "pascal_context", "", 54.37, 55.27, "1kXZYyqjA96d2DTL-tRvQjixfDBIZFIyR"),
        ("pup_deit_base", "pascal_context", "", 52.00, 52.50, None),
    ]
    weights = []
    for network, labels, run, single, multi, file in rows:
        data, protocol = runs[labels]
        name = f"SETR {network}: {data}{', ' if run else ''}{run}"
        link = None if file is None else f"https://drive.google.com/file/d/{file}"
        weights.append(
            PublishedWeights(
                name,
                f"setr_{network}",
                labels,
                parameters[network],
                protocol,
                single,
                multi,
                SETR_MIT,
                SETR_README,
                link,
            )
        )
    return weights


PUBLISHED = (*_segformer(), *_setr())
