"""UPerNet: pyramid pooling on the last map, a feature pyramid, and all its levels fused.

Paper: "Unified Perceptual Parsing for Scene Understanding", Xiao et al. 2018, arXiv 1807.10221, section 3.1 and figure
4, of which this is the part that segments.

The last map goes through PSPNet's pyramid pooling (pyramid.py). The others are projected by 1 x 1 convolutions, and
from the coarsest to the finest each gets the one above added, resized bilinearly. A 3 x 3 convolution follows on each
of them; all levels are resized to the finest, concatenated and fused by another. BatchNorm and ReLU come after every
convolution.

Shapes: B batch, C decoder width, K classes, h and w the size of the finest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.decoders.head import Classifier
from terrazzo.models.decoders.pyramid import PyramidPooling
from terrazzo.models.layers import ConvNormReLU
from terrazzo.models.sizes import Size, Sizes

__all__ = ["UPerNetDecoder"]


class UPerNetDecoder(nn.Module):
    """Pools, adds up, fuses and classifies the levels of a pyramid.

    Args:
        channels: of each level, finest first.
        strides: of each level; any will do.
        num_classes: K.
        bins: cells a side of each grid of the pyramid pooling.
        embed_dim: decoder width C.
        dropout: channel dropout before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        bins: Sizes = (1, 2, 3, 6),
        embed_dim: Size = 512,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        *finer, last = channels
        self.pooling = PyramidPooling(last, embed_dim, embed_dim, bins)
        self.laterals = nn.ModuleList(ConvNormReLU(width, embed_dim, 1) for width in finer)
        self.outputs = nn.ModuleList(ConvNormReLU(embed_dim, embed_dim, 3) for _ in finer)
        self.fuse = ConvNormReLU(embed_dim * len(channels), embed_dim, 3)
        self.classifier = Classifier(embed_dim, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits at the size of the finest level."""
        *finer, last = features
        total = self.pooling(last)
        levels = [total]
        for x_BChw, lateral, output in reversed(list(zip(finer, self.laterals, self.outputs, strict=True))):
            total = lateral(x_BChw) + _resized(total, x_BChw)
            levels.append(output(total))
        joined = torch.cat([_resized(level, features[0]) for level in reversed(levels)], dim=1)
        logits_BKhw: Tensor = self.classifier(self.fuse(joined))
        return logits_BKhw


def _resized(x_BChw: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x_BChw, like.shape[-2:], mode="bilinear", align_corners=False)
