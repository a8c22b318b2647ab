"""The all-MLP decoder exactly as the paper writes it, to hold the composed one against (SegFormer, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.decoders.all_mlp import AllMLPDecoder


class LiteralAllMLPDecoder(nn.Module):
    """Project every level, resize all to the finest, concatenate coarsest first, fuse, classify."""

    def __init__(self, in_channels: Sequence[int], embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(channels, embed_dim) for channels in in_channels)
        self.fuse = nn.Conv2d(embed_dim * len(in_channels), embed_dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(embed_dim, eps=1e-5, momentum=0.1)
        self.classifier = nn.Conv2d(embed_dim, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[2:]
        levels = []
        for x_BCHW, projection in zip(features, self.projections, strict=True):
            tokens_BNC = projection(x_BCHW.flatten(2).transpose(1, 2))
            map_BCHW = tokens_BNC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])
            levels.append(F.interpolate(map_BCHW, size, mode="bilinear", align_corners=False))
        fused = self.fuse(torch.cat(levels[::-1], dim=1))
        logits_BKHW: Tensor = self.classifier(F.relu(self.norm(fused)))
        return logits_BKHW

    def load_composed(self, decoder: AllMLPDecoder) -> None:
        """Take over the weights of the decoder under test."""
        self.load_state_dict(as_convolutions(decoder.state_dict()))


def as_convolutions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the two matrices that are 1 x 1 convolutions here their trailing axes; for weights and for gradients."""
    return {
        name: tensor[:, :, None, None] if name in ("fuse.weight", "classifier.weight") else tensor
        for name, tensor in tensors.items()
    }
