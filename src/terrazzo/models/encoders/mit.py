"""Mix Transformer (MiT), SegFormer's hierarchical encoder.

Paper: "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", Xie et al. 2021,
arXiv 2105.15203, section 3.1. Where the paper and its released weights disagree, this follows the weights:
Mix-FFN expands by 4 in every stage, the sequence reduction is a strided convolution followed by a LayerNorm, and
LayerNorm eps is 1e-6 in blocks and after stages but 1e-5 after patch embedding and sequence reduction (1e-6 there too
in mmsegmentation's weights).

Deliberate departure: the released code fails where a stage's map is smaller than its reduction window (images under
29 pixels). Here such a map is padded with zeros to one window, so that any image of at least 1 x 1 works.

Shapes: B batch, H and W the map's own height and width, C channels, R reduction ratio, N = H W tokens,
M = (H / R)(W / R) reduced tokens. A feature map is one (B, H, W, C) tensor; convolutions see it as a channels-last
(B, C, H, W) view, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.layers import DropPath, init_conv_fan_out, init_transformer_linear, linear_ramp

__all__ = ["EfficientSelfAttention", "MixFFN", "MixTransformer", "OverlapPatchEmbed", "SequenceReduction"]


class OverlapPatchEmbed(nn.Module):
    """Overlapped patch merging (section 3.1): a strided convolution whose windows overlap, then LayerNorm.

    Args:
        in_channels: channels of the incoming map.
        embed_dim: channels of the tokens.
        patch_size: kernel size, odd and larger than the stride; padding is half of it.
        stride: downsampling factor.
        eps: of the LayerNorm.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int, stride: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride, padding=patch_size // 2)
        self.norm = nn.LayerNorm(embed_dim, eps=eps)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, ceil(H / stride), ceil(W / stride), embed_dim)."""
        x_BHWC = self.proj(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens_BHWC: Tensor = self.norm(x_BHWC)
        return tokens_BHWC


class SequenceReduction(nn.Module):
    """Shrinks keys and values R x R-fold (section 3.1, equation 2), then LayerNorm.

    The convolution of kernel R and stride R is written as the matrix product it is: its windows do not overlap, and on
    channels-last data a product is faster than a convolution routine. Rows and columns that do not fill a
    window are dropped, as in the released code. An export keeps the convolution: its sizes are not numbers yet, and it
    takes no map smaller than a window.

    Args:
        dim: channels.
        ratio: R, side of the window that becomes one token.
        eps: of the LayerNorm.
    """

    def __init__(self, dim: int, ratio: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, ratio, ratio)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.ratio = ratio

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, M, C)."""
        if torch.compiler.is_exporting():
            return self.norm(self.conv(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2))  # type: ignore[no-any-return]
        B, H, W, C = x_BHWC.shape
        R = self.ratio
        if H < R or W < R:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, max(R - W, 0), 0, max(R - H, 0)))
        h, w = max(H // R, 1), max(W // R, 1)
        windows = x_BHWC[:, : h * R, : w * R].reshape(B, h, R, w, R, C).transpose(2, 3)
        weight = self.conv.weight.permute(0, 2, 3, 1).reshape(C, R * R * C)
        reduced_BMC: Tensor = self.norm(F.linear(windows.reshape(B, h * w, R * R * C), weight, self.conv.bias))
        return reduced_BMC


class EfficientSelfAttention(nn.Module):
    """Self-attention whose keys and values come from a sequence shortened R x R-fold (section 3.1).

    Args:
        dim: channels C.
        num_heads: attention heads; divides C.
        sr_ratio: R; at 1 there is neither reduction nor its norm.
        sr_eps: of the LayerNorm after the reduction.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, sr_eps: float = 1e-5) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr = SequenceReduction(dim, sr_ratio, sr_eps) if sr_ratio > 1 else None

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, H, W, C)."""
        B, H, W, C = x_BHWC.shape
        heads, head_dim = self.num_heads, C // self.num_heads
        source_BMC = x_BHWC.reshape(B, H * W, C) if self.sr is None else self.sr(x_BHWC)
        q = self.q(x_BHWC).reshape(B, H * W, heads, head_dim).transpose(1, 2)
        k, v = self.kv(source_BMC).reshape(B, -1, 2, heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out_BHWC: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, H, W, C))
        return out_BHWC


