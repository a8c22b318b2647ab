"""FCN head: the fully convolutional baseline that both papers compare with.

Papers: "Fully Convolutional Networks for Semantic Segmentation", Long et al. 2015, arXiv 1411.4038; on an encoder whose
last strides are turned into dilation, "Multi-Scale Context Aggregation by Dilated Convolutions", Yu and Koltun 2016,
arXiv 1511.07122.

The map of the last stage goes through two 3 x 3 convolutions with BatchNorm and ReLU, channel dropout and a 1 x 1
classifier. The enlargement is the resize of the logits to the image size, outside of the decoder; there are no skips
from earlier stages (FCN-32s, and at output stride 8 what later papers call FCN).

Shapes: B batch, C decoder width, K classes, h and w the size of the map that is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.decoders.head import Classifier, two_convs, width_on
from terrazzo.models.sizes import Size

__all__ = ["FCNDecoder"]


class FCNDecoder(nn.Module):
    """Convolves and classifies the last map.

    Args:
        channels: of each map; the last one is read.
        strides: of each map; any will do.
        num_classes: K.
        embed_dim: decoder width C; by default a quarter of the map's channels, which is 512 on a ResNet-50.
        dropout: channel dropout before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        embed_dim: Size | None = None,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        embed_dim = width_on(channels, embed_dim)
        self.convs = two_convs(channels[-1], embed_dim)
        self.classifier = Classifier(embed_dim, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        logits_BKhw: Tensor = self.classifier(self.convs(features[-1]))
        return logits_BKhw
