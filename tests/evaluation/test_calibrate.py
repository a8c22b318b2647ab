"""`calibrate`: the temperature is found, is stored, and travels with the weights; masks stay."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.engines.conversion_cache import _state_identity
from terrazzo.errors import CheckpointError, ConfigError, OutputError
from terrazzo.graphs.onnx import describe
from terrazzo.weights.exported import ExportedDescription
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from terrazzo.weights.huggingface import save_huggingface
from tiny_models import tiny_model


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    tiny = tiny_model("segformer_b0")
    tiny.network.decoder.classifier.weight.data *= 8  # sure of itself
    return tiny


@pytest.fixture(scope="module")
def data(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos whose labels are what the model says, but for a third of the pixels."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)
    for number in range(2):
        image = rng.integers(0, 256, (96, 96, 3)).astype(np.uint8)
        mask = terrazzo.predict(image, model).mask
        mask = np.where(rng.random(mask.shape) < 1 / 3, rng.integers(0, 11, mask.shape), mask).astype(np.uint8)
        Image.fromarray(image).save(root / "val" / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "val" / "masks" / f"{number}.png")
    (root / "labels.yaml").write_text(f"names: {list(model.labels.names)}\n")
    return root


@pytest.fixture
def folder(model: TrainedModel, tmp_path: Path) -> Path:
    save_folder(tmp_path / "run" / "model", model)
    return tmp_path / "run"


def test_the_run_folder_gets_the_temperature_and_evaluate_uses_it(data: Path, folder: Path) -> None:
    before = terrazzo.evaluate(folder, data)
    weights = (folder / "model" / "model.safetensors").read_bytes()
    result = terrazzo.calibrate(folder, data)
    after = terrazzo.evaluate(folder, data)
    assert before.calibration is not None and after.calibration is not None
    assert result.temperature > 1 and result.folder == folder / "model"
    assert after.calibration.temperature == pytest.approx(result.temperature)
    assert result.before.nll == pytest.approx(before.calibration.nll, abs=1e-3)
    assert result.after.nll == pytest.approx(after.calibration.nll, abs=1e-3)
    assert after.calibration.nll < before.calibration.nll
    assert np.array_equal(before.confusion, after.confusion)  # the masks
    assert (folder / "model" / "model.safetensors").read_bytes() == weights
    again = terrazzo.calibrate(folder, data)  # from the model's own logits, not from scaled ones
    assert again.temperature == pytest.approx(result.temperature)
    for near in (0.9, 1.1):  # it is the minimum
        values = json.loads((folder / "model" / "config.json").read_text())
        (folder / "model" / "config.json").write_text(json.dumps({**values, "temperature": near * result.temperature}))
        other = terrazzo.evaluate(folder, data).calibration
        assert other is not None and other.nll > after.calibration.nll


def test_the_command_writes_a_copy_and_leaves_the_model(
    data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "model" / "config.json").read_bytes()
    main(["calibrate", str(folder), "--data", str(data), "--output", str(tmp_path / "copy")])
    said = capsys.readouterr().out
    assert (folder / "model" / "config.json").read_bytes() == before
    temperature = load_folder(tmp_path / "copy").temperature
    assert temperature > 1 and f"temperature {temperature:.4f}, fitted on 2 photos" in said
    assert terrazzo.predict(np.zeros((32, 32, 3), np.uint8), tmp_path / "copy").mask.shape == (32, 32)
    with pytest.raises(OutputError):
        terrazzo.calibrate(folder, data, tmp_path / "copy")


def test_what_cannot_be_written_into_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    for model in ("segformer_b0.camvid", str(tmp_path / "a.onnx"), str(tmp_path / "nothing")):
        with pytest.raises(ConfigError) as caught:
            terrazzo.calibrate(model, "no-such-data")
        assert caught.value.code == "calibration-model"


@pytest.mark.parametrize("value", [0, -1, "2", True, 1e9, None, [1.0]])
def test_a_temperature_that_is_none_is_told(model: TrainedModel, folder: Path, value: object) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": value}))
    with pytest.raises(CheckpointError) as caught:
        terrazzo.load(folder)
    assert caught.value.code == "checkpoint-temperature" and "config.json" in caught.value.message


@pytest.mark.filterwarnings("ignore:transformers' image processor:terrazzo.TerrazzoWarning")
def test_it_travels(model: TrainedModel, tmp_path: Path) -> None:
    hot = replace(model, temperature=1.75)
    save_folder(tmp_path / "ours", hot)
    assert load_folder(tmp_path / "ours").temperature == 1.75
    save_huggingface(tmp_path / "theirs", hot)
    assert terrazzo.load(tmp_path / "theirs").temperature == 1.75
    shutil.rmtree(tmp_path / "ours")
    terrazzo.convert(tmp_path / "theirs", tmp_path / "ours")
    assert load_folder(tmp_path / "ours").temperature == 1.75
    described = ExportedDescription.from_json(describe(hot, "logits", "fp32").to_json(), "x")
    assert described.temperature == 1.75
    assert _state_identity(hot) != _state_identity(model)  # or a kept conversion would have the other one
    # A folder and a file from before the temperature have none.
    save_folder(tmp_path / "plain", model)
    assert "temperature" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    old = json.loads(describe(model, "logits", "fp32").to_json())
    del old["temperature"]
    assert ExportedDescription.from_json(json.dumps(old), "x").temperature == 1
