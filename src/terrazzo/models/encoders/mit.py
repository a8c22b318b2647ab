"""Mix Transformer (MiT), SegFormer's hierarchical encoder.

Paper: "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", Xie et al. 2021,
arXiv 2105.15203, section 3.1. Where the paper and its released weights disagree, this follows the weights:
Mix-FFN expands by 4 in every stage, the sequence reduction is a strided convolution followed by a LayerNorm, and
LayerNorm eps is 1e-6 in blocks and after stages but 1e-5 after patch embedding and sequence reduction (1e-6 there too
in mmsegmentation's weights).

Deliberate departure: the released code fails where a stage's map is smaller than its reduction window (images under
29 pixels). Here such a map is padded with zeros to one window, so that any image of at least 1 x 1 works.

The alternatives that the paper compares with are options, off by default, for terrazzo.ablation: patches that do not
overlap, feed-forward layers without the convolution, learned position embeddings, and fewer stages for the decoder.

Shapes: B batch, H and W the map's own height and width, C channels, R reduction ratio, N = H W tokens,
M = (H / R)(W / R) reduced tokens. A feature map is one (B, H, W, C) tensor; convolutions see it as a channels-last
(B, C, H, W) view, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.fields import BelowOne, NotNegative
from terrazzo.models.activations import ACTIVATIONS
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.models.layers import (
    DropPath,
    ceil_div,
    init_conv_fan_out,
    init_transformer_linear,
    linear_ramp,
    recomputed,
)
from terrazzo.models.sizes import Depths, Sizes

__all__ = [
    "SIZES",
    "EfficientSelfAttention",
    "MixFFN",
    "MixTransformer",
    "OverlapPatchEmbed",
    "SequenceReduction",
    "is_standard",
]

SIZES = {
    "mit_b0": {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "mit_b1": {"embed_dims": (64, 128, 320, 512), "depths": (2, 2, 2, 2)},
    "mit_b2": {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 6, 3)},
    "mit_b3": {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 18, 3)},
    "mit_b4": {"embed_dims": (64, 128, 320, 512), "depths": (3, 8, 27, 3)},
    "mit_b5": {"embed_dims": (64, 128, 320, 512), "depths": (3, 6, 40, 3)},
}
"""The numbers that differ between B0 and B5 (appendix, table 6)."""


class OverlapPatchEmbed(nn.Module):
    """Overlapped patch merging (section 3.1): a strided convolution whose windows overlap, then LayerNorm.

    Args:
        in_channels: channels of the incoming map.
        embed_dim: channels of the tokens.
        patch_size: kernel size; the paper's are odd and larger than the stride.
        stride: downsampling factor.
        eps: of the LayerNorm.
        centred: pad by half the kernel on every side, as the paper does. Without it a kernel that equals the stride
            cuts plain patches that do not overlap, of which the last ones are filled up with zeros.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        patch_size: int,
        stride: int,
        eps: float = 1e-5,
        centred: bool = True,
    ) -> None:
        super().__init__()
        if not centred and patch_size != stride:
            raise ValueError(f"patches that are not centred have the size of their stride, {stride}, not {patch_size}")
        self.stride, self.centred = stride, centred
        padding = patch_size // 2 if centred else 0
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride, padding)
        self.norm = nn.LayerNorm(embed_dim, eps=eps)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, ceil(H / stride), ceil(W / stride), embed_dim); one more each way for an even, centred kernel."""
        if not self.centred:
            (_, H, W, _), rest = x_BHWC.shape, self.stride - 1
            if torch.compiler.is_exporting() or H % self.stride or W % self.stride:
                # No patch lies in the zeros alone, and torch.export follows free sizes through this sum.
                x_BHWC = F.pad(x_BHWC, (0, 0, 0, rest, 0, rest))
        x_BHWC = self.proj(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens_BHWC: Tensor = self.norm(x_BHWC)
        return tokens_BHWC


class SequenceReduction(nn.Module):
    """Shrinks keys and values R x R-fold (section 3.1, equation 2), then LayerNorm.

    The convolution of kernel R and stride R is written as the matrix product it is: its windows do not overlap, and on
    channels-last data a product is faster than a convolution routine. Rows and columns that do not fill a
    window are dropped, as in the released code. An export keeps the convolution: its sizes are not numbers yet, and it
    cannot take a map smaller than a window.

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
        self.recompute = True

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, M, C)."""
        if torch.compiler.is_exporting():
            return self.norm(self.conv(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2))  # type: ignore[no-any-return]
        # The windows are a copy of the whole map: they are cut again in the backward pass rather than kept.
        again = self.training and self.recompute
        reduced_BMC: Tensor = self.norm(recomputed(self._reduce, x_BHWC) if again else self._reduce(x_BHWC))
        return reduced_BMC

    def _reduce(self, x_BHWC: Tensor) -> Tensor:
        B, H, W, C = x_BHWC.shape
        R = self.ratio
        if H < R or W < R:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, max(R - W, 0), 0, max(R - H, 0)))
        h, w = max(H // R, 1), max(W // R, 1)
        windows = x_BHWC[:, : h * R, : w * R].reshape(B, h, R, w, R, C).transpose(2, 3)
        weight = self.conv.weight.permute(0, 2, 3, 1).reshape(C, R * R * C)
        return F.linear(windows.reshape(B, h * w, R * R * C), weight, self.conv.bias)


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
        convolution: without it this is a plain transformer's feed-forward layer, which mixes no positions.
        activation: a name of `ACTIVATIONS`.
    """

    def __init__(self, dim: int, hidden_dim: int, convolution: bool = True, activation: str = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim) if convolution else None
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.activation = ACTIVATIONS[activation]
        self.recompute = True

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return (B, H, W, C)."""
        hidden = self.fc1(x_BHWC)
        # The widest tensors of the encoder, and cheap to make: two of the three are made again rather than kept.
        return recomputed(self._mix, hidden) if self.training and self.recompute else self._mix(hidden)

    def _mix(self, hidden_BHWC: Tensor) -> Tensor:
        if self.dwconv is not None:
            hidden_BHWC = self.dwconv(hidden_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out_BHWC: Tensor = self.fc2(self.activation(hidden_BHWC))
        return out_BHWC


class Block(nn.Module):
    """Pre-norm transformer block: attention, then Mix-FFN, each on a residual branch with drop path."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        mlp_ratio: int,
        drop_path: float,
        sr_eps: float = 1e-5,
        ffn_convolution: bool = True,
        norm_eps: float = 1e-6,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = EfficientSelfAttention(dim, num_heads, sr_ratio, sr_eps)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.ffn = MixFFN(dim, dim * mlp_ratio, ffn_convolution, activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.drop_path(self.attn(self.norm1(x_BHWC)))
        x_BHWC = x_BHWC + self.drop_path(self.ffn(self.norm2(x_BHWC)))
        return x_BHWC


class Stage(nn.Module):
    """Patch embedding, blocks, and a LayerNorm; the output is both the emitted map and the next stage's input.

    Args:
        patch_embed: makes the tokens.
        blocks: what they go through.
        dim: channels.
        position_grid: rows and columns of a learned position embedding, which is added to the tokens and resized
            bilinearly for maps of other sizes; None for none.
        norm_eps: of the LayerNorm after the blocks; None for no LayerNorm.
    """

    def __init__(
        self,
        patch_embed: OverlapPatchEmbed,
        blocks: Sequence[Block],
        dim: int,
        position_grid: tuple[int, int] | None = None,
        norm_eps: float | None = 1e-6,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.pos_embed = None if position_grid is None else nn.Parameter(torch.empty(1, *position_grid, dim))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(dim, eps=norm_eps)
        self.recompute_blocks = False

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.patch_embed(x_BHWC)
        if self.pos_embed is not None:
            H, W = x_BHWC.shape[1:3]
            same = not torch.compiler.is_exporting() and self.pos_embed.shape[1:3] == (H, W)
            x_BHWC = x_BHWC + (self.pos_embed if same else resize_positions(self.pos_embed, H, W))
        for block in self.blocks:
            x_BHWC = recomputed(block, x_BHWC, draws=True) if self.recompute_blocks else block(x_BHWC)
        normed_BHWC: Tensor = self.norm(x_BHWC)
        return normed_BHWC


class MixTransformer(nn.Module):
    """Hierarchical encoder, of four stages in the paper (section 3.1).

    Args:
        embed_dims: channels of each stage; there are as many stages as there are numbers.
        depths: blocks in each stage.
        num_heads: attention heads of each stage.
        sr_ratios: reduction ratio R of each stage.
        mlp_ratios: expansion of Mix-FFN in each stage.
        patch_sizes: kernel of each patch embedding.
        patch_strides: stride of each patch embedding.
        centred_patches: see `OverlapPatchEmbed`; by default where the kernel is not the stride.
        drop_path_rate: drop path of the last block; the rates rise linearly from 0 over all blocks.
        norm_eps: of the LayerNorms in blocks and after stages.
        reduction_eps: of the LayerNorms after patch embedding and sequence reduction.
        activation: of Mix-FFN, a name of `ACTIVATIONS`.
        ffn_convolution: the depthwise convolution of Mix-FFN.
        positions: whether every stage learns an embedding of each position, as in PVT (arXiv 2102.12122).
        image_size: (H, W) of the images whose positions those are.
        emitted: the numbers of the stages whose maps are emitted, rising from 1; by default all. Those beyond the last
            one are not built.
        in_channels: bands of the images.
    """

    def __init__(
        self,
        embed_dims: Sizes,
        depths: Depths,
        num_heads: Sizes = (1, 2, 5, 8),
        sr_ratios: Sizes = (8, 4, 2, 1),
        mlp_ratios: Sizes = (4, 4, 4, 4),
        patch_sizes: Sizes = (7, 3, 3, 3),
        patch_strides: Sizes = (4, 2, 2, 2),
        centred_patches: bool | None = None,
        drop_path_rate: BelowOne = 0.1,
        norm_eps: NotNegative = 1e-6,
        reduction_eps: NotNegative = 1e-5,
        activation: str = "gelu",
        ffn_convolution: bool = True,
        positions: bool = False,
        image_size: tuple[int, int] = (512, 512),
        emitted: Sequence[int] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        per_stage = (depths, num_heads, sr_ratios, mlp_ratios, patch_sizes, patch_strides)
        if any(len(values) != len(embed_dims) for values in per_stage):
            raise ValueError(f"{len(embed_dims)} stages need as many depths, heads, ratios, patch sizes and strides")
        if unfit := [dim for dim, heads in zip(embed_dims, num_heads, strict=True) if dim % heads]:
            raise ValueError(f"{unfit[0]} channels cannot be shared by the heads of their stage")
        if activation not in ACTIVATIONS:
            raise ValueError(f"there is no activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        self.in_channels = in_channels
        self.emitted = tuple(range(1, len(embed_dims) + 1) if emitted is None else emitted)
        if not self.emitted or list(self.emitted) != sorted(set(self.emitted)):
            raise ValueError(f"emitted stages must rise, not be {self.emitted}")
        if self.emitted[0] < 1 or self.emitted[-1] > len(embed_dims):
            raise ValueError(f"emitted stages must lie between 1 and {len(embed_dims)}, not be {self.emitted}")
        block = partial(
            Block, sr_eps=reduction_eps, ffn_convolution=ffn_convolution, norm_eps=norm_eps, activation=activation
        )
        rates = iter(linear_ramp(drop_path_rate, sum(depths)))
        stages, strides, stride = [], [], 1
        for i, dim in enumerate(embed_dims[: self.emitted[-1]]):
            stride *= patch_strides[i]
            strides.append(stride)
            grid = (ceil_div(image_size[0], stride), ceil_div(image_size[1], stride)) if positions else None
            size, step = patch_sizes[i], patch_strides[i]
            centred = size != step if centred_patches is None else centred_patches
            width = embed_dims[i - 1] if i else in_channels
            patch_embed = OverlapPatchEmbed(width, dim, size, step, reduction_eps, centred)
            blocks = [block(dim, num_heads[i], sr_ratios[i], mlp_ratios[i], next(rates)) for _ in range(depths[i])]
            stages.append(Stage(patch_embed, blocks, dim, grid, norm_eps))
        self.channels = tuple(embed_dims[number - 1] for number in self.emitted)
        self.strides = tuple(strides[number - 1] for number in self.emitted)
        self.stages = nn.ModuleList(stages)
        self.apply(init_weights)

    def recompute_blocks(self) -> None:
        """Turn on activation checkpointing: keep each block's input, and recompute the rest in the backward pass."""
        self.apply(recompute_whole_blocks)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Return the maps: of the paper's, the first is (B, C, ceil(H / 4), ceil(W / 4)), each half the one before."""
        x_BHWC = images_B3HW.permute(0, 2, 3, 1)
        features = []
        for number, stage in enumerate(self.stages, start=1):
            x_BHWC = stage(x_BHWC)
            if number in self.emitted:
                features.append(x_BHWC.permute(0, 3, 1, 2))
        return features


def init_weights(module: nn.Module) -> None:
    """Give a module's own parameters their random values, as the released code does; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        init_transformer_linear(module)
    elif isinstance(module, nn.Conv2d):
        init_conv_fan_out(module)
    elif isinstance(module, Stage) and module.pos_embed is not None:
        nn.init.trunc_normal_(module.pos_embed, std=0.02)


def recompute_whole_blocks(module: nn.Module) -> None:
    """Let stages recompute whole blocks in the backward pass, and not parts of them too; for `nn.Module.apply`."""
    if isinstance(module, Stage):
        module.recompute_blocks = True
    elif isinstance(module, MixFFN | SequenceReduction):
        module.recompute = False


def is_standard(encoder: MixTransformer) -> bool:
    """Whether graphs/ and engines/fused_segformer.py can compute an encoder: it has the paper's layers, in any sizes.

    Those are centred patches, Mix-FFN with convolution and exact GELU, no learned positions, a map from every stage.
    """
    return len(encoder.emitted) == len(encoder.stages) and all(
        stage.patch_embed.centred
        and stage.pos_embed is None
        and all(m.dwconv is not None and m.activation is F.gelu for m in stage.modules() if isinstance(m, MixFFN))
        for stage in encoder.stages
        if isinstance(stage, Stage)
    )
