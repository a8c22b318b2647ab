"""A model as a ``.pt2`` file of torch.export: the network as PyTorch's own operators, without Python.

Batch, height and width are free, from the size on where every map of the network has at least 2 x 2 cells: torch.export
assumes that of a free size. For SegFormer that is 61 pixels, for SETR 17. It runs on the PyTorch that wrote it and on
newer ones. Compiling it ahead of time (AOTInductor) is not offered: with free sizes it was
found not to work.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from terrazzo.graphs.onnx import describe
from terrazzo.graphs.traced import free_sizes, network_of, refuse_untraceable, untraceable
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
    refuse_untraceable(network, ".pt2")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        try:
            example = torch.zeros(2, network.in_channels, 96, 160)
            program = torch.export.export(network_of(network, output), (example,), dynamic_shapes=free_sizes())
            sides = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
            ranges = [program.range_constraints[side.node.expr] for side in sides.meta["val"].shape[2:]]
            description = replace(description, minimum_side=max(int(side.lower) for side in ranges))
            # Through memory, for its own writer reports a full disk in ways of its own.
            archive = io.BytesIO()
            torch.export.save(program, archive, extra_files={METADATA_KEY: description.to_json()})
        except MemoryError:
            raise
        except Exception as error:  # tracer and writer raise whatever an operation of transformers makes them
            raise untraceable(description, ".pt2", error) from error
    path.write_bytes(archive.getvalue())
    return description
