"""FCN with skips: FCN-16s and FCN-8s.

Paper: "Fully Convolutional Networks for Semantic Segmentation", Long et al. 2015, arXiv 1411.4038, section 4.2.

The last map is scored as FCN's head does it. The scores are enlarged to the size of the next finer map and added to
that map's own, which one 1 x 1 convolution makes; FCN-16s does so once, FCN-8s twice. The enlargement is a transposed
convolution that starts as bilinear interpolation and learns, or bilinear resizing that stays.

Departures from the paper:

* The head on the last map is that of fcn.py, two 3 x 3 convolutions with BatchNorm, in place of VGG's fully connected
  layers.
* A transposed convolution has one kernel for each class. The released networks have a kernel from every class to every
  other, of which all but these are zero and stay so.
* A finer map that is not a whole number of times as large as the coarser one (an odd side is halved upwards) gets the
  part of the enlarged scores that covers it.

Shapes: B batch, C decoder width, K classes, h and w the size of the finest map that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.decoders.head import PointwiseConv, two_convs, width_on
from terrazzo.models.layers import first_cells
from terrazzo.models.sizes import Size

__all__ = ["FCNSkipsDecoder", "Upscore"]


class Upscore(nn.Module):
    """Enlarges scores by a transposed convolution that starts as bilinear interpolation, one kernel for each class.

    Args:
        num_classes: K.
        factor: by how much the scores are enlarged; at 1 they are left as they are.
    """

    def __init__(self, num_classes: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        side = 2 * factor - factor % 2
        self.weight = nn.Parameter(torch.empty(num_classes, 1, side, side)) if factor > 1 else None
        if self.weight is not None:
            distance = (torch.arange(side) - (side - 1) / 2).abs()
            tent = 1 - distance / factor
            with torch.no_grad():
                self.weight.copy_((tent[:, None] * tent).expand_as(self.weight))

    def forward(self, scores_BKhw: Tensor, height: int, width: int) -> Tensor:
        """Return (B, K, height, width), the first rows and columns of the enlarged scores."""
        if self.weight is None:
            return scores_BKhw
        stride, padding = self.factor, (self.weight.shape[-1] - self.factor) // 2
        large = F.conv_transpose2d(scores_BKhw, self.weight, stride=stride, padding=padding, groups=len(self.weight))
        return first_cells(large, height, width)


class SkipClassifier(nn.Module):
    """Scores maps and adds the scores up, from the coarsest map to the finest.

    Args:
        channels: of each map, finest first.
        factors: by how much each map but the last is finer than the next one.
        num_classes: K.
        learned: transposed convolutions that learn, not bilinear resizing.
    """

    def __init__(self, channels: Sequence[int], factors: Sequence[int], num_classes: int, learned: bool) -> None:
        super().__init__()
        self.scores = nn.ModuleList(PointwiseConv(width, num_classes) for width in channels)
        self.upscores = nn.ModuleList(Upscore(num_classes, factor) for factor in factors) if learned else None

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits at the size of the finest map."""
        *finer, total = (score(x_BChw) for score, x_BChw in zip(self.scores, maps, strict=True))
        for level in reversed(range(len(finer))):
            height, width = finer[level].shape[-2:]
            if self.upscores is None:
                total = F.interpolate(total, (height, width), mode="bilinear", align_corners=False)
            else:
                total = self.upscores[level](total, height, width)
            total = total + finer[level]
        logits_BKhw: Tensor = total
        return logits_BKhw


class FCNSkipsDecoder(nn.Module):
    """Classifies the last map and finer ones, and adds up.

    Args:
        channels: of each map, finest first; the last `skips` + 1 are read.
        strides: of each map; each a whole number of times the one before.
        num_classes: K.
        skips: how many finer maps are added: 1 in FCN-16s, 2 in FCN-8s.
        learned: whether the enlargements learn, from bilinear interpolation on, or are bilinear resizing.
        embed_dim: decoder width C; by default a quarter of the last map's channels, which is 512 on a ResNet-50.
        dropout: channel dropout before the classifier of the last map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        skips: int = 2,
        learned: bool = True,
        embed_dim: Size | None = None,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= skips < len(channels):
            raise ValueError(f"{skips} skips need {skips + 1} maps, and the encoder makes {len(channels)}")
        self.num_classes = num_classes
        self.levels = skips + 1
        read, strides = channels[-self.levels :], strides[-self.levels :]
        if any(coarse % fine for fine, coarse in pairwise(strides)):
            raise ValueError(f"each of the strides {tuple(strides)} must be a multiple of the one before")
        factors = [coarse // fine for fine, coarse in pairwise(strides)]
        embed_dim = width_on(channels, embed_dim)
        self.convs = two_convs(channels[-1], embed_dim)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = SkipClassifier((*read[:-1], embed_dim), factors, num_classes, learned)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        *finer, last = features[-self.levels :]
        logits_BKhw: Tensor = self.classifier([*finer, self.dropout(self.convs(last))])
        return logits_BKhw
