"""The parts that several decoders share: the FCN head's convolutions, their default width, and the classifier.

Shapes: B batch, C channels, K classes, h and w the map's size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from terrazzo.models.layers import ConvNormReLU

__all__ = ["Classifier", "PointwiseConv", "two_convs", "width_on"]


class PointwiseConv(nn.Linear):
    """A 1 x 1 convolution, stored and computed as a linear layer: on channels-last maps it is one matrix product."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return (B, out_features, h, w)."""
        return super().forward(x_BChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Classifier(PointwiseConv):
    """Channel dropout, then a 1 x 1 convolution to one logit for each class.

    Args:
        in_channels: C.
        num_classes: K.
        dropout: probability of dropping a channel of an image, in training.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(in_channels, num_classes)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return (B, K, h, w) logits."""
        return super().forward(self.dropout(x_BChw))


def width_on(channels: Sequence[int], embed_dim: int | None) -> int:
    """Return a decoder's width C: `embed_dim`, or a quarter of the last map's channels, which is 512 on a ResNet-50."""
    return max(channels[-1] // 4, 1) if embed_dim is None else embed_dim


def two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with BatchNorm and ReLU."""
    return nn.Sequential(ConvNormReLU(in_channels, out_channels, 3), ConvNormReLU(out_channels, out_channels, 3))
