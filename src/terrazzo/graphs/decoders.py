"""The papers' decoders as ONNX graphs, with BatchNorm folded in. `terrazzo.models.decoders` defines them.

Shapes are as there; T counts the tokens of all images of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from terrazzo.graphs.builder import Graph
from terrazzo.graphs.encoders import Level
from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.conv_mlp import ConvMLPDecoder
from terrazzo.models.decoders.mla import MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder, UpsamplingStage
from terrazzo.models.layers import ConvNormReLU, fold_norm

__all__ = ["DECODER_GRAPHS", "all_mlp", "conv_mlp", "mla", "naive", "pup"]


def all_mlp(graph: Graph, decoder: AllMLPDecoder, levels: Sequence[Level]) -> str:
    """Add SegFormer's decoder, composed once, and return its (B, K, h, w) logits."""
    scale, shift = fold_norm(decoder.norm)
    weights, bias = decoder.composed()
    weights = [scale[:, None] * weight for weight in weights]
    return _fused_and_classified(graph, levels, weights, scale * bias + shift, decoder.classifier)


def conv_mlp(graph: Graph, decoder: ConvMLPDecoder, levels: Sequence[Level]) -> str:
    """Add the decoder of mmsegmentation's SegFormer and return its (B, K, h, w) logits."""
    scale, shift = fold_norm(decoder.norm)
    blocks = [scale[:, None] * block for block in decoder.fuse.weight.chunk(len(levels), dim=1)]
    hidden = []
    for level, projection, norm in zip(levels, decoder.projections, decoder.projection_norms, strict=True):
        assert isinstance(projection, nn.Linear) and isinstance(norm, nn.BatchNorm2d)
        level_scale, level_shift = fold_norm(norm)
        x_TC = graph.node("Relu", graph.linear(level.x_TC, level_scale[:, None] * projection.weight, level_shift))
        hidden.append(Level(x_TC, projection.out_features, level.sizes_BHW))
    return _fused_and_classified(graph, hidden, blocks, shift, decoder.classifier)


def naive(graph: Graph, decoder: NaiveDecoder, levels: Sequence[Level]) -> str:
    """Add SETR's Naive decoder and return its (B, K, h, w) logits."""
    level = levels[decoder.level]
    scale, shift = fold_norm(decoder.proj_norm)
    x_TC = graph.layer_norm(level.x_TC, decoder.norm)
    x_TC = graph.linear(x_TC, scale[:, None] * decoder.proj.weight, scale * decoder.proj.bias + shift)
    logits = _classified(graph, graph.node("Relu", x_TC), decoder.classifier, level)
    return logits if decoder.resize == 1 else _enlarged(graph, logits, decoder.resize)


def pup(graph: Graph, decoder: PUPDecoder, levels: Sequence[Level]) -> str:
    """Add SETR's PUP decoder and return its (B, K, h, w) logits."""
    level = levels[decoder.level]
    x_BChw = graph.map(graph.layer_norm(level.x_TC, decoder.norm), level.sizes_BHW, level.channels)
    for stage in decoder.stages:
        assert isinstance(stage, UpsamplingStage)
        if stage.factor > 1:
            x_BChw = _enlarged(graph, x_BChw, stage.factor)
        x_BChw = _conv_norm_relu(graph, x_BChw, stage.conv, stage.norm)
    logits = graph.convolution_1x1(x_BChw, decoder.classifier.weight, decoder.classifier.bias)
    return logits if decoder.resize == 1 else _enlarged(graph, logits, decoder.resize)


