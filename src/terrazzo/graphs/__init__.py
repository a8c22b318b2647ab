"""A network as an ONNX graph."""

__all__ = ["GRAPHS_VERSION", "OPSET"]

GRAPHS_VERSION = 1
"""Raised with every change of the graphs: conversions kept under another number are not used.

`tests/graphs/test_graphs_version.py` fails if a hand-written graph changes and this number does not.
"""

OPSET = 20
"""The first version of ONNX's operators with LayerNormalization (17) and Gelu (20); no newer ones are needed."""
