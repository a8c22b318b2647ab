"""Int8: smaller, nearly the same, and refused where it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

import terrazzo
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.exports import int8
from terrazzo.exports.int8 import agreement, refuse_loss, split_images
from terrazzo.exports.int8_onnx import OnnxQuantiser
from terrazzo.exports.int8_openvino import OpenVINOQuantiser
from terrazzo.graphs.onnx import describe
from terrazzo.weights.exported import METADATA_KEY
from terrazzo.weights.files import TrainedModel

Models = Callable[[str], TrainedModel]


def test_int8_needs_images_and_a_format_that_has_it(models: Models, tmp_path: Path) -> None:
    model = models("segformer_b0")
    for name, options, code in [
        ("a.xml", {"precision": "int8"}, "export-calibrate"),
        ("a.xml", {"calibrate": ["x.png"]}, "export-calibrate"),
        ("a.pt2", {"precision": "int8", "calibrate": ["x.png"]}, "export-precision"),
        ("a.xml", {"precision": "int8", "calibrate": ["x.png"], "output_kind": "mask"}, "export-precision"),
        ("a.onnx", {"precision": "int8", "calibrate": ["x.png"], "output_kind": "mask"}, "export-precision"),
    ]:
        with pytest.raises(ConfigError) as caught:
            terrazzo.export(model, tmp_path / name, **options)  # type: ignore[arg-type]
        assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_the_gate() -> None:
    refuse_loss(99.0, 1.5)
    for agreed in (98.0, float("nan")):
        with pytest.raises(CheckpointError) as caught:
            refuse_loss(agreed, 1.5)
        assert caught.value.code == "export-loss"


def test_agreement_is_the_percentage_of_pixels_that_keep_their_class(models: Models, tmp_path: Path) -> None:
    for number, size in enumerate([(64, 64), (64, 192)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((*size, 3), np.uint8))

    def exact(images: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros_like(images[:, 0]), np.ones_like(images[:, 0])], axis=1)

    def unlike_in_squares(images: np.ndarray) -> np.ndarray:
        logits = exact(images)
        return logits[:, ::-1] if images.shape[2] == images.shape[3] else logits

    measure = agreement(exact, sorted(tmp_path.iterdir()), describe(models("segformer_b0"), "logits", "int8"))
    assert measure(exact) == 100.0
    assert measure(unlike_in_squares) == 75.0


def test_images_for_the_gate_are_held_back_from_calibration(tmp_path: Path) -> None:
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.zeros((2, 2, 3), np.uint8))
    photos, checked = split_images([str(tmp_path)])
    assert len(photos) + len(checked) == 40 and not set(photos) & set(checked)
    assert len(checked) >= 8
    few = sorted(tmp_path.iterdir())[:3]
    assert split_images([str(path) for path in few]) == (few, few)
    every, none = split_images([str(tmp_path)], hold_back=False)  # labelled photos take their place
    assert len(every) == 40 and none == []


def two_openvino_layers(first: float, second: float) -> Any:
    """Two matrix products by the identity, as int8 has them: weights times a scale, which is a little off."""
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    images = x = ops.parameter([1, 3, 4, 4], np.float32, name="images")
    for name, scale in (("first", first), ("second", second)):
        weight = ops.multiply(ops.constant(np.eye(4, dtype=np.float32)), ops.constant(np.float32(scale)))
        x = ops.relu(ops.matmul(x, weight, False, False, name=name), name=f"{name}, activated")
    return openvino.Model([x], [images])


def two_onnx_layers(first: float, second: float) -> Any:
    """The same as ONNX has them; with scales of 1 in float32, before a product without weights."""
    node, nodes, constants, x = onnx.helper.make_node, [], [], "images"
    for name, scale in (("first", first), ("second", second)):
        weight, eye = f"{name}, weight", np.eye(4)
        if scale == 1:
            constants.append(onnx.numpy_helper.from_array(eye.astype(np.float32), weight))
        else:
            constants.append(onnx.numpy_helper.from_array(eye.astype(np.int8), f"{weight}, int8"))
            constants.append(onnx.numpy_helper.from_array(np.float32(scale), f"{name}, scale"))
            nodes.append(node("DequantizeLinear", [f"{weight}, int8", f"{name}, scale"], [weight]))
        nodes.append(node("MatMul", [x, weight], [name], name=f"the {name} node"))
        nodes.append(node("Relu", [name], [x := f"{name}, activated"]))
    nodes.append(node("MatMul", [x, x], ["logits"], name="no weights"))
    shape = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 4, 4])
    result = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 3, 4, 4])
    graph = onnx.helper.make_graph(nodes, "two", [shape], [result], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "two_layers"),
    [(OpenVINOQuantiser, two_openvino_layers), (OnnxQuantiser, two_onnx_layers)],
    ids=["openvino", "onnx"],
)
def test_layers_are_ranked_by_the_error_that_they_add(
    kind: Callable[[Any, Any], int8.Quantiser], two_layers: Callable[[float, float], Any]
) -> None:
    images = [np.random.default_rng(number).random((1, 3, 4, 4), dtype=np.float32) for number in range(2)]
    quantiser = kind(two_layers(1, 1), images)
    assert quantiser.layers(two_layers(1.5, 1.01)) == {"first": "images", "second": "first, activated"}
    assert int8.costliest_layers(quantiser, two_layers(1.5, 1.01)) == ["first", "second"]
    assert int8.costliest_layers(quantiser, two_layers(1.001, 1.5)) == ["second", "first"]


class Doubling:
    """Pretends to be a quantiser of ten layers, whose networks are the numbers of those that are in float32."""

    exact, inputs = None, ()

    def quantised(self, kept: Sequence[str] = ()) -> int:
        assert list(kept) == list("abcdefghij")[: len(kept)]
        return len(kept)

    def layers(self, network: int) -> dict[str, str]:
        return dict.fromkeys("abcdefghij", "images")


@pytest.mark.parametrize(
    ("allowed", "tried", "reached"),
    [(20, [0], 90.0), (8, [0, 1, 2], 92.0), (5, [0, 1, 2, 4, 8], 98.0), (0.5, [0, 1, 2, 4, 8], 98.0)],
)
def test_layers_go_back_until_enough_is_kept_or_half_of_them_are(
    monkeypatch: pytest.MonkeyPatch, allowed: float, tried: list[int], reached: float
) -> None:
    monkeypatch.setattr(int8, "costliest_layers", lambda *_: list("abcdefghij"))
    asked: list[int] = []

    def score(network: int) -> float:
        asked.append(network)
        return 90.0 + network

    made = int8.quantise(Doubling(), score, 100.0, allowed)  # type: ignore[arg-type]
    assert (asked, made.network, made.restored) == (tried, tried[-1], tried[-1])
    assert (made.score, made.layers) == (reached, 10)


def test_an_onnx_file_in_int8(models: Models, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (128, 96))
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    model, path, handlers = models("segformer_b0"), tmp_path / "a.onnx", list(logging.getLogger().handlers)
    written = terrazzo.export(model, path, precision="int8", calibrate=[str(tmp_path / "*.png")], max_loss=60)
    assert written.agreement is not None and 0.4 < written.agreement < 1
    assert written.int8 is not None and written.int8.restored == 0
    proto = onnx.load(path)
    by_weights = [node.op_type for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(by_weights) / 2 < written.int8.layers < len(by_weights)
    assert [function.name for function in proto.functions] == ["MultiHeadAttention"]  # runtimes that lack it need it
    assert [entry.key for entry in proto.metadata_props] == [METADATA_KEY, "written_by"]
    assert logging.getLogger().handlers == handlers
    images = rng.random((2, 3, 61, 97), dtype=np.float32)
    for kind in (OnnxRuntimeEngine, OpenVINOEngine):
        engine = kind(path)
        assert engine.description.precision == "int8" and engine.description.labels == model.labels
        exact = TorchEngine(model.network)(images)
        assert 1e-4 < np.abs(engine(images) - exact).mean() / np.abs(exact).mean() < 0.2


def ten_images(shared_data: Path) -> list[str]:
    return [str(shared_data / "camvid" / "train" / "images" / f"0001TP_00{number}*") for number in (67, 68, 69)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.xml", "a.onnx"])
def test_an_int8_file_is_smaller_and_nearly_the_same(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("nncf")
    path, images = tmp_path / name, ten_images(shared_data)
    written = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=images)
    assert written.agreement is not None and 0.98 < written.agreement < 1
    assert written.int8 is not None and written.int8.restored == 0 and written.int8.layers > 50
    assert written.size < 5e6
    engine = OpenVINOEngine(path) if path.suffix == ".xml" else OnnxRuntimeEngine(path)
    assert engine.description.precision == "int8"
    before = path.read_bytes()
    monkeypatch.setattr(int8, "costliest_layers", lambda *_: [])  # none goes back, and nothing gets better
    with pytest.raises(CheckpointError) as caught:
        terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=images, max_loss=0.0)
    assert caught.value.code == "export-loss"
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.xml", "a.onnx"])
def test_layers_that_cost_too_much_go_back_to_float32(shared_data: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("nncf")
    path, images = tmp_path / name, ten_images(shared_data)
    plain = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=images)
    assert plain.agreement is not None
    allowed = 100 * (1 - plain.agreement) / 2
    written = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=images, max_loss=allowed)
    assert written.int8 is not None and plain.int8 is not None and written.agreement is not None
    assert 0 < written.int8.restored < written.int8.layers
    assert 100 * (1 - written.agreement) <= allowed
    assert plain.size < written.size < 10e6