def mla(graph: Graph, decoder: MLADecoder, levels: Sequence[Level]) -> str:
    """Add SETR's MLA decoder and return its (B, K, h, w) logits."""
    aggregation, total, streams = decoder.aggregation, None, []
    parts = zip(levels, aggregation.norms, aggregation.projections, aggregation.outputs, decoder.streams, strict=True)
    for level, norm, project, output, stream in reversed(list(parts)):
        assert isinstance(norm, nn.LayerNorm) and isinstance(project, ConvNormReLU)
        normed = graph.map(graph.layer_norm(level.x_TC, norm), level.sizes_BHW, level.channels)
        projected = _conv_norm_relu(graph, normed, project.conv, project.norm)
        total = projected if total is None else graph.node("Add", total, projected)
        x_BChw = total
        assert isinstance(stream, nn.Sequential)
        for layer in (output, *stream):
            assert isinstance(layer, ConvNormReLU)
            x_BChw = _conv_norm_relu(graph, x_BChw, layer.conv, layer.norm)
        streams.append(x_BChw)
    x_BChw, conv = graph.node("Concat", *reversed(streams), axis=1), decoder.classifier
    if conv.kernel_size == (1, 1):  # which commutes with resizing
        logits = graph.convolution(x_BChw, conv.weight, conv.bias, conv)
        return _enlarged(graph, logits, 4, decoder.align_corners)
    return graph.convolution(_enlarged(graph, x_BChw, 4, decoder.align_corners), conv.weight, conv.bias, conv)


DECODER_GRAPHS: dict[type[nn.Module], Callable[[Graph, Any, Sequence[Level]], str]] = {
    AllMLPDecoder: all_mlp,
    ConvMLPDecoder: conv_mlp,
    NaiveDecoder: naive,
    PUPDecoder: pup,
    MLADecoder: mla,
}


def _fused_and_classified(
    graph: Graph, levels: Sequence[Level], weights: Sequence[Tensor], bias: Tensor, classifier: nn.Linear
) -> str:
    """Return (B, K, h, w) logits of ReLU(bias + the levels, each times its weights and resized to the finest).

    Bilinear weights sum to 1, so the bias may be added before the resize: the least work on the coarsest level.
    """
    biases = [None] * (len(levels) - 1) + [bias]
    if graph.target == "openvino":
        return _by_convolutions(graph, levels, weights, biases, classifier)
    projected = [
        graph.linear(level.x_TC, weight, of_level)
        for level, weight, of_level in zip(levels[1:], weights[1:], biases[1:], strict=True)
    ]
    hidden_TC = _sum_at_finest(graph, levels, weights[0], projected)
    return _classified(graph, hidden_TC, classifier, levels[0])


def _by_convolutions(
    graph: Graph, levels: Sequence[Level], weights: Sequence[Tensor], biases: Sequence[Tensor | None], head: nn.Linear
) -> str:
    """Return what `_fused_and_classified` does, by 1 x 1 convolutions and a resize of each level.

    OpenVINO keeps one memory layout through all of these, and computes all of them in bfloat16 where that is asked for.
    Of matrix products it computes those with a constant on the left in float32, which both the interpolation matrices
    (for images of one size they are constants) and `_classified` are. B0 at 512 x 512 with 150 classes takes 1/1.3 of
    the time of the products in bfloat16, and 1/1.05 in float32; in ONNX Runtime it takes 1.07 times as long as they do.
    """
    size_hw = graph.node("Slice", levels[0].sizes_BHW, graph.integers(1), graph.integers(3))
    total = None
    for level, weight, bias in reversed(list(zip(levels, weights, biases, strict=True))):
        projected = graph.convolution_1x1(graph.map(level.x_TC, level.sizes_BHW, level.channels), weight, bias)
        if level is not levels[0]:
            projected = graph.resize(projected, size_hw)
        total = projected if total is None else graph.node("Add", projected, total)
    assert total is not None
    return graph.convolution_1x1(graph.node("Relu", total), head.weight, head.bias)


def _sum_at_finest(graph: Graph, levels: Sequence[Level], finest_weight: Tensor, projected: Sequence[str]) -> str:
    """Return ReLU of the finest level's linear layer plus the coarser levels, resized to its size."""
    resized = _sum_by_resizing if graph.target == "onnxruntime" else _sum_by_products
    sum_TC = resized(graph, levels, projected, len(finest_weight))
    return graph.node("Relu", graph.node("Gemm", levels[0].x_TC, graph.weight(finest_weight), sum_TC, transB=1))


