"""Times of layers by each engine's own counters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from terrazzo.engines.conversion_cache import FallingBack
from terrazzo.engines.engine import ENGINES, EngineOptions
from terrazzo.engines.layer_times import LayerTime, layer_times, mean_of_passes
from terrazzo.engines.torch import TorchEngine
from terrazzo.exports.export import export
from tiny_models import tiny_model

IMAGES = np.random.default_rng(0).standard_normal((1, 3, 64, 96), dtype=np.float32)
MODEL = tiny_model("segformer_b0")


def test_the_first_pass_is_not_counted_and_equal_layers_are_added() -> None:
    conv, shape = LayerTime("a", "Conv", "f32", 1.0), LayerTime("b", "Shape", "", 0.0)
    times = mean_of_passes([[replace(conv, seconds=100.0)], [conv, conv, shape], [replace(conv, seconds=4.0), shape]])
    assert times == [replace(conv, seconds=3.0)]


def test_pytorch_names_its_operators_their_types_and_sizes() -> None:
    times = layer_times(TorchEngine(MODEL.network), IMAGES)
    (first,) = [time for time in times if time.layer.startswith("(1,3,64,96)") and "convolution" in time.kind]
    assert first.kind == "mkldnn::_convolution_pointwise" and first.kernel == "f32" and first.seconds > 0


def test_onnx_runtime_names_its_layers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export(MODEL, tmp_path / "a.onnx")
    engine = ENGINES["onnxruntime"].open_file(tmp_path / "a.onnx", EngineOptions(1))
    expected = engine(IMAGES)
    times = layer_times(engine, IMAGES)
    assert {"Conv", "MultiHeadAttention", "LayerNormalization"} <= {time.kind for time in times}
    assert {time.kernel for time in times if time.kind == "LayerNormalization"} == {"float"}
    assert np.array_equal(engine(IMAGES), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_names_its_kernels_and_none_is_a_reference(precision: str, tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    if precision == "bf16" and "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16 instructions")
    export(MODEL, tmp_path / "a.xml")
    options = EngineOptions(1, precision=precision)  # type: ignore[arg-type]
    times = layer_times(ENGINES["openvino"].open_file(tmp_path / "a.xml", options), IMAGES)
    computing = [time for time in times if time.kind not in ("Reorder", "Transpose", "Parameter", "Result")]
    assert {"Convolution", "FullyConnected", "Interpolate"} <= {time.kind for time in computing}
    assert not [time for time in computing if time.kernel.startswith("ref")]
    if precision == "bf16":
        assert not [time for time in computing if time.kernel.endswith("f32")]


def test_small_images_are_counted_where_they_run() -> None:
    class Converted:
        def __call__(self, images_B3HW: object) -> object: ...

        def layer_times(self, images_B3HW: object) -> list[LayerTime]:
            return [LayerTime("converted", "", "", 1.0)]

    plain = TorchEngine(MODEL.network)
    engine = FallingBack(Converted(), 65, lambda: plain)  # type: ignore[arg-type]
    assert [time.layer for time in layer_times(engine, np.zeros((1, 3, 65, 65), np.float32))] == ["converted"]
    assert any(time.kind.startswith("mkldnn") for time in layer_times(engine, IMAGES))


def test_an_engine_without_counters_has_no_times() -> None:
    assert layer_times(lambda images: images, IMAGES) == []
