"""SETR's PUP decoder: progressive upsampling.

Paper: arXiv 2012.15840, section 3.3. LayerNorm, then four times a 3 x 3 convolution, BatchNorm, ReLU, with a twofold
enlargement after each; the convolutions have biases and the classifier comes before the last enlargement, as in the
released code. That last one is the resize of the logits to the image size, outside of the decoder: logits leave it at
eight times the size of the tokens' grid.

An auxiliary head is one such stage: a 3 x 3 convolution, BatchNorm, ReLU, then a fourfold enlargement and a classifier.
A 1 x 1 convolution commutes with bilinear resizing, so the classifier goes first and K channels are enlarged instead of
C. mmsegmentation's heads have two stages, the first enlargement between them; those of its Naive are 1 x 1.

A convolution after an enlargement is computed on the map before it (`terrazzo.models.resized_conv`): a quarter of the
operations, the same values to rounding. In evaluation BatchNorm, ReLU and the classifier are applied to each tile, so
that the map of C channels at half the image size, the largest tensor of the network, never exists.

Shapes: B batch, C channels, K classes, h and w the grid of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.layers import fold_norm
from terrazzo.models.resized_conv import conv_of_resized
from terrazzo.models.sizes import Size, Sizes

__all__ = ["PUPDecoder", "UpsamplingStage"]


class UpsamplingStage(nn.Module):
    """Enlarges a map, then convolution, BatchNorm and ReLU.

    Args:
        in_channels: channels of the incoming map.
        out_channels: C.
        kernel_size: side of the convolution, 3 or 1.
        factor: by how much the map is enlarged first; 1 leaves it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x_BChw: Tensor, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return (B, C, factor h, factor w), or what `then` makes of each place's channels (it gets them last)."""
        if self.factor > 1 and self.conv.kernel_size == (3, 3):
            if not self.norm.training:
                return self._in_evaluation(x_BChw, then)
            assert self.conv.bias is not None
            out_BCHW = conv_of_resized(x_BChw, self.conv.weight, self.conv.bias, self.factor, align_corners=False)
        else:
            out_BCHW = self.conv(x_BChw)
            if self.factor > 1:
                out_BCHW = F.interpolate(out_BCHW, scale_factor=self.factor, mode="bilinear", align_corners=False)
        out_BCHW = F.relu(self.norm(out_BCHW), inplace=True)
        return out_BCHW if then is None else then(out_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _in_evaluation(self, x_BChw: Tensor, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        """With BatchNorm folded into the convolution, everything up to `then` acts on each place alone."""
        assert self.conv.bias is not None
        scale, shift = fold_norm(self.norm)
        weight, bias = scale[:, None, None, None] * self.conv.weight, scale * self.conv.bias + shift

        def finish(piece_BHWC: Tensor) -> Tensor:
            piece_BHWC = F.relu(piece_BHWC, inplace=True)
            return piece_BHWC if then is None else then(piece_BHWC)

        return conv_of_resized(x_BChw, weight, bias, self.factor, align_corners=False, then=finish)


class PUPDecoder(nn.Module):
    """Main decoder of SETR-PUP, and with fewer stages an auxiliary head.

    Args:
        channels: of each of the encoder's maps.
        strides: of each map; any will do.
        num_classes: K.
        level: which of the encoder's maps is read.
        factors: by how much each stage enlarges what it gets.
        resize: factor by which the logits leave the decoder enlarged.
        kernel_size: side of the convolutions, 3 or 1.
        embed_dim: decoder width C.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        level: int = -1,
        factors: Sizes = (1, 2, 2, 2),
        resize: Size = 1,
        kernel_size: Size = 3,
        embed_dim: Size = 256,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.level = level
        self.resize = resize
        self.norm = nn.LayerNorm(channels[level], eps=1e-6)
        self.stages = nn.ModuleList(
            UpsamplingStage(channels[level] if i == 0 else embed_dim, embed_dim, kernel_size, factor)
            for i, factor in enumerate(factors)
        )
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, f h, f w) logits, f the product of all factors."""
        x_BChw = self.norm(features[self.level].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        *earlier, last = self.stages
        for stage in earlier:
            x_BChw = stage(x_BChw)
        logits_BKhw: Tensor = last(x_BChw, then=self.classifier)
        if self.resize > 1:
            logits_BKhw = F.interpolate(logits_BKhw, scale_factor=self.resize, mode="bilinear", align_corners=False)
        return logits_BKhw
