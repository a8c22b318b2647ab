"""What the graphs of small models look like: digests in golden_graphs.json, with the version that they are of.

After a change of the graphs, raise `GRAPHS_VERSION` in src/terrazzo/graphs/__init__.py and write the digests again:

    python tests/graphs/golden_graphs.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1]))  # as a script; pytest has it there already

from terrazzo.graphs import GRAPHS_VERSION
from terrazzo.graphs.onnx import describe, onnx_model
from tiny_models import ARCHITECTURES, tiny_model

GOLDEN = Path(__file__).with_name("golden_graphs.json")
CASES = (
    *((architecture, "logits", "fp32", "onnx") for architecture in ARCHITECTURES),
    ("segformer_b0", "mask", "fp32", "onnx"),
    ("segformer_b0", "logits", "fp16", "onnx"),
    *((name, "logits", "fp32", "openvino") for name in ("segformer_b0", "segformer_b0_mmseg", "setr_naive_tiny")),
    *((name, "logits", "fp32", "onnxruntime") for name in ("segformer_b0", "segformer_b0_mmseg")),
)


def digests() -> dict[str, dict[str, Any]]:
    """Return for each case the hash of its graph's structure, and the length of all its weights as one vector."""
    found = {}
    for architecture, output, precision, target in CASES:
        model = tiny_model(architecture)
        graph = onnx_model(model.network, describe(model, output, precision), target)  # type: ignore[arg-type]
        structure = hashlib.sha256("\n".join(_lines(graph)).encode()).hexdigest()
        weights = [numpy_helper.to_array(tensor).astype(float) for tensor in _floats(graph)]
        length = float(np.sqrt(sum((array**2).sum() for array in weights)))
        case = f"{architecture}, {output}, {precision}, {target}"
        found[case] = {"structure": structure, "weights": round(length, 4)}
    return found


def _lines(model: ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        yield f"opset {opset.domain} {opset.version}"
    for value in (*model.graph.input, *model.graph.output):
        shape = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        yield f"{value.name} {value.type.tensor_type.elem_type} {shape}"
    for tensor in model.graph.initializer:
        yield f"{tensor.name} {tensor.data_type} {list(tensor.dims)} {_value(tensor)}"
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield f"function {function.domain} {function.name} {list(function.input)} {list(function.attribute)}"
        yield from _nodes(function.node)


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        attributes = sorted(
            (item.name, item.ref_attr_name or repr(helper.get_attribute_value(item))) for item in node.attribute
        )
        yield f"{node.domain} {node.op_type} {list(node.input)} {list(node.output)} {attributes}"


def _floats(model: ModelProto) -> Iterator[TensorProto]:
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            yield tensor


def _value(tensor: TensorProto) -> list[str]:
    """Return sizes and scales, which belong to the structure; weights vary in their last digit."""
    array = numpy_helper.to_array(tensor)
    return [f"{number:.4g}" for number in array.ravel().tolist()] if array.dtype.kind == "i" or array.size == 1 else []


def write() -> None:
    """Write the digests of today's graphs.

    Raises:
        SystemExit: they have changed, and the version has not.
    """
    now = digests()
    if GOLDEN.exists():
        kept = json.loads(GOLDEN.read_text())
        if kept["graphs"] != now and kept["version"] == GRAPHS_VERSION:
            sys.exit("the graphs have changed: raise GRAPHS_VERSION in src/terrazzo/graphs/__init__.py first")
    GOLDEN.write_text(json.dumps({"version": GRAPHS_VERSION, "graphs": now}, indent=2) + "\n")


if __name__ == "__main__":
    write()
