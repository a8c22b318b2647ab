"""ONNX graphs of networks without a hand-written one, traced with a free batch, height and width.

These are all pairs of encoder and decoder but the papers'. `torch.onnx.export` takes half a minute or more for them,
and needs operations that can be traced with free sizes.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.graphs import OPSET
from terrazzo.models.segmenter import Segmenter
from terrazzo.text import said_by
from terrazzo.weights.exported import ExportedDescription, Output

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["free_sizes", "network_of", "traced", "untraceable"]


class MaskNetwork(nn.Module):
    """A network whose output is the class of each pixel of its input, (B, H, W), uint8 where K <= 255 else uint16."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        self.dtype = torch.uint8 if network.num_classes <= 255 else torch.uint16

    def forward(self, images_B3HW: Tensor) -> Tensor:
        logits = F.interpolate(self.network(images_B3HW), images_B3HW.shape[2:], mode="bilinear", align_corners=False)
        return logits.argmax(1).to(self.dtype)


def network_of(network: Segmenter, output: Output) -> nn.Module:
    """Return the module to trace: the network, or one that gives masks."""
    return network if output == "logits" else MaskNetwork(network)


def free_sizes() -> tuple[dict[int, object], ...]:
    """Return the free dimensions of the images, in the form that torch's exporters take."""
    free = torch.export.Dim.DYNAMIC
    return ({0: free, 2: free, 3: free},)


def untraceable(description: ExportedDescription, format: str, error: Exception) -> ConfigError:
    """Return the error for a network that an exporter of torch gave up on."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # the exporters wrap it in advice for their own authors
        cause = cause.__cause__
    reason = said_by(cause)
    return ConfigError(
        f"{description.architecture} cannot be written as {format}: {reason}",
        fix="run the model itself (--engine torch), or choose a SegFormer or SETR",
        code="export-operation",
    )


def traced(network: Segmenter, description: ExportedDescription) -> ModelProto:
    """Return a network as an ONNX model, by PyTorch's exporter.

    Raises:
        ConfigError: the network has an operation that ONNX cannot express, or sizes that cannot be free.
        MissingExtraError: onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401  # what torch.onnx builds the model with
    except ImportError as error:
        raise MissingExtraError("onnxscript", "export") from error
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with torch.no_grad(), warnings.catch_warnings():
        # torch's exporter uses deprecated names of torch, and traces what transformers warns about.
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        # No stride divides these sides, so that paddings and crops are in the graph.
        example = torch.zeros(2, network.in_channels, 97, 151)
        try:
            program = torch.onnx.export(
                network_of(network.eval(), description.output),
                (example,),
                dynamo=True,
                dynamic_shapes=free_sizes(),
                opset_version=OPSET,
                input_names=["images"],
                output_names=[description.output],
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise untraceable(description, "ONNX", error) from error
        finally:
            logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        # Places in our source, which take several times the size of the graph.
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    return model
