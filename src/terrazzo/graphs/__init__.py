"""A network as an ONNX graph."""

from typing import Literal, TypeAlias

__all__ = ["GRAPHS_VERSION", "OPSET", "Target"]

GRAPHS_VERSION = 2
"""Raised with every change of the graphs: conversions kept under another number are not used.

`tests/graphs/test_graphs_version.py` fails if a hand-written graph changes and this number does not.
"""

OPSET = 20
"""The first version of ONNX's operators with LayerNormalization (17) and Gelu (20); no newer ones are needed."""

Target: TypeAlias = Literal["onnx", "onnxruntime", "openvino"]
"""What a graph is written for: any runtime, as exported ``.onnx`` files are, or one of ours alone.

All runtimes give the same outputs with each. They differ in SegFormer's decoders, where what is fastest in ONNX Runtime
is slow in OpenVINO, and the other way round (`terrazzo.graphs.decoders`).
"""
