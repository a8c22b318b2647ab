"""SETR's Naive decoder: classify every token, then enlarge.

Paper: arXiv 2012.15840, section 3.3. LayerNorm, a 1 x 1 convolution, BatchNorm, ReLU, a 1 x 1 classifier. The
sixteenfold enlargement is the resize of the logits to the image size, outside of the decoder. The 1 x 1 convolutions
are written as the linear layers they are; the first has a bias, as in the released code, though BatchNorm makes it idle
in training.

mmsegmentation's re-implementation enlarges four times before its classifier and four times after it, which is not the
same as sixteen times at once. A 1 x 1 convolution commutes with bilinear resizing, so here the classifier comes first
in that variant too and the logits are resized, to the same values.

Shapes: B batch, C channels, K classes, h and w the size of the map that is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.decoders.head import PointwiseConv
from terrazzo.models.sizes import Size

__all__ = ["NaiveDecoder"]


class NaiveDecoder(nn.Module):
    """Main decoder and, on earlier layers, auxiliary head of SETR-Naive.

    Args:
        channels: of each of the encoder's maps.
        strides: of each map; any will do.
        num_classes: K.
        level: which of the encoder's maps is read.
        resize: factor by which the logits leave the decoder enlarged: 1 in the official code, 4 in mmsegmentation's.
        embed_dim: decoder width C.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        level: int = -1,
        resize: Size = 1,
        embed_dim: Size = 256,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.level = level
        self.resize = resize
        self.norm = nn.LayerNorm(channels[level], eps=1e-6)
        self.proj = nn.Linear(channels[level], embed_dim)
        self.proj_norm = nn.BatchNorm2d(embed_dim)
        self.classifier = PointwiseConv(embed_dim, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, resize h, resize w) logits."""
        x_BhwC = self.proj(self.norm(features[self.level].permute(0, 2, 3, 1)))
        hidden_BChw = F.relu(self.proj_norm(x_BhwC.permute(0, 3, 1, 2)), inplace=True)
        logits_BKhw: Tensor = self.classifier(hidden_BChw)
        if self.resize > 1:
            logits_BKhw = F.interpolate(logits_BKhw, scale_factor=self.resize, mode="bilinear", align_corners=False)
        return logits_BKhw
