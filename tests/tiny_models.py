"""Models of every kind that is exported, small enough to be exported in a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from terrazzo.labels.spec import LabelSpec
from terrazzo.models import segformer, setr
from terrazzo.models.segmenter import Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel

ARCHITECTURES = (
    "segformer_b0",
    "segformer_b0_mmseg",
    *(f"setr_{decoder}_{code}" for decoder in ("naive", "pup", "mla") for code in ("tiny", "large_mmseg")),
)


def tiny_model(architecture: str, in_channels: int = 3) -> TrainedModel:
    """Return a model of one of `ARCHITECTURES` with few layers, and with norms that do something."""
    torch.manual_seed(0)
    network = _network(architecture, in_channels).eval()
    for module in network.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    labels = LabelSpec.bundled("camvid")
    return TrainedModel(architecture, network, labels, Preprocess(short_side=96), {"val_mIoU": 1.5}, "tiny")


def _network(architecture: str, in_channels: int) -> Segmenter:
    if architecture in segformer.VARIANTS:
        size = {"embed_dims": (16, 32, 40, 64), "depths": (1, 1, 2, 1)}
        mmseg = architecture.endswith("_mmseg")
        return create_model(segformer.segformer_spec(architecture, size, 24, mmseg), 11, in_channels=in_channels)
    plain: Any = setr.VARIANTS[architecture].decoder.name.removeprefix("setr_")
    size = {"embed_dim": 24, "depth": 4, "num_heads": 3}
    spec = setr.setr_spec(architecture, size, plain, (1, 2, 3, 4), (2,), architecture.endswith("_mmseg"))
    return create_model(spec, 11, image_size=(96, 64), in_channels=in_channels)
