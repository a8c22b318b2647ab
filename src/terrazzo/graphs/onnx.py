"""A model as an ONNX file.

SegFormer and SETR are written node by node (`terrazzo.graphs.encoders`, `terrazzo.graphs.decoders`); other networks
are traced (`terrazzo.graphs.traced`).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from terrazzo.atomic import replacing
from terrazzo.errors import MissingExtraError
from terrazzo.graphs import OPSET, Target
from terrazzo.graphs.traced import traced
from terrazzo.models.encoders.mit import MixTransformer, SequenceReduction, is_standard
from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.models.layers import is_unchanged
from terrazzo.models.segmenter import Segmenter
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription, Output, Precision
from terrazzo.weights.files import TrainedModel

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["describe", "has_written_graph", "minimum_side", "on_cpu", "onnx_model", "save_onnx", "write_onnx"]

HALF_FROM = 16
"""Constants with fewer elements are sizes and scales rather than weights, and stay float32."""


def write_onnx(
    model: TrainedModel,
    path: Path,
    output: Output = "logits",
    precision: Precision = "fp32",
    target: Target = "onnx",
) -> ExportedDescription:
    """Write a model as an ONNX file for any batch, height and width.

    Args:
        model: what to write.
        path: the file.
        output: logits, or the mask at the input's size.
        precision: fp32, or fp16 to store the weights in half the space; computation stays in float32.
        target: the runtime that the graph is for.

    Returns:
        What the file says about itself.

    Raises:
        ConfigError: the model has an operation that ONNX cannot express.
        MissingExtraError: onnx is not installed.
        OutputError: the place cannot be written.
    """
    description = describe(model, output, precision)
    save_onnx(onnx_model(model.network, description, target), path, description)
    return description


def save_onnx(model: ModelProto, path: Path, description: ExportedDescription) -> None:
    """Write an ONNX model, with its description.

    Raises:
        OutputError: the place cannot be written.
    """
    import onnx

    onnx.helper.set_model_props(model, {METADATA_KEY: description.to_json()})
    with replacing(path) as partial:
        partial.write_bytes(model.SerializeToString())


def on_cpu(model: TrainedModel) -> TrainedModel:
    """Return a model in float32 on the CPU, as files are written from: itself, or with a copy of its network."""
    first = next(model.network.parameters())
    if first.device.type == "cpu" and first.dtype == torch.float32:
        return model
    return replace(model, network=copy.deepcopy(model.network).to("cpu", torch.float32))


def describe(model: TrainedModel, output: Output, precision: Precision) -> ExportedDescription:
    """Return what an exported file says about itself."""
    return ExportedDescription(
        model.architecture,
        model.labels,
        model.preprocess,
        output,
        precision,
        model.record,
        model.name,
        minimum_side(model.network),
        model.temperature,
    )


def minimum_side(network: Segmenter) -> int:
    """Return the least height and width that an exported network takes.

    A MixTransformer pads maps that are smaller than a window of its sequence reduction, and so does PVT. In a graph of
    free sizes that would copy every map. So exported ones start at the size at which no map is that small: 29 pixels
    for SegFormer.
    """
    encoder = network.encoder
    stages: Any = encoder.stages if isinstance(encoder, MixTransformer | PyramidVisionTransformer) else ()
    sides, stride = [1], 1
    for stage in stages:
        stride *= stage.patch_embed.stride
        sides += [stride * (part.ratio - 1) + 1 for part in stage.modules() if isinstance(part, SequenceReduction)]
    return max(sides)


def has_written_graph(network: Segmenter) -> bool:
    """Whether a network's graph is written node by node, in a second or two; tracing the others takes minutes.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        from terrazzo.graphs.decoders import DECODER_GRAPHS
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    encoder = network.encoder
    known = is_standard(encoder) if isinstance(encoder, MixTransformer) else isinstance(encoder, VisionTransformer)
    return known and type(network.decoder) in DECODER_GRAPHS and is_unchanged(network)


def onnx_model(network: Segmenter, description: ExportedDescription, target: Target = "onnx") -> ModelProto:
    """Return a network as an ONNX model with one input, ``images``, and one output.

    Raises:
        ConfigError: the network has an operation that ONNX cannot express.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export") from error
    network.eval()
    if has_written_graph(network):
        with torch.no_grad():
            model = _written(network, description, target)
    else:
        model = traced(network, description)
    if description.precision == "fp16":
        _store_half(model)
    onnx.checker.check_model(model)
    return model


def _written(network: Segmenter, description: ExportedDescription, target: Target) -> ModelProto:
    from onnx import TensorProto

    from terrazzo.graphs.builder import Graph
    from terrazzo.graphs.decoders import DECODER_GRAPHS
    from terrazzo.graphs.encoders import mix_transformer, vision_transformer

    graph = Graph(target)
    if isinstance(network.encoder, MixTransformer):
        levels = mix_transformer(graph, network.encoder, "images")
    else:
        assert isinstance(network.encoder, VisionTransformer)
        levels = vision_transformer(graph, network.encoder, "images")
    result = DECODER_GRAPHS[type(network.decoder)](graph, network.decoder, levels)
    K, bands = network.num_classes, network.in_channels
    if description.output == "logits":
        return graph.model(result, "logits", TensorProto.FLOAT, ["batch", K, "h", "w"], bands, OPSET)
    large = graph.resize(result, graph.sizes("images", 2, 4))
    kind = TensorProto.UINT8 if K <= 255 else TensorProto.UINT16
    mask = graph.node("Cast", graph.node("ArgMax", large, axis=1, keepdims=0), to=kind)
    return graph.model(mask, "mask", kind, ["batch", "height", "width"], bands, OPSET)


def _store_half(model: ModelProto) -> None:
    """Store weights as float16, each with a cast to float32 that runtimes compute once, while loading."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < HALF_FROM:
            continue
        value = numpy_helper.to_array(tensor)
        if np.abs(value).max() > np.finfo(np.float16).max:
            continue
        name, stored = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
