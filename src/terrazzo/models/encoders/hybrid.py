"""SETR's hybrid encoder: a ResNet in front of the transformer.

Paper: arXiv 2012.15840, section 4.1: a ResNet-50 at output stride 16 whose map is the transformer's input, T-Base in
the paper, with the Naive decoder. One place of the map is one token, projected by a 1 x 1 convolution, which is what a
ViT with patches of 1 x 1 does with it.

Where the paper is silent: the ResNet is transformers' (it needs the extra ``backbones``), all four stages of it, the
stride of the last one turned into dilation. The released code for this cannot run.

Parameters: counted as the paper's other sizes are (see setr.py), this has 112.18 M with the Naive decoder; the paper
gives 112.59 M. Networks in training come to 112.593 M: 19 classes, 769 x 769 (what mmsegmentation crops for ResNets
there), two auxiliary heads, no unused classifiers; or 59 or 60 classes, 640 x 640, four heads. The paper tests the
hybrid on Cityscapes alone, and gives 768 as the crop, so neither is certain. Tried: all combinations of crops of
480, 512, 640, 768 and 769, of 19, 59, 60 and 150 classes, of 0 to 4 auxiliary heads, and with or without unused
classifiers, a norm after the last block, BatchNorm's statistics, a stem of three convolutions, the ResNet's classifier,
a distillation token, and ViT's layer before its classifier. GroupNorm and weight-standardised convolutions change no
count.

Shapes: B batch, H and W image size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from terrazzo.fields import BelowOne
from terrazzo.models.encoders.backbone import create_backbone, dilate_last_stages
from terrazzo.models.encoders.vit import SIZES as VIT_SIZES
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.models.layers import ceil_div
from terrazzo.models.sizes import Depth, Size

__all__ = ["SIZES", "HybridEncoder"]

RESNET_50 = {"model_type": "resnet", "depths": (3, 4, 6, 3), "layer_type": "bottleneck"}

SIZES = {"hybrid_base": {"config": RESNET_50, **VIT_SIZES["vit_base"]}}


class HybridEncoder(nn.Module):
    """A ResNet at output stride 16, then a transformer on its map.

    Args:
        config: what a ``config.json`` of a ResNet of transformers holds.
        embed_dim: channels C of the tokens.
        depth: number of blocks.
        num_heads: attention heads; divides C.
        mlp_ratio: expansion of the MLP.
        image_size: (H, W) that the position embeddings are made for.
        layers: the numbers of blocks after which a map is emitted, as in `VisionTransformer`.
        class_token_in_blocks: as in `VisionTransformer`.
        drop_path_rate: drop path of the last block; the rates rise linearly from 0.
        in_channels: bands of the images.

    Raises:
        ConfigError: the configuration is not a ResNet's, or cannot be used.
        MissingExtraError: transformers is not installed.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        embed_dim: Size,
        depth: Depth,
        num_heads: Size,
        mlp_ratio: Size = 4,
        image_size: tuple[int, int] = (768, 768),
        layers: Sequence[int] | None = None,
        class_token_in_blocks: bool = True,
        drop_path_rate: BelowOne = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.resnet = create_backbone(config, maps="last", in_channels=in_channels)
        dilate_last_stages(self.resnet.backbone, stages=1)
        (width,), (stride,) = self.resnet.channels, self.resnet.strides
        stride //= 2
        self.resnet.strides = (stride,)
        self.transformer = VisionTransformer(
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            patch_size=1,
            image_size=(ceil_div(image_size[0], stride), ceil_div(image_size[1], stride)),
            layers=layers,
            class_token_in_blocks=class_token_in_blocks,
            drop_path_rate=drop_path_rate,
            in_channels=width,
        )
        self.channels = self.transformer.channels
        self.strides = (stride,) * len(self.channels)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return one (B, C, ceil(H / 16), ceil(W / 16)) map for each of the transformer's `layers`."""
        (map_BChw,) = self.resnet(images_BCHW)
        maps: list[Tensor] = self.transformer(map_BChw)
        return maps

    def recompute_blocks(self) -> None:
        """Turn on activation checkpointing: keep each block's input, and recompute the rest in the backward pass."""
        if self.resnet.backbone.supports_gradient_checkpointing:
            self.resnet.recompute_blocks()
        self.transformer.recompute_blocks()

    def configuration(self) -> dict[str, Any]:
        """Return the ResNet's configuration, complete."""
        return self.resnet.configuration()
