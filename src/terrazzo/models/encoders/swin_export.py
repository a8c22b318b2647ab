"""The maps of transformers' Swin backbones in a form that torch.export can trace with free image sizes.

transformers pads each stage's map to whole windows, by an amount that depends on the rounded size of the stage before;
a trace would have to follow all these roundings. Here the image is extended once, to whole cells of the coarsest stage,
so that the sides of all maps are multiples of the same two numbers. Cells outside of the image's own map are set to
zero where transformers has its padding, and hidden from attention where transformers has no cells. The shift of every
second layer is a padding in front, in place of a roll: the windows that a roll wraps around are masked anyway.

The values of the image's cells are those of transformers' own forward pass, to rounding. Used in exports only, since
some windows are computed in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.models.layers import ceil_div

__all__ = ["SWIN_FAMILIES", "swin_maps"]

SWIN_FAMILIES = ("swin", "swinv2", "maskformer-swin")
HIDDEN = -100.0
"""What transformers adds to the attention scores of cells of another region."""


def swin_maps(backbone: Any, images_BCHW: Tensor) -> list[Tensor]:
    """Return a backbone's feature maps; cells beyond ceil(H / stride) x ceil(W / stride) hold no meaning.

    Args:
        backbone: transformers' SwinBackbone, Swinv2Backbone or MaskFormerSwinBackbone.
        images_BCHW: images of any size.
    """
    family = backbone.config.model_type
    inner = backbone.swin if family == "swin" else backbone.model if family == "maskformer-swin" else backbone
    norm_first = family != "swinv2"
    stages = inner.encoder.layers
    height, width = images_BCHW.shape[2:]
    patch = int(inner.embeddings.patch_size)
    coarsest = patch * 2 ** (len(stages) - 1)
    whole = [ceil_div(side, coarsest) * coarsest for side in (height, width)]
    images_BHWC = _cells(images_BCHW.permute(0, 2, 3, 1), (0, 0), whole, (height, width))
    x_BChw = inner.embeddings.patch_embeddings.projection(images_BHWC.permute(0, 3, 1, 2))
    x_BhwC = inner.embeddings.norm(x_BChw.permute(0, 2, 3, 1))
    maps = []
    for number, stage in enumerate(stages):
        stride = patch * 2**number
        own = (ceil_div(height, stride), ceil_div(width, stride))
        for layer in stage.blocks:
            x_BhwC = _layer(layer, x_BhwC, own, norm_first)
        name = f"stage{number + 1}"
        if name in backbone.out_features:
            maps.append(_normed(backbone, number, name, x_BhwC).permute(0, 3, 1, 2))
        if stage.downsample is not None:
            x_BhwC = _merged(stage.downsample, _cells(x_BhwC, (0, 0), x_BhwC.shape[1:3], own), norm_first)
    return maps


def _normed(backbone: Any, number: int, name: str, x_BhwC: Tensor) -> Tensor:
    norms = getattr(backbone, "hidden_states_norms", None)
    if norms is None:
        return x_BhwC
    norm = norms[name] if isinstance(norms, nn.ModuleDict) else norms[number]
    normed: Tensor = norm(x_BhwC)
    return normed


def _layer(layer: Any, x_BhwC: Tensor, own: tuple[int, int], norm_first: bool) -> Tensor:
    """Window attention and MLP, each with a residual; Swin v2 has its norms behind them."""
    if norm_first:
        x_BhwC = x_BhwC + _attention(layer, layer.layernorm_before(x_BhwC), own)
        return x_BhwC + _mlp(layer, layer.layernorm_after(x_BhwC))
    x_BhwC = x_BhwC + layer.layernorm_before(_attention(layer, x_BhwC, own))
    normed_BhwC: Tensor = layer.layernorm_after(_mlp(layer, x_BhwC))
    return x_BhwC + normed_BhwC


def _mlp(layer: Any, x_BhwC: Tensor) -> Tensor:
    mixed: Tensor = layer.mlp(x_BhwC) if hasattr(layer, "mlp") else layer.output(layer.intermediate(x_BhwC))
    return mixed


def _attention(layer: Any, x_BhwC: Tensor, own: tuple[int, int]) -> Tensor:
    window, shift = int(layer.window_size), int(layer.shift_size)
    B, h, w, C = x_BhwC.shape
    before = window - shift if shift else 0
    # At least two, since a trace treats a side of 1 as a case of its own.
    at_least: Any = torch.sym_max
    counts = [at_least(ceil_div(side + before, window), 2) for side in (h, w)]
    sides = [count * window for count in counts]
    x_BhwC = _cells(x_BhwC, (-before, -before), sides, own)
    windows = x_BhwC.view(B, counts[0], window, counts[1], window, C).transpose(2, 3).reshape(-1, window * window, C)
    mask = _mask(counts, window, before, own, x_BhwC) if shift else None
    windows = layer.attention(windows, mask)[0]
    x_BhwC = windows.view(B, counts[0], counts[1], window, window, C).transpose(2, 3)
    return _cells(x_BhwC.reshape(B, sides[0], sides[1], C), (before, before), (h, w), sides)


def _mask(counts: Sequence[int], window: int, before: int, own: tuple[int, int], like: Tensor) -> Tensor:
    """Return what is added to the scores, (windows, queries, keys): keys that transformers' padded map lacks."""
    exists = []
    for count, side in zip(counts, own, strict=True):
        cells = torch.arange(count * window, device=like.device) - before
        exists.append(((cells >= 0) & (cells < ceil_div(side, window) * window)).view(count, window))
    rows, columns = exists
    both = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, 1, window * window)
    mask = torch.where(both, 0.0, HIDDEN).to(like.dtype)
    return mask.expand(-1, window * window, -1)


def _merged(merging: Any, x_BhwC: Tensor, norm_first: bool) -> Tensor:
    x = torch.cat([x_BhwC[:, row::2, column::2] for column in range(2) for row in range(2)], dim=-1)
    merged: Tensor = merging.reduction(merging.norm(x)) if norm_first else merging.norm(merging.reduction(x))
    return merged


def _cells(x_BhwC: Tensor, starts: Sequence[int], lengths: Sequence[int], own: Sequence[int]) -> Tensor:
    """Return a rectangle of a map, which may reach over its edges; cells outside of the first `own` are zeros.

    It is gathered: whether a slice or a padding changes anything depends on the size, and a trace would fix the answer.
    """
    for axis, start, length, side in zip((1, 2), starts, lengths, own, strict=True):
        cells = torch.arange(length, device=x_BhwC.device) + start
        inside = (cells >= 0) & (cells < side)
        x_BhwC = x_BhwC.index_select(axis, cells.clamp(0, x_BhwC.shape[axis] - 1))
        x_BhwC = x_BhwC * inside.view(-1, *[1] * (3 - axis)).to(x_BhwC.dtype)
    return x_BhwC
