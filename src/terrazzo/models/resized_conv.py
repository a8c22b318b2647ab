"""A 3 x 3 convolution of a bilinearly resized map, computed without building the resized map.

SETR-PUP and SETR-MLA enlarge a map and convolve the result. Both steps are linear. A 3 x 3 convolution is a sum over
its nine taps of a 1 x 1 convolution followed by a shift. The 1 x 1 convolution mixes channels alone and so commutes
with resizing, which mixes places alone:

    conv(U x)  =  sum over taps (i, j) of  S_ij U (W_ij x)  =  sum_i  S_i U_h  sum_j  (W_ij x)  (S_j U_w)'

U resizes, along the height by U_h and along the width by U_w; S shifts by -1, 0 or 1 and lets in the convolution's
zeros; W_ij is the matrix of a tap. So the nine matrices meet the small map, and the S U are small fixed matrices, one
per axis and shift. Enlarging f-fold, the costly products of channels fall by f squared. Outputs and gradients are those
of the literal computation to rounding.

It is done tile by tile of the output, so that everything between the small map and the result stays in the processor's
cache. What follows (BatchNorm in evaluation, ReLU, a classifier) can be applied to each tile, and then the full-size
map never exists either.

Shapes: B batch, C channels in, K channels out, h and w the size before resizing, H and W after.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.models.layers import interpolation_matrix

__all__ = ["conv_of_resized"]

TILE = 24
"""Source rows and columns behind a tile of the output, at most. Small tiles stay in the cache; large ones do less
twice, for the row or column around a tile's source is its neighbours' too."""


def conv_of_resized(
    x_BChw: Tensor,
    weight_KC33: Tensor,
    bias_K: Tensor,
    factor: int,
    align_corners: bool,
    then: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Convolve (3 x 3, padding 1) a map that is first enlarged bilinearly.

    On a CPU this works tile by tile, as the module says. Elsewhere, and where the computation is being traced for a
    compiler or an export, it is done literally: there one large convolution beats many small products.

    Args:
        x_BChw: the small map.
        weight_KC33: the convolution's weight.
        bias_K: the convolution's bias.
        factor: H / h and W / w.
        align_corners: which of the two bilinear resizings.
        then: applied to each (B, rows, columns, K) piece of the result; it must act on each place alone.

    Returns:
        (B, K, H, W), channels-last; K is what `then` makes of it.
    """
    B, C, h, w = x_BChw.shape
    K = len(bias_K)
    H, W = factor * h, factor * w
    if x_BChw.device.type != "cpu" or torch.compiler.is_compiling():
        large = F.interpolate(x_BChw, (H, W), mode="bilinear", align_corners=align_corners)
        out_BHWK = F.conv2d(large, weight_KC33, bias_K, padding=1).permute(0, 2, 3, 1)
        return (out_BHWK if then is None else then(out_BHWK)).permute(0, 3, 1, 2)

    # Output channels by column tap, row tap, channel: the axis that a product below sums over comes first.
    taps = weight_KC33.permute(3, 2, 0, 1).reshape(9 * K, C)
    down, across = _shifted_resizing(h, H, align_corners, x_BChw), _shifted_resizing(w, W, align_corners, x_BChw)
    x_BhwC = x_BChw.permute(0, 2, 3, 1)
    strips = []
    for rows, source_rows in _tiles(h, H, align_corners):
        R, i = rows.stop - rows.start, source_rows.stop - source_rows.start
        down_R3i = down[:, rows, source_rows].transpose(0, 1).reshape(R, 3 * i)
        pieces = []
        for columns, source_columns in _tiles(w, W, align_corners):
            S, j = columns.stop - columns.start, source_columns.stop - source_columns.start
            across_Sj3 = across[:, columns, source_columns].permute(1, 2, 0).reshape(S, j * 3)
            source_PC = x_BhwC[:, source_rows, source_columns].reshape(B * i * j, C)
            tap_maps = F.linear(source_PC, taps).view(B, i, j * 3, 3 * K)
            wide = (across_Sj3 @ tap_maps).view(B, i, S, 3, K).permute(0, 3, 1, 2, 4).reshape(B, 3 * i, S * K)
            piece_BRSK = (down_R3i @ wide).view(B, R, S, K)
            piece_BRSK = piece_BRSK + bias_K.to(piece_BRSK.dtype)
            pieces.append(piece_BRSK if then is None else then(piece_BRSK))
        strips.append(torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0])
    return (torch.cat(strips, dim=1) if len(strips) > 1 else strips[0]).permute(0, 3, 1, 2)


def _shifted_resizing(source: int, target: int, align_corners: bool, like: Tensor) -> Tensor:
    """Return (3, target, source) matrices that resize along one axis, then shift by -1, 0, 1 with zeros coming in."""
    matrix = interpolation_matrix(source, target, like, align_corners)
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.stack([padded[shift : shift + target] for shift in range(3)])


def _tiles(source: int, target: int, align_corners: bool) -> list[tuple[slice, slice]]:
    """Cut one axis of the output; each piece comes with the part of the source that it is made of."""
    count = math.ceil(source / TILE)
    tiles = []
    for number in range(count):
        start, stop = target * number // count, target * (number + 1) // count
        first = _source_position(start - 1, source, target, align_corners)
        last = _source_position(stop, source, target, align_corners)
        tiles.append((slice(start, stop), slice(int(first), min(int(last) + 2, source))))
    return tiles


def _source_position(place: int, source: int, target: int, align_corners: bool) -> float:
    """Where a place of the resized axis lies on the source's axis, not below 0."""
    if align_corners:
        return max(place * (source - 1) / max(target - 1, 1), 0.0)
    return max((place + 0.5) * source / target - 0.5, 0.0)