def _sum_by_resizing(graph: Graph, levels: Sequence[Level], projected: Sequence[str], channels: int) -> str:
    """Return the sum of the coarser levels at the finest one's size, (T, C), each resized with its channels last.

    ONNX Runtime has a fast kernel for that, and the whole network takes 1/1.04 to 1/1.14 of the time that it takes with
    `_sum_by_products`. OpenVINO transposes the maps for it, and takes 1.3 times as long.
    """
    size_hw, total = graph.node("Slice", levels[0].sizes_BHW, graph.integers(1), graph.integers(3)), None
    for level, x_TC in reversed(list(zip(levels[1:], projected, strict=True))):
        resized = graph.resize_channels_last(graph.reshape(x_TC, level.sizes_BHW, channels), size_hw)
        total = resized if total is None else graph.node("Add", total, resized)
    assert total is not None
    return graph.reshape(total, -1, channels)


def _sum_by_products(graph: Graph, levels: Sequence[Level], projected: Sequence[str], channels: int) -> str:
    """Return the sum of the coarser levels at the finest one's size, (T, C), by matrix products, fast in all runtimes.

    Bilinear resizing is a product with a matrix along each axis. Each level is resized in height; then one product
    resizes all of them in width and sums them, row by row, so that their sum is the only map of full size that is
    written. The finest level's linear layer adds to it.
    """
    finest, *coarser = levels
    batch, height, width = _each(graph, finest.sizes_BHW)
    taller, to_columns = [], []
    for level, x_TC in zip(coarser, projected, strict=True):
        _, h, w = _each(graph, level.sizes_BHW)
        tall = graph.node("MatMul", graph.interpolation_matrix(h, height), graph.reshape(x_TC, batch, h, -1))
        taller.append(graph.reshape(tall, batch, height, w, channels))
        to_columns.append(graph.interpolation_matrix(w, width))
    sum_BHWC = graph.node("MatMul", graph.node("Concat", *to_columns, axis=1), graph.node("Concat", *taller, axis=2))
    return graph.reshape(sum_BHWC, -1, channels)


def _classified(graph: Graph, hidden_TC: str, classifier: nn.Linear, level: Level) -> str:
    """Return (B, K, h, w) logits. With the weights on the left, the product needs no transpose afterwards."""
    if graph.target == "openvino":  # see `_by_convolutions`
        hidden_BChw = graph.map(hidden_TC, level.sizes_BHW, classifier.in_features)
        return graph.convolution_1x1(hidden_BChw, classifier.weight, classifier.bias)
    batch, height, width = _each(graph, level.sizes_BHW)
    hidden_BCN = graph.transpose(graph.reshape(hidden_TC, batch, -1, classifier.in_features), 0, 2, 1)
    logits_BKN = graph.node("MatMul", graph.weight(classifier.weight), hidden_BCN)
    logits_BKhw = graph.reshape(logits_BKN, batch, classifier.out_features, height, width)
    return graph.node("Add", logits_BKhw, graph.weight(classifier.bias[:, None, None]))


def _conv_norm_relu(graph: Graph, x_BChw: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
    scale, shift = fold_norm(norm)
    bias = shift if conv.bias is None else scale * conv.bias + shift
    return graph.node("Relu", graph.convolution(x_BChw, scale[:, None, None, None] * conv.weight, bias, conv))


def _enlarged(graph: Graph, x_BChw: str, factor: int, align_corners: bool = False) -> str:
    sizes = graph.node("Mul", graph.sizes(x_BChw, 2, 4), graph.integers(factor))
    return graph.resize(x_BChw, sizes, align_corners)


def _each(graph: Graph, sizes_BHW: str) -> list[str]:
    return [graph.node("Slice", sizes_BHW, graph.integers(i), graph.integers(i + 1)) for i in range(3)]
