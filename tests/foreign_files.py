"""Checkpoints in other programs' forms, made from a model of ours by the key maps read backwards."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from terrazzo.models import ModelSpec, Segmenter, find_spec
from terrazzo.models import segformer as segformer_models
from terrazzo.models import setr as setr_models
from terrazzo.weights.create import create_model
from terrazzo.weights.recognize import empty_network
from terrazzo.weights.remap import segformer
from terrazzo.weights.remap.layout import Layout
from terrazzo.weights.remap.vit import PATCH

KEY_LISTS = (
    Path(os.environ.get("TERRAZZO_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference") / "checkpoint_keys"
)
SEGFORMER = {layout.name: layout for layout in segformer.LAYOUTS}
NANO_MIT = {"embed_dims": (8, 16, 40, 64), "depths": (1, 1, 1, 1)}
NANO: dict[str, ModelSpec] = {
    "segformer_nano": segformer_models.segformer_spec("segformer_nano", NANO_MIT, 32),
    "segformer_nano_mmseg": segformer_models.segformer_spec("segformer_nano_mmseg", NANO_MIT, 32, mmseg=True),
    **{
        f"setr_{decoder}_nano": replace(
            setr_models.VARIANTS[f"setr_{decoder}_tiny"].with_encoder(embed_dim=48, num_heads=3),
            name=f"setr_{decoder}_nano",
        )
        for decoder in ("naive", "pup")
    },
}
"""Networks that are quick to write and to read."""
NAMES = ["street", "pavement", "wall", "tree", "sky"]


@cache
def random_model(architecture: str = "segformer_b0", num_classes: int = len(NAMES)) -> Segmenter:
    """A model whose norms, biases and running statistics are random too."""
    generator = torch.Generator().manual_seed(0)
    model = create_model(NANO.get(architecture, architecture), num_classes).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(std=0.2, generator=generator).add_(1.0 if "norm" in key and key.endswith("weight") else 0.0)
    return model


def meta_network(architecture: str, num_classes: int, grid: tuple[int, int] | None = None) -> Segmenter:
    """A network without memory, for its shapes; `grid` is that of its position embeddings."""
    image_size = None if grid is None else (PATCH * grid[0], PATCH * grid[1])
    return empty_network(find_spec(architecture).adapted(num_classes, image_size=image_size))


def state_in(layout: Layout, model: Segmenter | None = None) -> dict[str, Tensor]:
    """The model's tensors, or its encoder's, as another program names them; copies."""
    state = (model or random_model()).state_dict()
    return {key: value.clone() for key, value in layout.to_theirs(state).items()}


def save_checkpoint(path: Path, state: dict[str, Any], **meta: Any) -> Path:
    """Write what mmsegmentation and NVlabs write."""
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


def key_list(name: str) -> dict[str, tuple[int, ...]]:
    """Read a list of keys and shapes that was made by running the other program."""
    path = KEY_LISTS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no key lists at {KEY_LISTS}; set TERRAZZO_REFERENCE to the folder above them")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}
