"""Vision Transformer (ViT), SETR's encoder.

Papers: "An Image is Worth 16x16 Words", Dosovitskiy et al. 2021, arXiv 2010.11929; as an encoder for segmentation,
"Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers" (SETR), Zheng et al. 2021,
arXiv 2012.15840, section 3.2. LayerNorm eps is 1e-6, as in the released weights. There is no norm after the last block:
SETR's decoders have one for each level they read.

Deliberate departures from SETR's released code, all of which leave its results at the sizes it takes unchanged:

* Any image of at least 1 x 1 works, where the code asserts one square size. A side that is not a multiple of the patch
  is resized up to the next one, bilinearly, so that the grid of tokens covers the image evenly; the position embeddings
  are resized to that grid, bilinearly too, as the code does once when it loads weights.
* The class token's position is a parameter of its own, and those of the patches keep the shape of their grid. So no
  code counts tokens to find the class token, or takes a square root for a side.

Shapes: B batch, H and W image size, P patch side, h and w the grid of tokens, N = h w, T = N plus the class token where
the blocks see it, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import BelowOne
from terrazzo.models.layers import DropPath, ceil_div, init_transformer_linear, linear_ramp, recomputed
from terrazzo.models.sizes import Depth, Size

__all__ = ["SIZES", "PatchEmbed", "SelfAttention", "VisionTransformer", "resize_positions"]

SIZES = {
    "vit_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
"""DeiT-Tiny and DeiT-Small (arXiv 2012.12877, table 1), ViT-Base and ViT-Large (arXiv 2010.11929, table 1)."""

CACHED_SIZES = 8
"""Grids whose resized position embeddings are kept: the six scales of the papers' multi-scale test, and two more."""


class PatchEmbed(nn.Module):
    """Cuts an image into P x P patches and projects each to a token.

    Args:
        embed_dim: channels C of a token.
        patch_size: P.
        in_channels: bands of the images.
    """

    def __init__(self, embed_dim: int, patch_size: int, in_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return (B, ceil(H / P), ceil(W / P), C)."""
        H, W = images_B3HW.shape[2:]
        P = self.patch_size
        if torch.compiler.is_exporting() or H % P or W % P:  # sizes are not numbers yet while exporting
            whole = ceil_div(H, P) * P, ceil_div(W, P) * P
            images_B3HW = F.interpolate(images_B3HW, whole, mode="bilinear", align_corners=False)
        tokens_BhwC: Tensor = self.proj(images_B3HW).permute(0, 2, 3, 1)
        return tokens_BhwC


class SelfAttention(nn.Module):
    """Multi-head self-attention of every token to every other."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C)."""
        B, T, C = x_BTC.shape
        q, k, v = self.qkv(x_BTC).view(B, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out_BTC: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, T, C))
        return out_BTC


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, token by token."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.recompute = True

    def forward(self, x_BTC: Tensor) -> Tensor:
        hidden = self.fc1(x_BTC)
        # One of a block's two widest tensors, and the cheapest: computed again in the backward pass, not kept.
        return recomputed(self._activate, hidden) if self.training and self.recompute else self._activate(hidden)

    def _activate(self, hidden: Tensor) -> Tensor:
        out_BTC: Tensor = self.fc2(F.gelu(hidden))
        return out_BTC


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each on a residual branch with drop path."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, dim * mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.drop_path(self.attn(self.norm1(x_BTC)))
        x_BTC = x_BTC + self.drop_path(self.mlp(self.norm2(x_BTC)))
        return x_BTC


