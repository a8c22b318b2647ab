"""Exported files compute what their models do, for any batch and size, and say what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import terrazzo
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.parity import SIZES
from terrazzo.engines.torch_export import TorchExportEngine
from terrazzo.errors import ConfigError
from terrazzo.exports.export import Export
from terrazzo.graphs import OPSET
from terrazzo.graphs.onnx import onnx_model, write_onnx
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription
from terrazzo.weights.files import TrainedModel
from tiny_models import ARCHITECTURES

Models = Callable[[str], TrainedModel]
SUFFIXES = {".onnx": OnnxRuntimeEngine, ".xml": OpenVINOEngine, ".pt2": TorchExportEngine}


def eager(model: TrainedModel, images: NDArray[np.float32]) -> torch.Tensor:
    with torch.inference_mode():
        return model.network(torch.from_numpy(images))


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_of_ours_gives_its_own_logits(architecture: str, models: Models, tmp_path: Path) -> None:
    model = models(architecture)
    description = write_onnx(model, tmp_path / "a.onnx")
    engines = OnnxRuntimeEngine(tmp_path / "a.onnx"), OpenVINOEngine(tmp_path / "a.onnx")
    least = description.minimum_side
    assert least == (29 if architecture.startswith("segformer") else 1)
    for shape in [(3, 3, 97, 131), (1, 3, 64, 96), (2, 3, least, least + 1), (1, 3, least, 200)]:
        images = noise(*shape)
        expected = eager(model, images)
        for engine in engines:
            np.testing.assert_allclose(engine(images), expected, atol=3e-5, err_msg=str(shape))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_passes_its_comparison_and_says_what_it_is(
    suffix: str, exported: Callable[..., Export], models: Models
) -> None:
    written = exported(suffix)
    model = models(written.description.architecture)
    assert written.parity is not None and written.parity.passed
    assert len(written.parity.comparisons) == 2 * len(SIZES)
    assert max(c.difference or 0.0 for c in written.parity.comparisons) < 1e-5
    description = SUFFIXES[suffix](written.path).description
    assert description == written.description
    assert (description.architecture, description.labels) == (model.architecture, model.labels)
    assert (description.preprocess, description.record) == (model.preprocess, model.record)
    assert description.output == "logits"
    files = [written.path, *([written.path.with_suffix(".bin")] if suffix == ".xml" else [])]
    assert written.size == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_mask_is_the_argmax_at_the_inputs_size(suffix: str, exported: Callable[..., Export], models: Models) -> None:
    engine = SUFFIXES[suffix](exported(suffix, "mask").path)
    images = noise(2, 3, 61, 90)
    mask = engine(images)
    assert mask.dtype == np.uint8
    large = F.interpolate(eager(models("segformer_b0"), images), (61, 90), mode="bilinear")
    best = large.topk(2, dim=1).values
    differs = torch.from_numpy(mask) != large.argmax(1)
    assert not (differs & (best[:, 0] - best[:, 1] > 1e-5)).any()
    assert len(np.unique(mask)) > 2


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 3), height=st.integers(29, 140), width=st.integers(29, 140))
def test_any_size_gives_the_models_logits(batch: int, height: int, width: int) -> None:
    model, engine = _any_size()
    images = noise(batch, 3, height, width)
    np.testing.assert_allclose(engine(images), eager(model, images), atol=3e-5)


_made: list[tuple[TrainedModel, OnnxRuntimeEngine]] = []


@pytest.fixture(autouse=True)
def _make(exported: Callable[..., Export], models: Models) -> None:
    if not _made:
        _made.append((models("segformer_b0"), OnnxRuntimeEngine(exported(".onnx").path)))


def _any_size() -> tuple[TrainedModel, OnnxRuntimeEngine]:
    return _made[0]


def test_an_onnx_file_states_its_opset_and_holds_only_our_metadata(exported: Callable[..., Export]) -> None:
    written = exported(".onnx")
    proto = onnx.load(written.path)
    (attention,) = proto.functions
    defined = (attention.domain, 1)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET), defined]
    assert {(node.domain, node.op_type) for node in proto.graph.node if node.domain} == {
        (attention.domain, attention.name)
    }
    assert written.opset == OPSET
    assert [entry.key for entry in proto.metadata_props] == [METADATA_KEY, "written_by"]
    operators = {node.op_type for node in (*proto.graph.node, *attention.node)}
    assert {"LayerNormalization", "Gelu", "Softmax"} <= operators
    assert not operators & {"BatchNormalization", "Erf", "ReduceMean"}
    assert str(Path.home()).encode() not in written.path.read_bytes()


def test_attention_as_the_file_defines_it_gives_the_same_as_the_runtimes_own(
    exported: Callable[..., Export], tmp_path: Path
) -> None:
    proto = onnx.load(exported(".onnx").path)
    (attention,) = proto.functions
    for owner in (attention, proto.opset_import[1], *proto.graph.node):
        if owner.domain == attention.domain and owner is not attention:
            owner.domain = "definition"  # which no runtime has an operator in
    attention.domain = "definition"
    onnx.save(proto, tmp_path / "defined.onnx")
    images = noise(2, 3, 70, 96)
    _, engine = _any_size()
    np.testing.assert_allclose(OnnxRuntimeEngine(tmp_path / "defined.onnx")(images), engine(images), atol=1e-4)


def test_a_file_can_be_given_a_fixed_size(exported: Callable[..., Export]) -> None:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    for name, size in {"batch": 1, "height": 64, "width": 96}.items():
        settings.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(str(exported(".onnx").path), settings, providers=["CPUExecutionProvider"])
    images = noise(1, 3, 64, 96)
    np.testing.assert_allclose(session.run(None, {"images": images})[0], _any_size()[1](images), atol=1e-4)


@pytest.mark.parametrize(("suffix", "weights"), [(".onnx", ".onnx"), (".xml", ".bin")])
def test_half_precision_takes_half_the_space_and_gives_nearly_the_same(
    suffix: str, weights: str, models: Models, tmp_path: Path
) -> None:
    model = models("setr_naive_tiny")
    for precision in ("fp32", "fp16"):
        terrazzo.export(model, tmp_path / f"{precision}{suffix}", precision=precision)  # type: ignore[arg-type]
    sizes = [(tmp_path / f"{precision}{weights}").stat().st_size for precision in ("fp32", "fp16")]
    assert sizes[1] < 0.7 * sizes[0]
    engine = SUFFIXES[suffix](tmp_path / f"fp16{suffix}")
    images = noise(1, 3, 64, 64)
    difference = np.abs(engine(images) - eager(model, images).numpy()).max()
    assert 1e-6 < difference < 2e-2
    assert engine.description.precision == "fp16"


def test_weights_too_large_for_half_precision_stay_as_they_are(models: Models) -> None:
    model = terrazzo.TrainedModel("x", _scaled(models("setr_naive_tiny")), models("setr_naive_tiny").labels, _plain())
    description = ExportedDescription("x", model.labels, model.preprocess, precision="fp16")
    proto = onnx_model(model.network, description)
    for tensor in proto.graph.initializer:
        assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all()


def _scaled(model: TrainedModel) -> Any:
    import copy

    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.decoder.classifier.weight.mul_(1e9)
    return network


def _plain() -> terrazzo.Preprocess:
    return terrazzo.Preprocess()


def test_the_suffix_says_the_format(models: Models, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        terrazzo.export(models("segformer_b0"), tmp_path / "a.bin")
    assert caught.value.code == "export-suffix"
    with pytest.raises(ConfigError) as caught:
        terrazzo.export(models("segformer_b0"), tmp_path / "a.onnx", "openvino")
    assert caught.value.code == "export-suffix"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"format": "tflite"}, "export-format"),
        ({"output_kind": "heat"}, "export-output"),
        ({"precision": "fp8"}, "export-precision"),
    ],
)
def test_unknown_options_are_told(options: dict[str, Any], code: str, models: Models, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        terrazzo.export(models("segformer_b0"), tmp_path / "a.onnx", **options)
    assert caught.value.code == code


def test_the_shipped_models_masks_are_the_same_on_images(shared_data: Path, tmp_path: Path) -> None:
    model = terrazzo.load("segformer_b0.camvid")
    photos = sorted((shared_data / "camvid" / "val" / "images").iterdir())[:2]
    expected = [terrazzo.predict(image, model).mask for image in photos]
    for name in ("a.onnx", "a.xml"):
        path = terrazzo.export(model, tmp_path / name).path
        for image, mask in zip(photos, expected, strict=True):
            np.testing.assert_array_equal(terrazzo.predict(image, str(path)).mask, mask)


@pytest.mark.slow
@pytest.mark.parametrize("output_kind", ["logits", "mask"])
def test_a_segformer_passes_as_torch_export(output_kind: Any, tmp_path: Path, models: Models) -> None:
    written = terrazzo.export(models("segformer_b0"), tmp_path / "a.pt2", output_kind=output_kind)
    assert written.description.minimum_side == 61


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", [*(f"segformer_b{size}" for size in range(6)), "setr_naive_base", "setr_pup_base", "setr_mla_base"]
)
def test_models_of_full_size_pass(architecture: str, tmp_path: Path, models: Models) -> None:
    torch.manual_seed(0)
    network = terrazzo.create_model(architecture, 19).eval()
    labels = terrazzo.LabelSpec.bundled("cityscapes")
    model = terrazzo.TrainedModel(architecture, network, labels, terrazzo.Preprocess())
    assert terrazzo.export(model, tmp_path / "a.onnx").parity.passed
