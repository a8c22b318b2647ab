"""SegFormer's all-MLP decoder, computed without its widest tensor.

Paper: arXiv 2105.15203, section 3.2. The paper projects each level to C channels, upsamples to H/4, concatenates to 4C
channels and fuses them with a 4C -> C linear layer. Up to the BatchNorm all of that is linear, bilinear weights sum to
one, and a per-pixel linear map commutes with resizing. So level i's share is the single matrix F_i L_i (fusion block
times projection), applied at the level's own resolution, upsampled and added; the biases become one vector. The
parameters are the paper's, the outputs and gradients equal it to rounding, and a forward pass of B2 at 512 x 512 falls
from 125 to 49 GFLOP (two per multiply-accumulate).

Shapes: B batch, C_i channels of level i, C decoder width, K classes, h and w the size of the finest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.normed_classifier import classify_normed
from terrazzo.models.sizes import Size

__all__ = ["AllMLPDecoder"]


class AllMLPDecoder(nn.Module):
    """Projects, fuses and classifies the levels of a pyramid (section 3.2, equation 4).

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
        self.projections = nn.ModuleList(nn.Linear(width, embed_dim) for width in channels)
        # The fusion's input is the concatenation coarsest level first, as in the paper's code and its checkpoints.
        self.fuse = nn.Linear(embed_dim * len(channels), embed_dim, bias=False)
        self.norm = nn.BatchNorm2d(embed_dim)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Linear(embed_dim, num_classes)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_out", nonlinearity="relu")

    def composed(self) -> tuple[list[Tensor], Tensor]:
        """Return each level's matrix F_i L_i (C, C_i), finest level first, and the summed bias (C,)."""
        blocks = self.fuse.weight.chunk(len(self.projections), dim=1)[::-1]
        weights, bias = [], torch.zeros_like(self.norm.bias)
        for block, projection in zip(blocks, self.projections, strict=True):
            assert isinstance(projection, nn.Linear)
            weights.append(block @ projection.weight)
            bias = bias + block @ projection.bias
        return weights, bias

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits at the size of the finest level.

        Args:
            features: one (B, C_i, h_i, w_i) map per level, finest first.
        """
        weights, bias = self.composed()
        # The finest level carries the bias of all.
        fused, *coarser = (
            F.linear(x.permute(0, 2, 3, 1), weight, bias if level == 0 else None).permute(0, 3, 1, 2)
            for level, (x, weight) in enumerate(zip(features, weights, strict=True))
        )
        for level in coarser:
            # In place, for these are the largest tensors of the network; and into the resized map, for a linear layer's
            # output is a view, whose in-place changes make autograd copy the gradient to another memory order.
            resized = F.interpolate(level, fused.shape[-2:], mode="bilinear", align_corners=False)
            fused = resized.add_(fused)
        if not self.training:
            logits_BhwK: Tensor = self.classifier(F.relu(self.norm(fused), inplace=True).permute(0, 2, 3, 1))
            return logits_BhwK.permute(0, 3, 1, 2)
        # Dropping a channel of the map is dropping the classifier's column for that image, and touches no map.
        B, C, h, w = fused.shape
        kept_BC11 = self.dropout(fused.new_ones(B, C, 1, 1))
        columns_BCK = self.classifier.weight.T * kept_BC11[..., 0]
        if type(self.norm) is nn.BatchNorm2d and self.norm.training and not torch.compiler.is_compiling():
            logits_BNK = classify_normed(fused, self.norm, columns_BCK, self.classifier.bias)
        else:
            # Statistics shared between processes, or a compiler, which finds its own way to keep less.
            hidden = F.relu(self.norm(fused), inplace=True).permute(0, 2, 3, 1)
            logits_BNK = torch.baddbmm(self.classifier.bias, hidden.reshape(B, h * w, C), columns_BCK)
        return logits_BNK.reshape(B, h, w, -1).permute(0, 3, 1, 2)