class VisionTransformer(nn.Module):
    """Plain encoder: one resolution, global attention in every block (SETR, section 3.2).

    Args:
        embed_dim: channels C.
        depth: number of blocks.
        num_heads: attention heads; divides C.
        mlp_ratio: expansion of the MLP.
        patch_size: P.
        image_size: (H, W) whose grid of tokens the position embeddings are made for.
        layers: the numbers of blocks after which a map is emitted, rising, the last one `depth`; by default those after
            which a quarter, a half, three quarters and all of the blocks are done.
        class_token_in_blocks: whether the class token goes through the blocks with the patches (SETR-Naive and
            SETR-PUP), or is left out before them (SETR-MLA), which changes what the patches see. Left out, it stays
            among the weights, so that checkpoints fit, and is not trained.
        drop_path_rate: drop path of the last block; the rates rise linearly from 0.
        in_channels: bands of the images.
    """

    def __init__(
        self,
        embed_dim: Size,
        depth: Depth,
        num_heads: Size,
        mlp_ratio: Size = 4,
        patch_size: Size = 16,
        image_size: tuple[int, int] = (768, 768),
        layers: Sequence[int] | None = None,
        class_token_in_blocks: bool = True,
        drop_path_rate: BelowOne = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{embed_dim} channels cannot be shared by {num_heads} heads")
        layers = sorted({math.ceil(depth * part / 4) for part in range(1, 5)}) if layers is None else layers
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] != depth:
            raise ValueError(f"layers must rise from at least 1 to {depth}, not {tuple(layers)}")
        self.layers = tuple(layers)
        self.in_channels = in_channels
        self.channels = (embed_dim,) * len(layers)
        self.strides = (patch_size,) * len(layers)
        self.class_token_in_blocks = class_token_in_blocks
        grid = ceil_div(image_size[0], patch_size), ceil_div(image_size[1], patch_size)
        self.patch_embed = PatchEmbed(embed_dim, patch_size, in_channels)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim), requires_grad=class_token_in_blocks)
        self.cls_pos_embed = nn.Parameter(torch.empty(1, 1, embed_dim), requires_grad=class_token_in_blocks)
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, embed_dim))
        rates = linear_ramp(drop_path_rate, depth)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, rate) for rate in rates)
        self._recompute_blocks = False
        self._resized: dict[tuple[object, ...], Tensor] = {}
        for embedding in (self.cls_token, self.cls_pos_embed, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02, a=-2.0, b=2.0)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                init_transformer_linear(module)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Return one (B, C, ceil(H / P), ceil(W / P)) map for each of `layers`, without the class token, not normed."""
        x_BhwC = self.patch_embed(images_B3HW)
        B, h, w, _ = x_BhwC.shape
        x_BTC = (x_BhwC + self.positions(h, w)).flatten(1, 2)
        prefix = 0
        if self.class_token_in_blocks:
            x_BTC = torch.cat([(self.cls_token + self.cls_pos_embed).expand(B, -1, -1), x_BTC], dim=1)
            prefix = 1
        features = []
        for number, block in enumerate(self.blocks, start=1):
            x_BTC = recomputed(block, x_BTC, draws=True) if self._recompute_blocks else block(x_BTC)
            if number in self.layers:
                features.append(x_BTC[:, prefix:].unflatten(1, (h, w)).permute(0, 3, 1, 2))
        return features

    def recompute_blocks(self) -> None:
        """Turn on activation checkpointing: keep each block's input, and recompute the rest in the backward pass."""
        self._recompute_blocks = True
        for module in self.blocks.modules():
            if isinstance(module, MLP):
                module.recompute = False  # once is enough

    def positions(self, h: int, w: int) -> Tensor:
        """Return the (1, h, w, C) position embeddings of a grid, kept for next time where no gradient is wanted."""
        if torch.compiler.is_exporting():
            return resize_positions(self.pos_embed, h, w)
        if (h, w) == self.pos_embed.shape[1:3]:
            return self.pos_embed
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self.pos_embed.is_inference():
            return resize_positions(self.pos_embed, h, w)
        # The version counts changes in place (an optimiser's step, loaded weights), the address moves to other memory.
        key = h, w, self.pos_embed._version, self.pos_embed.data_ptr(), self.pos_embed.device, self.pos_embed.dtype
        if key not in self._resized:
            while len(self._resized) >= CACHED_SIZES:
                self._resized.pop(next(iter(self._resized)))
            with torch.inference_mode(False):
                self._resized[key] = resize_positions(self.pos_embed, h, w).detach()
        return self._resized[key]


def resize_positions(positions_1hwC: Tensor, h: int, w: int) -> Tensor:
    """Resize position embeddings to another grid, bilinearly (align_corners=False), as SETR's code does.

    Returns:
        (1, h, w, C).
    """
    map_1Chw = F.interpolate(positions_1hwC.permute(0, 3, 1, 2), (h, w), mode="bilinear", align_corners=False)
    return map_1Chw.permute(0, 2, 3, 1)
