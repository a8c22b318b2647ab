"""A network as an ONNX graph."""

__all__ = ["GRAPHS_VERSION", "OPSET"]

GRAPHS_VERSION = 1
"""Goes up with every change of what is written here: conversions that were kept under another number are not used.

`tests/graphs/test_graphs_version.py` fails where a hand-written graph changes and this number does not.
"""

OPSET = 20
"""The first with LayerNormalization (17) and Gelu (20), which is all that newer ones would add here."""
