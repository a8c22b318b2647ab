"""Int8 for ONNX files, by ONNX Runtime's quantiser.

The file has QuantizeLinear and DequantizeLinear nodes around its layers, which all ONNX runtimes support.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import temporary_folder
from terrazzo.engines.offline import imported_silently
from terrazzo.errors import MissingExtraError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["OnnxQuantiser"]

LAYERS = ["Conv", "Gemm", "MatMul"]


@dataclass(frozen=True)
class OnnxQuantiser:
    """A `terrazzo.exports.int8.Quantiser` for an ONNX model. Names are those of values in its graph.

    Attributes:
        exact: the model in float32.
        inputs: images to calibrate with.
    """

    exact: ModelProto
    inputs: Sequence[NDArray[np.float32]]

    def quantised(self, kept: Sequence[str] = ()) -> ModelProto:
        """Return the model in int8, except for the layers `kept`.

        Raises:
            MissingExtraError: onnxruntime is not installed.
        """
        try:
            import onnx

            imported_silently("onnxruntime")
            from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        except ImportError as error:
            raise MissingExtraError(error.name or "onnxruntime", "export") from error

        class Images(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, inputs: Sequence[NDArray[np.float32]]) -> None:
                self.rest = iter(inputs)

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                images = next(self.rest, None)
                return None if images is None else {"images": images}

        layers = [node.name for node in self.exact.graph.node if node.output[0] not in kept and self._can(node)]
        with temporary_folder() as folder, _no_logging_set_up():
            path = folder / "int8.onnx"
            quantize_static(
                onnx.ModelProto.FromString(self.exact.SerializeToString()),  # it changes its argument
                path,
                Images(self.inputs),
                op_types_to_quantize=LAYERS,
                nodes_to_quantize=layers,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return onnx.load(path)

    def layers(self, network: ModelProto) -> dict[str, str]:
        """Return the matrix products and convolutions with int8 weights, each with the name of its input."""
        weights = {tensor.name for tensor in network.graph.initializer}
        restored = {
            node.output[0]
            for node in network.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in weights
        }
        int8 = {node.output[0] for node in network.graph.node if restored & set(node.input[:2])}
        return {node.output[0]: self._given(node) for node in self.exact.graph.node if node.output[0] in int8}

    def results(
        self, network: ModelProto, names: Sequence[str], inputs: Sequence[NDArray[np.float32]]
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield, for each input, the values of these names in a network."""
        from onnx import ModelProto, TensorProto, helper

        probed = ModelProto.FromString(network.SerializeToString())
        seen = [f"{name}, seen" for name in names]
        for name, copy in zip(names, seen, strict=True):
            probed.graph.node.append(helper.make_node("Identity", [name], [copy]))
            probed.graph.output.append(helper.make_tensor_value_info(copy, TensorProto.FLOAT, None))
        session = imported_silently("onnxruntime").InferenceSession(
            probed.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for images in inputs:
            yield session.run(seen, {"images": images})

    def _can(self, node: NodeProto) -> bool:
        """Whether a node has weights for int8. A depthwise convolution would lose much and gain nothing."""
        if node.op_type not in LAYERS or any(item.name == "group" and item.i > 1 for item in node.attribute):
            return False
        has_weight = any(name in self._constants for name in node.input[:2])
        return has_weight and all(name in self._constants for name in node.input[2:])  # a bias, not a sum

    def _given(self, node: NodeProto) -> str:
        names: list[str] = [name for name in node.input if name not in self._constants]
        return names[0]

    @cached_property
    def _constants(self) -> set[str]:
        return {tensor.name for tensor in self.exact.graph.initializer}


@contextmanager
def _no_logging_set_up() -> Iterator[Any]:
    """Keep onnxruntime's calls of the root logger from configuring logging for the whole program."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
