"""Pyramid Vision Transformer (PVT), the first version: the pyramid that both papers compare with.

Paper: "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions", Wang et al. 2021,
arXiv 2102.12122, section 3. (Of the second version, transformers has a backbone.)

A stage cuts its map into patches that do not overlap, projects them, adds a learned embedding of each position and goes
through transformer blocks whose keys and values come from a map reduced R x R-fold ("spatial reduction attention"; it
is SegFormer's efficient self-attention, see mit.py). LayerNorm eps is 1e-6 in blocks and 1e-5 after patch embedding and
reduction, as in the released code. For segmentation a stage's map is its last block's output, without a norm, and there
is no class token, which only the classifier's last stage has.

Departures from the released code, which leave its results at sizes that are multiples of 32 unchanged: patches that the
image does not fill are filled up with zeros, where the code drops them, and a map smaller than its reduction window is
too. So any image of at least 1 x 1 works.

Shapes: B batch, H and W the map's own height and width, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from terrazzo.fields import BelowOne
from terrazzo.models.encoders.mit import Block, OverlapPatchEmbed, Stage, init_weights, recompute_whole_blocks
from terrazzo.models.layers import ceil_div, linear_ramp
from terrazzo.models.sizes import Depths, Sizes

__all__ = ["SIZES", "PyramidVisionTransformer"]

SIZES = {
    "pvt_tiny": {"depths": (2, 2, 2, 2)},
    "pvt_small": {"depths": (3, 4, 6, 3)},
    "pvt_medium": {"depths": (3, 4, 18, 3)},
    "pvt_large": {"depths": (3, 8, 27, 3)},
}
"""The numbers that differ between the sizes (table 1)."""


class PyramidVisionTransformer(nn.Module):
    """Hierarchical encoder, of four stages in the paper.

    Args:
        depths: blocks in each stage; there are as many stages as there are numbers.
        embed_dims: channels of each stage.
        num_heads: attention heads of each stage.
        sr_ratios: reduction ratio R of each stage.
        mlp_ratios: expansion of the feed-forward layers in each stage.
        patch_strides: side of the patches of each stage.
        drop_path_rate: drop path of the last block; the rates rise linearly from 0 over all blocks.
        image_size: (H, W) of the images whose positions are learned.
        in_channels: bands of the images.
    """

    def __init__(
        self,
        depths: Depths,
        embed_dims: Sizes = (64, 128, 320, 512),
        num_heads: Sizes = (1, 2, 5, 8),
        sr_ratios: Sizes = (8, 4, 2, 1),
        mlp_ratios: Sizes = (8, 8, 4, 4),
        patch_strides: Sizes = (4, 2, 2, 2),
        drop_path_rate: BelowOne = 0.1,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if any(len(values) != len(depths) for values in (embed_dims, num_heads, sr_ratios, mlp_ratios, patch_strides)):
            raise ValueError(f"{len(depths)} stages need as many channels, heads, ratios and strides")
        if unfit := [dim for dim, heads in zip(embed_dims, num_heads, strict=True) if dim % heads]:
            raise ValueError(f"{unfit[0]} channels cannot be shared by the heads of their stage")
        self.in_channels = in_channels
        rates = iter(linear_ramp(drop_path_rate, sum(depths)))
        stages, strides, width, stride = [], [], in_channels, 1
        for dim, depth, heads, sr_ratio, mlp_ratio, step in zip(
            embed_dims, depths, num_heads, sr_ratios, mlp_ratios, patch_strides, strict=True
        ):
            stride *= step
            strides.append(stride)
            grid = ceil_div(image_size[0], stride), ceil_div(image_size[1], stride)
            patch_embed = OverlapPatchEmbed(width, dim, step, step, centred=False)
            blocks = [Block(dim, heads, sr_ratio, mlp_ratio, next(rates), ffn_convolution=False) for _ in range(depth)]
            stages.append(Stage(patch_embed, blocks, dim, grid, norm_eps=None))
            width = dim
        self.channels = tuple(embed_dims)
        self.strides = tuple(strides)
        self.stages = nn.ModuleList(stages)
        self.apply(init_weights)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the maps: of the paper's, the first is (B, C, ceil(H / 4), ceil(W / 4)), each half the one before."""
        x_BHWC = images_BCHW.permute(0, 2, 3, 1)
        features = []
        for stage in self.stages:
            x_BHWC = stage(x_BHWC)
            features.append(x_BHWC.permute(0, 3, 1, 2))
        return features

    def recompute_blocks(self) -> None:
        """Turn on activation checkpointing: keep each block's input, and recompute the rest in the backward pass."""
        self.apply(recompute_whole_blocks)
