"""SETR's MLA decoder: multi-level feature aggregation.

Paper: arXiv 2012.15840, section 3.3. Where the paper's text and its released code disagree, this follows the code: four
levels of the encoder, each with its own LayerNorm, are projected to 256 channels and added up from the deepest to the
shallowest, every partial sum is convolved, and each stream then goes through two 3 x 3 convolutions to 128 channels.
(The text has one stream of a 1 x 1 and two 3 x 3 convolutions, which halves the channels twice.) The streams are
enlarged fourfold, concatenated and classified by one 3 x 3 convolution; the rest of the enlargement is the resize of
the logits to the image size, outside of the decoder.

The fourfold enlargement aligns corners in the released code, unlike every other resize. mmsegmentation's
re-implementation does not align them and classifies with a 1 x 1 convolution; both are arguments here.

All four streams are enlarged alike, so they are concatenated first; and the enlargement and the classifier are computed
together on the small map: as `terrazzo.models.resized_conv` says for the 3 x 3 classifier, and by classifying before
enlarging for the 1 x 1, which commutes with it. The map of 512 channels at a quarter of the image size never exists.

Shapes: B batch, C_i channels of level i, K classes, h and w the grid of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.decoders.head import PointwiseConv, two_convs
from terrazzo.models.layers import ConvNormReLU
from terrazzo.models.resized_conv import conv_of_resized
from terrazzo.models.sizes import Size

__all__ = ["MLAAuxiliaryHead", "MLADecoder"]


class MultiLevelAggregation(nn.Module):
    """Adds the levels up from the deepest to the shallowest.

    Args:
        in_channels: channels of each level, shallowest first.
        embed_dim: channels of each of the resulting maps.
    """

    def __init__(self, in_channels: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=1e-6) for channels in in_channels)
        self.projections = nn.ModuleList(ConvNormReLU(channels, embed_dim, 1) for channels in in_channels)
        self.outputs = nn.ModuleList(ConvNormReLU(embed_dim, embed_dim, 3) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return one (B, embed_dim, h, w) map per level, shallowest first."""
        total: Tensor | None = None
        maps = []
        for x_BChw, norm, project, output in reversed(
            list(zip(features, self.norms, self.projections, self.outputs, strict=True))
        ):
            projected = project(norm(x_BChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            total = projected if total is None else total + projected
            maps.append(output(total))
        return maps[::-1]


class MLADecoder(nn.Module):
    """Main decoder of SETR-MLA.

    Args:
        channels: C_i of each level, shallowest first.
        strides: of each level, all of them the same.
        num_classes: K.
        kernel_size: side of the classifier: 3 in the official code, 1 in mmsegmentation's.
        align_corners: of the fourfold enlargement: true in the official code, false in mmsegmentation's.
        embed_dim: channels of the aggregated maps.
        stream_dim: channels of each stream.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        kernel_size: Size = 3,
        align_corners: bool = True,
        embed_dim: Size = 256,
        stream_dim: Size = 128,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.aggregation = MultiLevelAggregation(channels, embed_dim)
        self.aggregated_channels = (embed_dim,) * len(channels)
        self.streams = nn.ModuleList(two_convs(embed_dim, stream_dim) for _ in channels)
        self.classifier = nn.Conv2d(stream_dim * len(channels), num_classes, kernel_size, padding=kernel_size // 2)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, 4 h, 4 w) logits."""
        return self.classify(self.aggregate(features))

    def aggregate(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps that the auxiliary heads read too, (B, embed_dim, h, w) per level."""
        maps: list[Tensor] = self.aggregation(features)
        return maps

    def classify(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, K, 4 h, 4 w) logits of aggregated maps."""
        x_BChw = torch.cat([stream(x) for stream, x in zip(self.streams, maps, strict=True)], dim=1)
        conv, align_corners = self.classifier, self.align_corners
        if conv.kernel_size == (3, 3):
            assert conv.bias is not None
            return conv_of_resized(x_BChw, conv.weight, conv.bias, 4, align_corners)
        return F.interpolate(conv(x_BChw), scale_factor=4, mode="bilinear", align_corners=align_corners)


class MLAAuxiliaryHead(nn.Module):
    """A classifier on one of the aggregated maps.

    Args:
        channels: of each of the aggregated maps.
        strides: of each of them; any will do.
        num_classes: K.
        level: which of the aggregated maps is read.
        bias: the official code's has none, mmsegmentation's has.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        level: int,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.level = level
        self.classifier = PointwiseConv(channels[level], num_classes, bias=bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        logits_BKhw: Tensor = self.classifier(maps[self.level])
        return logits_BKhw
