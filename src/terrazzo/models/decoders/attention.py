"""FCN head with self-attention (DANet's position attention) over the last map.

Papers: "Dual Attention Network for Scene Segmentation" (DANet), Fu et al. 2019, arXiv 1809.02983, section 3.2, the
position attention module; it is the non-local block of Wang et al. 2018, arXiv 1711.07971, for which CCNet (Huang et
al. 2019, arXiv 1811.11721) has a cheaper stand-in.

The head is that of fcn.py, two 3 x 3 convolutions with BatchNorm and ReLU, and the block stands between them. Queries
and keys have an eighth of the channels; their products are not scaled. What a place gathers is added to it times one
learned number, which starts at 0: an untrained block changes nothing.

The attention has one head. To `scaled_dot_product_attention` it is given as several with the same queries and keys,
each for as many of the values' channels as keys have. The result is the same, and the fused kernels take it, which keep
no N x N matrix; they need keys and values of one width.

Shapes: B batch, C decoder width, K classes, h and w the map's size, N = h w places, D channels of queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.decoders.head import Classifier, width_on
from terrazzo.models.layers import ConvNormReLU
from terrazzo.models.sizes import Size

__all__ = ["FCNAttentionDecoder", "PositionAttention"]


class PositionAttention(nn.Module):
    """Attention of every place of a map to every other, on a residual branch.

    Args:
        dim: channels C.
        key_dim: channels D of queries and keys; divides C.
    """

    def __init__(self, dim: int, key_dim: int) -> None:
        super().__init__()
        if not 1 <= key_dim <= dim or dim % key_dim:
            raise ValueError(f"{key_dim} channels of keys do not divide {dim}")
        self.q = nn.Linear(dim, key_dim)
        self.k = nn.Linear(dim, key_dim)
        self.v = nn.Linear(dim, dim)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return (B, C, h, w)."""
        B, C, h, w = x_BChw.shape
        x_BNC = x_BChw.permute(0, 2, 3, 1).reshape(B, h * w, C)
        q_BND, k_BND, v_BNC = self.q(x_BNC), self.k(x_BNC), self.v(x_BNC)
        D = q_BND.shape[-1]
        slices = C // D
        q, k = (part.unsqueeze(1).expand(-1, slices, -1, -1) for part in (q_BND, k_BND))
        mixed = F.scaled_dot_product_attention(q, k, v_BNC.view(B, h * w, slices, D).transpose(1, 2), scale=1.0)
        mixed_BNC = mixed.transpose(1, 2).reshape(B, h * w, C)
        return torch.addcmul(x_BNC, self.gain, mixed_BNC).view(B, h, w, C).permute(0, 3, 1, 2)


class FCNAttentionDecoder(nn.Module):
    """Convolves the last map, lets its places attend to each other, convolves again and classifies.

    Args:
        channels: of each map; the last one is read.
        strides: of each map; any will do.
        num_classes: K.
        embed_dim: decoder width C; by default a quarter of the map's channels, which is 512 on a ResNet-50.
        key_dim: channels of queries and keys, which divides C; by default C / 8, or the largest divisor below.
        dropout: channel dropout before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        embed_dim: Size | None = None,
        key_dim: Size | None = None,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        embed_dim = width_on(channels, embed_dim)
        if key_dim is None:
            key_dim = max(width for width in range(1, max(embed_dim // 8, 1) + 1) if embed_dim % width == 0)
        self.conv_in = ConvNormReLU(channels[-1], embed_dim, 3)
        self.attention = PositionAttention(embed_dim, key_dim)
        self.conv_out = ConvNormReLU(embed_dim, embed_dim, 3)
        self.classifier = Classifier(embed_dim, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        hidden_BChw = self.conv_out(self.attention(self.conv_in(features[-1])))
        logits_BKhw: Tensor = self.classifier(hidden_BChw)
        return logits_BKhw
