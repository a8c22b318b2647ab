"""Models without memory: shapes, counts and costs of the largest variants in no time."""

from __future__ import annotations

from functools import cache

import torch

from terrazzo.models import Segmenter
from terrazzo.weights.create import create_model


@cache
def meta_model(name: str, num_classes: int = 150) -> Segmenter:
    """Return a model in evaluation mode on the meta device; do not change it, others use it too."""
    with torch.device("meta"):
        return create_model(name, num_classes).eval()
