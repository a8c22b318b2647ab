"""ONNX graphs, written node by node.

`torch.onnx.export` traces a network with symbolic sizes, which takes from half a minute to many minutes, and its graph
is what the network's Python happens to do. The papers' networks are few and small, so their graphs are written by hand:
within a second, without superfluous nodes, and in the form that ONNX Runtime and OpenVINO run fastest. Every graph is
compared with its network before it is used (`terrazzo.engines.parity`).

Tokens are (T, C) matrices, T over the positions of all images of the batch: a linear layer is then one Gemm with a free
bias, and sums and norms need no reshapes. Sizes are known only when the graph runs; values called
`sizes` are int64 vectors in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from terrazzo.graphs import Target

__all__ = ["Graph"]

FUSED = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class Graph:
    """Collects the nodes and the constants of a graph; every method returns the name of a value in it.

    Args:
        target: the runtime that the graph is for.
    """

    def __init__(self, target: Target = "onnx") -> None:
        self.target = target
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._integers: dict[tuple[int, ...], str] = {}
        self._functions: list[FunctionProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: NDArray[Any]) -> str:
        """Add a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def weight(self, tensor: Tensor) -> str:
        """Add a tensor of the network."""
        return self.constant(tensor.detach().float().cpu().numpy())

    def integers(self, *values: int) -> str:
        """Add a vector of integers; equal vectors are one constant."""
        if values not in self._integers:
            self._integers[values] = self.constant(np.array(values, np.int64))
        return self._integers[values]

    def sizes(self, x: str, start: int, stop: int) -> str:
        """Return some of the sizes of a value, as a vector."""
        return self.node("Shape", x, start=start, end=stop)

    def reshape(self, x: str, *sizes: str | int) -> str:
        """Reshape to `sizes`: vectors in the graph and numbers, of which one may be -1."""
        if all(isinstance(size, int) for size in sizes):
            return self.node("Reshape", x, self.integers(*(int(size) for size in sizes)))
        return self.node("Reshape", x, self.concat(*sizes))

    def concat(self, *sizes: str | int) -> str:
        """Join vectors of sizes, and numbers, to one vector."""
        return self.node("Concat", *(self.integers(s) if isinstance(s, int) else s for s in sizes), axis=0)

    def transpose(self, x: str, *order: int) -> str:
        return self.node("Transpose", x, perm=order)

    def linear(self, x_TI: str, weight_OI: Tensor, bias_O: Tensor | None = None) -> str:
        """Return (T, O)."""
        inputs = [x_TI, self.weight(weight_OI)] + ([] if bias_O is None else [self.weight(bias_O)])
        return self.node("Gemm", *inputs, transB=1)

    def layer_norm(self, x: str, norm: nn.LayerNorm) -> str:
        """Normalise along the last axis."""
        return self.node(
            "LayerNormalization", x, self.weight(norm.weight), self.weight(norm.bias), axis=-1, epsilon=norm.eps
        )

    def convolution(self, x_BCHW: str, weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> str:
        """Convolve with the stride, padding, dilation and groups of `like`."""
        assert not isinstance(like.padding, str)
        inputs = [x_BCHW, self.weight(weight)] + ([] if bias is None else [self.weight(bias)])
        return self.node(
            "Conv",
            *inputs,
            kernel_shape=like.kernel_size,
            strides=like.stride,
            pads=(*like.padding, *like.padding),
            dilations=like.dilation,
            group=like.groups,
        )

    def convolution_1x1(self, x_BCHW: str, weight_OI: Tensor, bias_O: Tensor | None = None) -> str:
        """Apply a linear layer to the channels at each position."""
        inputs = [x_BCHW, self.weight(weight_OI[:, :, None, None])] + ([] if bias_O is None else [self.weight(bias_O)])
        return self.node("Conv", *inputs)

    def attention(self, q_TC: str, k_SC: str, v_SC: str, batch: str, channels: int, heads: int) -> str:
        """Return (T, C): dot-product attention of each image's tokens to its own S; the queries are already scaled.

        It is one node, and the model holds its definition: see `_attention_function`.
        """
        split = self.concat(batch, -1, channels)
        q, k, v = (self.node("Reshape", x, split) for x in (q_TC, k_SC, v_SC))
        self._functions = [_attention_function()]
        mixed = self.node("MultiHeadAttention", q, k, v, domain=FUSED, num_heads=heads, scale=1.0)
        return self.reshape(mixed, -1, channels)

    def tokens(self, x_BCHW: str, channels: int) -> str:
        """Return (T, C)."""
        return self.reshape(self.transpose(x_BCHW, 0, 2, 3, 1), -1, channels)

    def map(self, x_TC: str, sizes_BHW: str, channels: int) -> str:
        """Return (B, C, H, W)."""
        return self.transpose(self.reshape(x_TC, sizes_BHW, channels), 0, 3, 1, 2)

    def resize(self, x_BCHW: str, sizes_HW: str, align_corners: bool = False) -> str:
        """Resize bilinearly, as `torch.nn.functional.interpolate` does."""
        mode = "align_corners" if align_corners else "half_pixel"
        sizes = self.node("Concat", self.sizes(x_BCHW, 0, 2), sizes_HW, axis=0)
        return self.node("Resize", x_BCHW, "", "", sizes, mode="linear", coordinate_transformation_mode=mode)

    def resize_channels_last(self, x_BHWC: str, sizes_HW: str) -> str:
        """Resize (B, H, W, C) bilinearly."""
        return self.node(
            "Resize", x_BHWC, "", "", sizes_HW, mode="linear", coordinate_transformation_mode="half_pixel", axes=[1, 2]
        )

    def interpolation_matrix(self, source: str, target: str) -> str:
        """Return the (target, source) matrix of bilinear resizing along one axis, of sizes that are vectors of one.

        Row i is a hat function of width 2 around position (i + 1/2) source / target - 1/2, clamped to the source.
        """
        double = [self.node("Cast", size, to=TensorProto.DOUBLE) for size in (source, target)]
        zero, half, one = (self.constant(np.array(value, np.float64)) for value in (0.0, 0.5, 1.0))
        count, wanted = (self.node("Squeeze", size) for size in double)
        ratio = self.node("Div", count, wanted)
        places = self.node("Mul", self.node("Add", self.node("Range", zero, wanted, one), half), ratio)
        places = self.node("Max", self.node("Sub", places, half), zero)
        places = self.node("Min", places, self.node("Sub", count, one))
        distances = self.node(
            "Sub", self.node("Unsqueeze", places, self.integers(1)), self.node("Range", zero, count, one)
        )
        hats = self.node("Max", self.node("Sub", one, self.node("Abs", distances)), zero)
        return self.node("Cast", hats, to=TensorProto.FLOAT)

    def model(
        self, output: str, name: str, element_type: int, sizes: Sequence[str | int], in_channels: int, opset: int
    ) -> ModelProto:
        """Return the finished model, whose output `output` is called `name` and has these sizes."""
        self.nodes.append(helper.make_node("Identity", [output], [name], name="output"))
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", in_channels, "height", "width"])
        result = helper.make_tensor_value_info(name, element_type, sizes)
        graph = helper.make_graph(self.nodes, "terrazzo", [images], [result], self.constants)
        opsets = [helper.make_opsetid("", opset)]
        ir_version = helper.find_min_ir_version_for(opsets)
        if self._functions:
            opsets.append(helper.make_opsetid(FUSED, 1))
        return helper.make_model(
            graph, opset_imports=opsets, functions=self._functions, producer_name="terrazzo", ir_version=ir_version
        )


def _attention_function() -> FunctionProto:
    """Return dot-product attention, (B, T, C) by (B, S, C), as a function of plain nodes.

    It has the name of an operator of ONNX Runtime that never writes the (T, S) scores and takes two thirds of the time.
    Runtimes with that operator (OpenVINO too) run theirs, and others this definition, so a file needs nothing but ONNX.
    """
    node = helper.make_node
    heads, scale = node("Constant", [], ["heads"]), node("Constant", [], ["factor"])
    heads.attribute.append(AttributeProto(name="value_int", type=AttributeProto.INT, ref_attr_name="num_heads"))
    scale.attribute.append(AttributeProto(name="value_float", type=AttributeProto.FLOAT, ref_attr_name="scale"))
    return helper.make_function(
        FUSED,
        "MultiHeadAttention",
        ["query", "key", "value"],
        ["output"],
        [
            heads,
            scale,
            node("Constant", [], ["one"], value_ints=[1]),
            node("Constant", [], ["same"], value_ints=[0, 0]),
            node("Constant", [], ["rest"], value_ints=[-1]),
            node("Reshape", ["heads", "one"], ["heads_1"]),
            node("Concat", ["same", "heads_1", "rest"], ["split"], axis=0),
            node("Concat", ["same", "rest"], ["joined"], axis=0),
            *(node("Reshape", [x, "split"], [f"{x}_BTND"]) for x in ("query", "key", "value")),
            node("Transpose", ["query_BTND"], ["query_BNTD"], perm=[0, 2, 1, 3]),
            node("Transpose", ["key_BTND"], ["key_BNDS"], perm=[0, 2, 3, 1]),
            node("Transpose", ["value_BTND"], ["value_BNSD"], perm=[0, 2, 1, 3]),
            node("MatMul", ["query_BNTD", "key_BNDS"], ["products"]),
            node("Mul", ["products", "factor"], ["scores"]),
            node("Softmax", ["scores"], ["shares"], axis=-1),
            node("MatMul", ["shares", "value_BNSD"], ["mixed_BNTD"]),
            node("Transpose", ["mixed_BNTD"], ["mixed_BTND"], perm=[0, 2, 1, 3]),
            node("Reshape", ["mixed_BTND", "joined"], ["output"]),
        ],
        [helper.make_opsetid("", 20)],
        ["num_heads", "scale"],
    )
