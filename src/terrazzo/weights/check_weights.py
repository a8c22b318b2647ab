"""`check_weights`: compares NVIDIA's SegFormer weights, as we load and run them, with logits that were published.

The values are facts from transformers' conversion script: a corner of the logits for one photo of COCO, squeezed to
512 x 512. Neither weights nor photo ship with Terrazzo; whoever has both can compare.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from terrazzo.arguments import checked
from terrazzo.config import read_json
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.imaging.read import read_image
from terrazzo.preprocess import Preprocess
from terrazzo.text import did_you_mean, list_names, shown_path
from terrazzo.weights.load import load

__all__ = ["WeightCheck", "check_weights", "published_logits"]

SIDE = 512
HUB = re.compile(r"segformer-(b\d)-finetuned-(ade|cityscapes)-(\d+)-(\d+)")


@dataclass(frozen=True)
class WeightCheck:
    """How far our logits are from the published ones.

    Attributes:
        weights: the name under which the logits were published.
        difference: the largest difference of any value.
        tolerance: what the published check allows.
        values: how many were compared.
    """

    weights: str
    difference: float
    tolerance: float
    values: int

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance


def published_logits() -> Mapping[str, Any]:
    """The published values: ``logits`` by the weights' name, their ``photo``, ``source`` and ``tolerance``."""
    found: Mapping[str, Any] = read_json(Path(str(files("terrazzo.weights") / "published_logits.json")))
    return found


@checked
def check_weights(weights: str | Path, photo: str | Path, *, name: str | None = None) -> WeightCheck:
    """Compare NVIDIA's SegFormer weights with logits that were published for them.

    Args:
        weights: a file such as ``segformer.b2.512x512.ade.160k.pth``, a model folder or a hub id.
        photo: COCO's photo 000000039769 (val2017).
        name: which of the published weights they are, where their own name does not say it.

    Raises:
        ConfigError: their name says nothing, or nothing was published for them.
        CheckpointError: they cannot be loaded, or have another number of classes.
        ImageError: the photo cannot be read.
    """
    document = published_logits()
    known: Mapping[str, Any] = document["logits"]
    own = str(weights)
    found = _published_name(own) if name is None else name
    if found not in known:
        unsaid = f"{shown_path(own)} does not say which weights it holds"
        about = f"nothing was published for {shown_path(found)}" if found else unsaid
        fix = f"{did_you_mean(found, known)}give --name, one of {list_names(known)}"
        raise ConfigError(about, fix=fix, code="check-weights-name")
    model = load(weights)
    expected_khw = np.array(known[found])
    preprocess = Preprocess(size=(SIDE, SIDE), antialias=True)
    shown_CHW = preprocess(read_image(photo))
    with torch.inference_mode():
        logits_1Khw = model.network.eval()(torch.from_numpy(np.ascontiguousarray(shown_CHW))[None])
    corner_khw = logits_1Khw[0, :3, :3, :3].float().numpy()
    if corner_khw.shape != expected_khw.shape:
        raise CheckpointError(f"{shown_path(own)} has {len(corner_khw)} classes", fix="give NVIDIA's weights")
    difference = float(np.abs(corner_khw - expected_khw).max())
    return WeightCheck(found, difference, float(document["tolerance"]), expected_khw.size)


def _published_name(own: str) -> str:
    """The published name of a file or a hub id, or an empty text."""
    stem = Path(own).name.removesuffix(".pth")
    if match := HUB.search(own):
        size, data, height, width = match.groups()
        return f"segformer.{size}.{height}x{width}.{'ade' if data == 'ade' else 'city'}.160k"
    return stem if stem.startswith("segformer.") else ""
