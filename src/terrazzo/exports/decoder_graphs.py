"""The decoders as ONNX graphs, with BatchNorm folded in. What they are is said in `terrazzo.models.decoders`.

Shapes: as there; T the tokens of all images of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrazzo.exports.encoder_graphs import Level
from terrazzo.exports.graph import Graph
from terrazzo.models.decoders.all_mlp import AllMLPDecoder

__all__ = ["all_mlp"]


def all_mlp(graph: Graph, decoder: AllMLPDecoder, levels: Sequence[Level]) -> str:
    """Add SegFormer's decoder, composed once, and return its (B, K, h, w) logits.

    Bilinear resizing is a product with a matrix along each axis. The levels are widened one by one, and then one
    product makes all of them taller and adds them up, so that no map of full size is written but their sum; the finest
    level's share is added onto it by its own linear layer.
    """
    scale, shift = _folded(decoder.norm)
    weights, bias = decoder.composed()
    finest, *coarser = levels
    C = len(bias)
    batch, height, width = (graph.node("Slice", finest.sizes_BHW, *_slice(graph, i)) for i in range(3))
    widened, to_rows = [], []
    for number, (level, weight) in enumerate(zip(coarser, weights[1:], strict=True), 1):
        # The rows of a resizing matrix sum to 1, so a bias may be added before it: the least work on the coarsest.
        is_last = number == len(coarser)
        projected = graph.linear(level.x_TC, scale[:, None] * weight, scale * bias + shift if is_last else None)
        h, w = (graph.node("Slice", level.sizes_BHW, *_slice(graph, i)) for i in (1, 2))
        projected = graph.reshape(projected, level.sizes_BHW, C)
        wide = graph.node("MatMul", graph.interpolation_matrix(w, width), projected)
        widened.append(graph.node("Reshape", wide, graph.concat(batch, h, -1)))
        to_rows.append(graph.interpolation_matrix(h, height))
    sum_TC = graph.node("MatMul", graph.node("Concat", *to_rows, axis=1), graph.node("Concat", *widened, axis=1))
    sum_TC = graph.reshape(sum_TC, -1, C)
    hidden_TC = graph.node(
        "Relu", graph.node("Gemm", finest.x_TC, graph.weight(scale[:, None] * weights[0]), sum_TC, transB=1)
    )
    logits_TK = graph.linear(hidden_TC, decoder.classifier.weight, decoder.classifier.bias)
    return graph.map(logits_TK, finest.sizes_BHW, decoder.num_classes)


def _slice(graph: Graph, place: int) -> tuple[str, str]:
    return graph.integers(place), graph.integers(place + 1)


def _folded(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a BatchNorm multiplies with and what it then adds."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale.detach(), (norm.bias - norm.running_mean * scale).detach()
