"""A network as an ONNX graph."""
