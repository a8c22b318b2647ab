"""SETR exactly as the paper and its released code compute it, and mmsegmentation's decoders, to hold ours against.

Each function takes one of our modules for its weights and norms, and does with them what the other code does, step by
step. What remains is the resize of the logits to the image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maps = Sequence[Tensor]


class LiteralSETR(nn.Module):
    """A whole network with the weights of ours: images in, main logits out. It has no auxiliary heads.

    Args:
        segmenter: ours; its auxiliary heads go.
        decoder: ``naive``, ``pup`` or ``mla``.
    """

    def __init__(self, segmenter: Any, decoder: str) -> None:
        super().__init__()
        self.segmenter, self.decoder = segmenter, decoder
        segmenter.drop_auxiliary()

    def forward(self, images_B3HW: Tensor) -> Tensor:
        maps = encoded(self.segmenter.encoder, images_B3HW)
        return all_logits(self.segmenter, maps, self.decoder, "official")[0]


def encoded(vit: Any, images_B3HW: Tensor) -> list[Tensor]:
    """The encoder of section 3.2, for images of the size that its position embeddings are made for."""
    patches, grid = vit.patch_embed.proj(images_B3HW), vit.pos_embed.shape[1:3]
    assert patches.shape[2:] == grid, "the literal code resizes no position embeddings"
    x = patches.flatten(2).transpose(1, 2)
    positions = vit.pos_embed.flatten(1, 2)
    if vit.class_token_in_blocks:
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)
        positions = torch.cat([vit.cls_pos_embed, positions], dim=1)
    x = x + positions
    maps = []
    for number, block in enumerate(vit.blocks, start=1):
        x = x + attended(block.attn, block.norm1(x))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        if number in vit.layers:
            without = x[:, 1:] if vit.class_token_in_blocks else x
            maps.append(without.transpose(1, 2).reshape(len(x), -1, *grid))
    return maps


def attended(attention: Any, x_BTC: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for each head, and the projection (SETR, section 3.2)."""
    B, T, C = x_BTC.shape
    d = C // attention.num_heads
    q, k, v = attention.qkv(x_BTC).reshape(B, T, 3, attention.num_heads, d).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q @ k.transpose(-2, -1)) * d**-0.5).softmax(dim=-1)
    return attention.proj((weights @ v).transpose(1, 2).reshape(B, T, C))


def resized(x_BChw: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    size = factor * x_BChw.shape[2], factor * x_BChw.shape[3]
    return F.interpolate(x_BChw, size, mode="bilinear", align_corners=align_corners)


def convolved(x_BChw: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    weight = layer.weight if layer.weight.ndim == 4 else layer.weight[:, :, None, None]
    return F.conv2d(x_BChw, weight, layer.bias, padding=weight.shape[-1] // 2)


def tokens_normed(x_BChw: Tensor, norm: nn.LayerNorm) -> Tensor:
    return norm(x_BChw.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x_BChw.shape[2:]).contiguous()


def naive(decoder: Any, features: Maps, code: str) -> Tensor:
    x = tokens_normed(features[decoder.level], decoder.norm)
    x = F.relu(decoder.proj_norm(convolved(x, decoder.proj)))
    if code == "official":
        return convolved(x, decoder.classifier)
    return convolved(resized(x, 4), decoder.classifier)


def pup(decoder: Any, features: Maps, code: str) -> Tensor:
    x = tokens_normed(features[decoder.level], decoder.norm)
    for number, stage in enumerate(decoder.stages):
        x = F.relu(stage.norm(convolved(x, stage.conv)))
        if code == "mmseg" or number < 3:
            x = resized(x, 2)
    return convolved(x, decoder.classifier)


def pup_auxiliary(head: Any, features: Maps) -> Tensor:
    """Official: one convolution. mmsegmentation: two; with 1 x 1 kernels also the heads of its Naive."""
    x = tokens_normed(features[head.level], head.norm)
    for stage in head.stages:
        x = resized(F.relu(stage.norm(convolved(x, stage.conv))), 4)
    return convolved(x, head.classifier)


def aggregated(decoder: Any, features: Maps) -> list[Tensor]:
    """The maps p2, p3, p4, p5 of layers 6, 12, 18, 24."""
    parts = decoder.aggregation
    p2, p3, p4, p5 = (
        F.relu(project.norm(convolved(tokens_normed(x, norm), project.conv)))
        for x, norm, project in zip(features, parts.norms, parts.projections, strict=True)
    )
    s5 = p5
    s4 = s5 + p4
    s3 = s4 + p3
    s2 = s3 + p2
    return [
        F.relu(output.norm(convolved(s, output.conv)))
        for s, output in zip([s2, s3, s4, s5], parts.outputs, strict=True)
    ]


def mla(decoder: Any, maps: Maps, code: str) -> Tensor:
    streams = []
    for x, stream in zip(maps, decoder.streams, strict=True):
        for layer in stream:
            x = F.relu(layer.norm(convolved(x, layer.conv)))
        streams.append(resized(x, 4, align_corners=code == "official"))
    return convolved(torch.cat(streams, dim=1), decoder.classifier)


def mla_auxiliary(head: Any, maps: Maps) -> Tensor:
    return convolved(maps[head.level], head.classifier)


def all_logits(segmenter: Any, features: Maps, decoder: str, code: str) -> list[Tensor]:
    """Main and auxiliary logits, each at its own size."""
    if decoder == "mla":
        maps = aggregated(segmenter.decoder, features)
        return [mla(segmenter.decoder, maps, code), *(mla_auxiliary(head, maps) for head in segmenter.auxiliary)]
    main = {"naive": naive, "pup": pup}[decoder](segmenter.decoder, features, code)
    if (decoder, code) == ("naive", "official"):
        return [main, *(naive(head, features, code) for head in segmenter.auxiliary)]
    return [main, *(pup_auxiliary(head, features) for head in segmenter.auxiliary)]
