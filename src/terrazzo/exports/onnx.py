"""A model as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.files import replacing
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription
from terrazzo.weights.files import TrainedModel

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OPSET", "onnx_model", "write_onnx"]

OPSET = 23
"""The newest whose operators ONNX Runtime and OpenVINO have: LayerNormalization (17), Gelu (20), Attention (23)."""


def write_onnx(model: TrainedModel, path: Path) -> ExportedDescription:
    """Write a model as an ONNX file for any batch, height and width.

    Returns:
        What the file says about itself.

    Raises:
        ConfigError: the model has an operation that ONNX cannot express.
        MissingExtraError: onnx is not installed.
        OutputError: the place cannot be written.
    """
    description = ExportedDescription(
        model.architecture, model.labels, model.preprocess, record=model.record, name=model.name
    )
    proto = onnx_model(model.network, description)
    with replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return description


def onnx_model(network: torch.nn.Module, description: ExportedDescription) -> ModelProto:
    """Return a network as an ONNX model with one input, ``images``, and one output.

    Raises:
        ConfigError: the network has an operation that ONNX cannot express.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # what torch.onnx builds the model with
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    free = torch.export.Dim.DYNAMIC
    example_B3HW = torch.zeros(2, 3, 96, 128)
    with torch.no_grad(), warnings.catch_warnings():
        # torch's exporter uses two of torch's own names that are on their way out.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network.eval(),
                (example_B3HW,),
                dynamo=True,
                dynamic_shapes=({0: free, 2: free, 3: free},),
                opset_version=OPSET,
                input_names=["images"],
                output_names=[description.output],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ConfigError(
                f"{description.architecture} cannot be written as ONNX: {error}",
                fix="export another model",
                code="export-operation",
            ) from error
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        # Where in our source it came from: of no use to anybody, and several times the size of the graph.
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(proto, {METADATA_KEY: description.to_json()})
    return proto
