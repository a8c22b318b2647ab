"""Models as ``.pt2`` files of torch.export: the network as a graph of PyTorch's operators, without Python code.

Batch, height and width are free, from the size at which every map of the network has at least 2 x 2 cells, which
torch.export assumes of free sizes: 61 pixels for SegFormer, 17 for SETR. A file runs on the PyTorch that wrote it and
on newer ones. Ahead-of-time compilation (AOTInductor) is not offered, since it does not work with free sizes.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from terrazzo.graphs.onnx import describe
from terrazzo.graphs.traced import free_sizes, network_of, untraceable
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription, Output
from terrazzo.weights.files import TrainedModel

__all__ = ["write_torch"]


def write_torch(model: TrainedModel, path: Path, output: Output = "logits") -> ExportedDescription:
    """Write a model as a ``.pt2`` file in float32.

    Returns:
        What the file says about itself.

    Raises:
        ConfigError: the model has an operation that cannot be traced with free sizes.
    """
    description = describe(model, output, "fp32")
    network = model.network.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about itself
        try:
            example = torch.zeros(2, network.in_channels, 96, 160)
            program = torch.export.export(network_of(network, output), (example,), dynamic_shapes=free_sizes())
            sides = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
            ranges = [program.range_constraints[side.node.expr] for side in sides.meta["val"].shape[2:]]
            description = replace(description, minimum_side=max(int(side.lower) for side in ranges))
            # Through memory, since torch's writer has errors of its own for a full disk.
            archive = io.BytesIO()
            torch.export.save(program, archive, extra_files={METADATA_KEY: description.to_json()})
        except MemoryError:
            raise
        except Exception as error:  # tracer and writer raise errors of any kind
            raise untraceable(description, ".pt2", error) from error
    path.write_bytes(archive.getvalue())
    return description
