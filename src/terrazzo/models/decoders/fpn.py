"""Semantic FPN: a feature pyramid network and the semantic branch of Panoptic FPN.

Papers: "Feature Pyramid Networks for Object Detection", Lin et al. 2017, arXiv 1612.03144, section 3; "Panoptic Feature
Pyramid Networks", Kirillov et al. 2019, arXiv 1901.02446, section 3 and figure 3.

Each level is projected by a 1 x 1 convolution, and from the coarsest to the finest gets the one above added, enlarged
to the nearest neighbour; a 3 x 3 convolution makes the level's output. In the semantic branch a level then goes through
as many stages of a 3 x 3 convolution, group norm, ReLU and bilinear enlargement as there are finer levels (the finest
through one stage without enlargement). All are added up and classified.

A stage enlarges to the size of the next finer level: twofold in the paper. On maps of one size it enlarges nothing.

Shapes: B batch, C pyramid width, D branch width, K classes, h and w the size of the finest level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.decoders.head import PointwiseConv
from terrazzo.models.sizes import Size

__all__ = ["FPNDecoder"]

GROUPS = 32


class Stage(nn.Module):
    """3 x 3 convolution without bias, group norm (32 groups, or the largest number below that fits), ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, out_channels), out_channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x_BChw)))


class FPNDecoder(nn.Module):
    """Builds a feature pyramid, brings its levels to one size, adds them up and classifies.

    Args:
        channels: of each level, finest first.
        strides: of each level; any will do.
        num_classes: K.
        embed_dim: pyramid width C.
        branch_dim: width D of the semantic branch.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        embed_dim: Size = 256,
        branch_dim: Size = 128,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.laterals = nn.ModuleList(nn.Conv2d(width, embed_dim, 1) for width in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(embed_dim, embed_dim, 3, padding=1) for _ in channels)
        self.branches = nn.ModuleList(
            nn.ModuleList(Stage(embed_dim if i == 0 else branch_dim, branch_dim) for i in range(max(level, 1)))
            for level in range(len(channels))
        )
        self.classifier = PointwiseConv(branch_dim, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits at the size of the finest level."""
        sizes = [x.shape[-2:] for x in features]
        pyramid: list[Tensor] = []
        for x_BChw, lateral in reversed(list(zip(features, self.laterals, strict=True))):
            here = lateral(x_BChw)
            pyramid.insert(0, here + F.interpolate(pyramid[0], here.shape[-2:], mode="nearest") if pyramid else here)
        hidden: Tensor | None = None
        for level, (x_BChw, output, branch) in enumerate(zip(pyramid, self.outputs, self.branches, strict=True)):
            y_BDhw = output(x_BChw)
            assert isinstance(branch, nn.ModuleList)
            for place, stage in enumerate(branch, start=1):
                y_BDhw = stage(y_BDhw)
                if level > 0:
                    y_BDhw = F.interpolate(y_BDhw, sizes[level - place], mode="bilinear", align_corners=False)
            hidden = y_BDhw if hidden is None else hidden + y_BDhw
        assert hidden is not None
        logits_BKhw: Tensor = self.classifier(hidden)
        return logits_BKhw
