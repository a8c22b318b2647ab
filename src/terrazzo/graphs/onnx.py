"""A model as an ONNX file.

SegFormer and SETR are written by `encoder_graphs` and `decoder_graphs`. Models with an encoder of Hugging Face
transformers are traced by `torch.onnx.export`, which takes from half a minute on, and works where each of the encoder's
operations can be traced with free sizes.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.atomic import replacing
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.models.encoders.mit import MixTransformer, SequenceReduction, is_standard
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.models.segmenter import Segmenter
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription, Output, Precision
from terrazzo.weights.files import TrainedModel

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OPSET", "MaskNetwork", "describe", "minimum_side", "onnx_model", "save_onnx", "write_onnx"]

OPSET = 20
"""The first with LayerNormalization (17) and Gelu (20), which is all that newer ones would add here."""

HALF_FROM = 16
"""Constants with fewer numbers are sizes and scales, not weights, and stay float32."""


class MaskNetwork(nn.Module):
    """A network whose output is the class of each pixel of its input, (B, H, W), uint8 where K <= 255 else uint16."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        self.dtype = torch.uint8 if network.num_classes <= 255 else torch.uint16

    def forward(self, images_B3HW: Tensor) -> Tensor:
        logits = F.interpolate(self.network(images_B3HW), images_B3HW.shape[2:], mode="bilinear", align_corners=False)
        return logits.argmax(1).to(self.dtype)


def write_onnx(
    model: TrainedModel, path: Path, output: Output = "logits", precision: Precision = "fp32"
) -> ExportedDescription:
    """Write a model as an ONNX file for any batch, height and width.

    Args:
        model: what to write.
        path: the file.
        output: logits, or the mask at the input's size.
        precision: fp32, or fp16 to store the weights in half the space; they are computed with in float32.

    Returns:
        What the file says about itself.

    Raises:
        ConfigError: the model has an operation that ONNX cannot express.
        MissingExtraError: onnx is not installed.
        OutputError: the place cannot be written.
    """
    description = describe(model, output, precision)
    save_onnx(onnx_model(model.network, description), path, description)
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
    )


def minimum_side(network: Segmenter) -> int:
    """Return the least height and width that an exported network takes.

    A MixTransformer pads maps smaller than a window of its sequence reduction, which costs a copy of every map in a
    graph whose sizes are free. So exported ones begin where no map is that small: 29 pixels for SegFormer.
    """
    encoder = network.encoder
    if not isinstance(encoder, MixTransformer):
        return 1
    sides = [1]
    for stage, stride in zip(encoder.stages, encoder.strides, strict=True):
        sides += [stride * (part.ratio - 1) + 1 for part in stage.modules() if isinstance(part, SequenceReduction)]
    return max(sides)


def onnx_model(network: Segmenter, description: ExportedDescription) -> ModelProto:
    """Return a network as an ONNX model with one input, ``images``, and one output.

    Raises:
        ConfigError: the network has an operation that ONNX cannot express.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx

        from terrazzo.graphs.decoders import DECODER_GRAPHS
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    network.eval()
    encoder = network.encoder
    written = is_standard(encoder) if isinstance(encoder, MixTransformer) else isinstance(encoder, VisionTransformer)
    if written and type(network.decoder) in DECODER_GRAPHS:
        with torch.no_grad():
            model = _written(network, description)
    else:
        model = _traced(network, description)
    if description.precision == "fp16":
        _store_half(model)
    onnx.checker.check_model(model)
    return model


def _written(network: Segmenter, description: ExportedDescription) -> ModelProto:
    from onnx import TensorProto

    from terrazzo.graphs.builder import Graph
    from terrazzo.graphs.decoders import DECODER_GRAPHS
    from terrazzo.graphs.encoders import mix_transformer, vision_transformer

    graph = Graph()
    if isinstance(network.encoder, MixTransformer):
        levels = mix_transformer(graph, network.encoder, "images")
    else:
        assert isinstance(network.encoder, VisionTransformer)
        levels = vision_transformer(graph, network.encoder, "images")
    result = DECODER_GRAPHS[type(network.decoder)](graph, network.decoder, levels)
    K = network.num_classes
    if description.output == "logits":
        return graph.model(result, "logits", TensorProto.FLOAT, ["batch", K, "h", "w"], OPSET)
    large = graph.resize(result, graph.sizes("images", 2, 4))
    kind = TensorProto.UINT8 if K <= 255 else TensorProto.UINT16
    mask = graph.node("Cast", graph.node("ArgMax", large, axis=1, keepdims=0), to=kind)
    return graph.model(mask, "mask", kind, ["batch", "height", "width"], OPSET)


def _traced(network: Segmenter, description: ExportedDescription) -> ModelProto:
    try:
        import onnxscript  # noqa: F401  # what torch.onnx builds the model with
    except ImportError as error:
        raise MissingExtraError("onnxscript", "export") from error
    free = torch.export.Dim.DYNAMIC
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with torch.no_grad(), warnings.catch_warnings():
        # torch's exporter uses names of torch that are on their way out, and traces what transformers warns about.
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network if description.output == "logits" else MaskNetwork(network),
                (torch.zeros(2, 3, 97, 151),),  # no multiple of any stride: paddings and crops must be in the graph
                dynamo=True,
                dynamic_shapes=({0: free, 2: free, 3: free},),
                opset_version=OPSET,
                input_names=["images"],
                output_names=[description.output],
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise ConfigError(
                f"{description.architecture} cannot be written as ONNX: {_reason(error)}",
                fix="choose a SegFormer or SETR, or the engine torch",
                code="export-operation",
            ) from error
        finally:
            logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        # Where in our source it came from: of no use to anybody, and several times the size of the graph.
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    return model


def _reason(error: BaseException) -> str:
    """The innermost cause: torch's exporter wraps it in advice about reports to its authors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _store_half(model: ModelProto) -> None:
    """Store weights as float16, each with a cast to float32 that runtimes compute once, when they load the file."""
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
