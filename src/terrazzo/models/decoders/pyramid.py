"""Pyramid pooling (PSPNet) and atrous spatial pyramid pooling (DeepLabV3): multi-scale context on the last map.

Papers: "Pyramid Scene Parsing Network", Zhao et al. 2017, arXiv 1612.01105, section 3.2; "Rethinking Atrous Convolution
for Semantic Image Segmentation", Chen et al. 2017, arXiv 1706.05587, section 3.3.

PSPNet averages the map over the cells of grids of 1 x 1, 2 x 2, 3 x 3 and 6 x 6, projects each, resizes it to the map
and joins all of them and the map by a 3 x 3 convolution. DeepLabV3 has 3 x 3 convolutions at three dilation rates,
a 1 x 1 convolution and the average of the whole map, and joins them by a 1 x 1 convolution. Both have BatchNorm and
ReLU after every convolution, and resize with align_corners=False.

The average over 1 x 1 cell leaves one value for each channel and image. In training BatchNorm cannot be computed from
one image alone, so that a process has to learn from at least two at a time.

Cells are those of `adaptive_avg_pool2d`. The averages are written as products with two small matrices, because an
export with free sizes cannot hold that function.

Shapes: B batch, C decoder width, K classes, h and w the size of the map that is read, n cells a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import Share
from terrazzo.models.decoders.head import Classifier, width_on
from terrazzo.models.layers import ConvNormReLU
from terrazzo.models.sizes import Size, Sizes

__all__ = ["ASPPDecoder", "PSPDecoder", "PooledBranch", "PyramidPooling", "average_cells"]

REACHES = (96, 192, 288)
"""Pixels between the taps of ASPP's convolutions: rates of 6, 12 and 18 at output stride 16, twice that at 8."""


def average_cells(x_BChw: Tensor, n: int) -> Tensor:
    """Return the (B, C, n, n) averages over the cells of a grid, as `adaptive_avg_pool2d` cuts them."""
    B, C, h, w = x_BChw.shape
    rows_BnwC = _averaging(h, n, x_BChw) @ x_BChw.permute(0, 2, 3, 1).reshape(B, h, w * C)
    cells_BnnC = _averaging(w, n, x_BChw) @ rows_BnwC.view(B, n, w, C)
    return cells_BnnC.permute(0, 3, 1, 2)


def _averaging(side: int, n: int, like: Tensor) -> Tensor:
    """Return the (n, side) matrix that averages over n intervals, which overlap where n does not divide the side."""
    places = torch.arange(side, device=like.device)
    cells = torch.arange(n, device=like.device)[:, None]
    first, end = cells * side // n, ((cells + 1) * side + n - 1) // n
    inside = ((places >= first) & (places < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class PooledBranch(nn.Module):
    """Averages over n x n cells, a 1 x 1 convolution, and resizing to the map."""

    def __init__(self, in_channels: int, out_channels: int, n: int) -> None:
        super().__init__()
        self.n = n
        self.project = ConvNormReLU(in_channels, out_channels, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return (B, out_channels, h, w)."""
        cells_BCnn = self.project(average_cells(x_BChw, self.n))
        return F.interpolate(cells_BCnn, x_BChw.shape[-2:], mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """The pyramid pooling module: a map joined with its averages over grids of cells.

    Args:
        in_channels: of the map.
        branch_dim: channels that each average is projected to.
        out_channels: C.
        bins: cells a side of each grid.
    """

    def __init__(self, in_channels: int, branch_dim: int, out_channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        if any(n < 1 for n in bins):
            raise ValueError(f"bins must be at least 1, not {tuple(bins)}")
        self.branches = nn.ModuleList(PooledBranch(in_channels, branch_dim, n) for n in bins)
        self.fuse = ConvNormReLU(in_channels + len(bins) * branch_dim, out_channels, 3)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return (B, C, h, w)."""
        joined = torch.cat([x_BChw, *(branch(x_BChw) for branch in self.branches)], dim=1)
        fused_BChw: Tensor = self.fuse(joined)
        return fused_BChw


class PSPDecoder(nn.Module):
    """PSPNet's decoder.

    Args:
        channels: of each map; the last one is read.
        strides: of each map; any will do.
        num_classes: K.
        bins: cells a side of each grid.
        embed_dim: decoder width C; by default a quarter of the map's channels, which is 512 on a ResNet-50.
        branch_dim: channels of each grid's projection; by default the map's, shared out among the grids.
        dropout: channel dropout before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        bins: Sizes = (1, 2, 3, 6),
        embed_dim: Size | None = None,
        branch_dim: Size | None = None,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        embed_dim = width_on(channels, embed_dim)
        branch_dim = max(channels[-1] // max(len(bins), 1), 1) if branch_dim is None else branch_dim
        self.pooling = PyramidPooling(channels[-1], branch_dim, embed_dim, bins)
        self.classifier = Classifier(embed_dim, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        logits_BKhw: Tensor = self.classifier(self.pooling(features[-1]))
        return logits_BKhw


class ASPPDecoder(nn.Module):
    """DeepLabV3's decoder.

    Args:
        channels: of each map; the last one is read.
        strides: of each map; the last one sets the rates.
        num_classes: K.
        rates: dilation of each 3 x 3 convolution; by default 6, 12 and 18 at stride 16 and in proportion at others.
        image_pooling: whether the average of the whole map is a branch.
        embed_dim: decoder width C, of every branch and after joining them.
        dropout: channel dropout before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        rates: Sizes | None = None,
        image_pooling: bool = True,
        embed_dim: Size = 256,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        rates = [max(round(reach / strides[-1]), 1) for reach in REACHES] if rates is None else rates
        if any(rate < 1 for rate in rates):
            raise ValueError(f"rates must be at least 1, not {tuple(rates)}")
        self.num_classes = num_classes
        self.branches = nn.ModuleList([ConvNormReLU(channels[-1], embed_dim, 1)])
        self.branches.extend(ConvNormReLU(channels[-1], embed_dim, 3, dilation=rate) for rate in rates)
        if image_pooling:
            self.branches.append(PooledBranch(channels[-1], embed_dim, 1))
        self.fuse = ConvNormReLU(embed_dim * len(self.branches), embed_dim, 1)
        self.classifier = Classifier(embed_dim, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        joined = torch.cat([branch(features[-1]) for branch in self.branches], dim=1)
        logits_BKhw: Tensor = self.classifier(self.fuse(joined))
        return logits_BKhw
