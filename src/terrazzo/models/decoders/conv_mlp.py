"""The decoder of mmsegmentation's SegFormer, which differs from the paper's.

Each level goes through its own 1 x 1 convolution without bias, BatchNorm and ReLU before it is resized; the levels are
concatenated finest first, fused by another of the same kind, and classified. The width is 256 in all six sizes, and
LayerNorm eps is 1e-6 everywhere in the encoder below it. It exists so that mmsegmentation's checkpoints give their own
results.

As in `all_mlp.py`, no map of 4C channels is built: the fusion is linear, bilinear weights sum to one, and a per-pixel
linear map commutes with resizing. So level i's block of the fusion is applied at the level's own resolution.

Shapes: B batch, C_i channels of level i, C decoder width, K classes, h and w the size of the finest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.decoders.head import Classifier, PointwiseConv
from terrazzo.models.sizes import Size

__all__ = ["ConvMLPDecoder"]


class ConvMLPDecoder(nn.Module):
    """Projects, normalises, fuses and classifies the levels of a pyramid.

    Args:
        channels: C_i of each level, finest first.
        strides: of each level; any will do.
        num_classes: K.
        embed_dim: decoder width C.
        dropout: channel dropout before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        embed_dim: Size = 256,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.projections = nn.ModuleList(PointwiseConv(width, embed_dim, bias=False) for width in channels)
        self.projection_norms = nn.ModuleList(nn.BatchNorm2d(embed_dim) for _ in channels)
        # The fusion's input is the concatenation finest level first.
        self.fuse = nn.Linear(embed_dim * len(channels), embed_dim, bias=False)
        self.norm = nn.BatchNorm2d(embed_dim)
        self.classifier = Classifier(embed_dim, num_classes, dropout)
        for linear in (*self.projections, self.fuse):
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits at the size of the finest level.

        Args:
            features: one (B, C_i, h_i, w_i) map per level, finest first.
        """
        blocks = self.fuse.weight.chunk(len(self.projections), dim=1)
        levels = []
        for x_BCHW, projection, norm, block in zip(
            features, self.projections, self.projection_norms, blocks, strict=True
        ):
            projected = F.relu(norm(projection(x_BCHW)))
            levels.append(F.linear(projected.permute(0, 2, 3, 1), block).permute(0, 3, 1, 2))
        fused, *coarser = levels
        for level in coarser:
            fused = fused + F.interpolate(level, fused.shape[-2:], mode="bilinear", align_corners=False)
        logits_BKhw: Tensor = self.classifier(F.relu(self.norm(fused)))
        return logits_BKhw