class MixFFN(nn.Module):
    """Feed-forward layer with a depthwise 3 x 3 convolution that tells tokens where they are (section 3.1, equation 3).

    The zero padding of the convolution is what leaks position, so no positional encoding is needed and the image size
    at test time is free.

    Args:
        dim: channels C.
        hidden_dim: channels between the two linear layers.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, H, W, C)."""
        hidden = self.dwconv(self.fc1(x_BHWC).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out_BHWC: Tensor = self.fc2(F.gelu(hidden))
        return out_BHWC


class Block(nn.Module):
    """Pre-norm transformer block: attention, then Mix-FFN, each on a residual branch with drop path."""

    def __init__(
        self, dim: int, num_heads: int, sr_ratio: int, mlp_ratio: int, drop_path: float, sr_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = EfficientSelfAttention(dim, num_heads, sr_ratio, sr_eps)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = MixFFN(dim, dim * mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.drop_path(self.attn(self.norm1(x_BHWC)))
        x_BHWC = x_BHWC + self.drop_path(self.ffn(self.norm2(x_BHWC)))
        return x_BHWC


class Stage(nn.Module):
    """Patch embedding, blocks, and the LayerNorm whose output is both the emitted map and the next stage's input."""

    def __init__(self, patch_embed: OverlapPatchEmbed, blocks: Sequence[Block], dim: int) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.patch_embed(x_BHWC)
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        normed_BHWC: Tensor = self.norm(x_BHWC)
        return normed_BHWC


class MixTransformer(nn.Module):
    """Hierarchical encoder of four stages (section 3.1).

    Args:
        embed_dims: channels of each stage.
        depths: blocks in each stage.
        num_heads: attention heads of each stage.
        sr_ratios: reduction ratio R of each stage.
        mlp_ratio: expansion of Mix-FFN.
        patch_sizes: kernel of each patch embedding.
        patch_strides: stride of each patch embedding.
        drop_path_rate: drop path of the last block; the rates rise linearly from 0 over all blocks.
        reduction_eps: of the LayerNorms after patch embedding and sequence reduction.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        sr_ratios: Sequence[int],
        mlp_ratio: int,
        patch_sizes: Sequence[int],
        patch_strides: Sequence[int],
        drop_path_rate: float,
        reduction_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.channels = tuple(embed_dims)
        strides, stride = [], 1
        rates = iter(linear_ramp(drop_path_rate, sum(depths)))
        stages = []
        for i, dim in enumerate(embed_dims):
            stride *= patch_strides[i]
            strides.append(stride)
            in_channels = 3 if i == 0 else embed_dims[i - 1]
            patch_embed = OverlapPatchEmbed(in_channels, dim, patch_sizes[i], patch_strides[i], reduction_eps)
            blocks = [
                Block(dim, num_heads[i], sr_ratios[i], mlp_ratio, next(rates), reduction_eps) for _ in range(depths[i])
            ]
            stages.append(Stage(patch_embed, blocks, dim))
        self.strides = tuple(strides)
        self.stages = nn.ModuleList(stages)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init_transformer_linear(module)
        elif isinstance(module, nn.Conv2d):
            init_conv_fan_out(module)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Return the four maps, the first (B, embed_dims[0], ceil(H / 4), ceil(W / 4)), each half the one before."""
        x_BHWC = images_B3HW.permute(0, 2, 3, 1)
        features = []
        for stage in self.stages:
            x_BHWC = stage(x_BHWC)
            features.append(x_BHWC.permute(0, 3, 1, 2))
        return features
