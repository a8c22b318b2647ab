"""What goes wrong while exporting, or with exported files, is told, and leaves what was there (FAULTS 75-79)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import terrazzo
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.parity import check_parity
from terrazzo.engines.torch_export import TorchExportEngine
from terrazzo.errors import CheckpointError, ConfigError, OutputError
from terrazzo.exports import export as export_module
from terrazzo.exports.export import Export
from terrazzo.models.segmenter import Segmenter
from terrazzo.weights.files import TrainedModel
from tiny_models import tiny_model

Models = Callable[[str], TrainedModel]


class Plain(nn.Module):
    """An encoder of one convolution."""

    channels, strides = (16,), (4,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, 4)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(images)]


class Inverse(nn.Module):
    """A decoder with an operation that ONNX has not."""

    num_classes = 11

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        gram = features[0].mean((2, 3))[:, :, None] + torch.eye(16)
        return features[0][:, :11] + torch.linalg.inv(gram)[:, :11, :1, None]


# -- 75: an operation that the format has not ------------------------------------------------------------------------


def test_an_operation_that_onnx_has_not_is_named_and_leaves_no_file(models: Models, tmp_path: Path) -> None:
    model = models("segformer_b0")
    network = Segmenter(Plain(), Inverse())
    with pytest.raises(ConfigError, match="inv") as caught:
        terrazzo.export(TrainedModel("strange", network, model.labels, model.preprocess), tmp_path / "a.onnx")
    assert caught.value.code == "export-operation"
    assert list(tmp_path.iterdir()) == []


# -- 76: a size that was not declared --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "engine", "least"),
    [(".onnx", OnnxRuntimeEngine, 29), (".xml", OpenVINOEngine, 29), (".pt2", TorchExportEngine, 17)],
)
def test_a_size_outside_of_the_declared_range_is_refused(
    suffix: str, engine: Callable[[Path], Callable[..., object]], least: int, exported: Callable[..., Export]
) -> None:
    written = exported(suffix)
    assert written.description.minimum_side == least
    run = engine(written.path)
    run(np.zeros((1, 3, least, least), np.float32))
    with pytest.raises(ConfigError, match=f"{least} or more, and this one is {least - 1}") as caught:
        run(np.zeros((1, 3, least, least - 1), np.float32))
    assert caught.value.code == "export-size"


# -- 77: another result ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["shifted", "nan", "other size"])
def test_a_file_that_computes_something_else_is_refused(
    wrong: str, exported: Callable[..., Export], models: Models
) -> None:
    written = exported(".onnx")
    run = OnnxRuntimeEngine(written.path)

    def spoiled(images: np.ndarray) -> np.ndarray:
        logits = run(images)
        if wrong == "shifted":
            logits[:, 0, 0, 0] += 0.01
        elif wrong == "nan":
            logits[-1, -1, -1, -1] = np.nan
        else:
            logits = logits[:, :, :-1]
        return logits

    with pytest.raises(CheckpointError, match="does not compute what tiny does") as caught:
        check_parity(models("segformer_b0").network, spoiled, written.description)
    assert caught.value.code == "export-parity"


def test_a_file_that_fails_its_comparison_never_takes_its_place(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_model("segformer_b0")
    with torch.no_grad():
        other.network.decoder.classifier.bias[3] += 0.01
    right = export_module.check_parity
    monkeypatch.setattr(export_module, "check_parity", lambda network, *rest: right(other.network, *rest))
    for name in ("a.onnx", "a.xml"):
        (tmp_path / name).write_text("old")
        with pytest.raises(CheckpointError, match="was not kept"):
            terrazzo.export(models("segformer_b0"), tmp_path / name, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.onnx": "old", "a.xml": "old"}


# -- 78: weights outside of the file's folder ------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "inner/../../secret.bin"])
@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, OpenVINOEngine])
def test_weights_outside_of_the_files_folder_are_refused(
    engine: Callable[[Path], object], location: str, exported: Callable[..., Export], tmp_path: Path
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    folder = tmp_path / "model"
    folder.mkdir()
    proto = onnx.load(exported(".onnx").path)
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="outside its own folder") as caught:
        engine(folder / "a.onnx")
    assert caught.value.code == "export-outside"


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["logits"])], "g", [value], [value])
    graph.output[0].name = "logits"
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(CheckpointError) as caught:
        OnnxRuntimeEngine(tmp_path / "a.onnx")
    assert caught.value.code == "export-foreign"


# -- 79: the place ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.onnx", "a.xml"])
def test_when_the_disk_is_full_the_old_file_stays(
    name: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("segformer_b0")
    terrazzo.export(model, tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("terrazzo.atomic.os.fsync", full)
    with pytest.raises(OutputError) as caught:
        terrazzo.export(model, tmp_path / name)
    assert caught.value.code == "output-disk-full"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_openvino_on_a_full_disk_says_so(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:  # what it says of a full disk
        raise RuntimeError("Check '!m_bin_file.fail()' failed: Output file could not be written")

    monkeypatch.setattr("openvino.save_model", no_room)
    with pytest.raises(OutputError) as other:
        terrazzo.export(models("segformer_b0"), tmp_path / "a.xml")
    assert other.value.code == "output"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("terrazzo.exports.openvino.os.fsync", full)
    with pytest.raises(OutputError) as caught:
        terrazzo.export(models("segformer_b0"), tmp_path / "a.xml")
    assert caught.value.code == "output-disk-full" and "a.xml" in caught.value.message
    assert not list(tmp_path.iterdir())


def test_an_old_file_is_replaced_by_a_new_one(models: Models, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("old")
    terrazzo.export(models("setr_naive_tiny"), tmp_path / "a.onnx", overwrite=True)
    assert OnnxRuntimeEngine(tmp_path / "a.onnx").description.architecture == "setr_naive_tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_other_things_at_the_place_are_left_alone(models: Models, tmp_path: Path) -> None:
    model = models("setr_naive_tiny")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "weights.bin").write_text("of another program")
    for name, code in [
        ("folder.onnx", "output-is-a-folder"),
        ("weights.xml", "output-not-ours"),
    ]:
        with pytest.raises(OutputError) as caught:
            terrazzo.export(model, tmp_path / name)
        assert caught.value.code == code
    assert (tmp_path / "weights.bin").read_text() == "of another program"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.onnx", "weights.bin"]
