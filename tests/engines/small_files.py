"""Exported files of a network of one convolution, made by hand in a moment, and what they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription, Output

LABELS = LabelSpec.from_names(["sky", "road", "tree"])
DESCRIPTION = ExportedDescription("segformer_b0", LABELS, Preprocess(), name="small", record={"licence": "none at all"})
WEIGHT = np.random.default_rng(0).standard_normal((3, 3, 3, 3), dtype=np.float32)


def logits_of(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the small network gives: (B, 3, h, w) at a stride of 4, as SegFormer."""
    return F.conv2d(torch.from_numpy(images_B3HW), torch.from_numpy(WEIGHT), stride=4, padding=1).numpy()


def small_model(
    description: ExportedDescription | None = DESCRIPTION,
    *,
    sides: tuple[int | str, int | str] = ("H", "W"),
    output: Output = "logits",
) -> onnx.ModelProto:
    """The network as ONNX, with a description and for any size unless told otherwise."""
    nodes = [helper.make_node("Conv", ["images", "weight"], ["scores"], strides=[4, 4], pads=[1, 1, 1, 1])]
    if output == "mask":
        nodes += [
            helper.make_node("Shape", ["images"], ["size"], start=2),
            helper.make_node("Shape", ["scores"], ["outer"], end=2),
            helper.make_node("Concat", ["outer", "size"], ["sizes"], axis=0),
            helper.make_node("Resize", ["scores", "", "", "sizes"], ["large"], mode="linear"),
            helper.make_node("ArgMax", ["large"], ["best"], axis=1, keepdims=0),
            helper.make_node("Cast", ["best"], ["mask"], to=TensorProto.UINT8),
        ]
        result = helper.make_tensor_value_info("mask", TensorProto.UINT8, ["B", *sides])
    else:
        nodes[0].output[0] = output
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", 3, "h", "w"])
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, *sides])
    graph = helper.make_graph(nodes, "small", [images], [result], [numpy_helper.from_array(WEIGHT, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if description is not None:
        helper.set_model_props(model, {METADATA_KEY: replace(description, output=output).to_json()})
    return model


def write_onnx_file(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    """Write a model, by default the plain one, as ``small.onnx``."""
    path = folder / "small.onnx"
    path.write_bytes((model or small_model()).SerializeToString())
    return path


def write_openvino_file(folder: Path, model: onnx.ModelProto | None = None, *, described: bool = True) -> Path:
    """Write the same as ``small.xml`` and ``small.bin``."""
    import openvino as ov

    network = ov.Core().read_model(write_onnx_file(folder, model))
    if described:
        network.set_rt_info(DESCRIPTION.to_json(), METADATA_KEY)
    ov.save_model(network, folder / "small.xml", compress_to_fp16=False)
    return folder / "small.xml"


def noise(batch: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Normalised images in the memory order that `Preprocess` gives."""
    images_BHW3 = np.random.default_rng(seed).standard_normal((batch, height, width, 3), dtype=np.float32)
    return images_BHW3.transpose(0, 3, 1, 2)
