"""Labelled photos decide: both figures are measured, kept in the file and printed, and too great a loss leaves none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import terrazzo
from terrazzo.cli.main import main
from terrazzo.errors import CheckpointError, ConfigError, DatasetError
from terrazzo.exports.accuracy_gate import RECORD_KEY, Accuracy, refuse_miou_loss
from terrazzo.inference.predict import make_predictor
from terrazzo.weights.files import TrainedModel

Models = Callable[[str], TrainedModel]
Falling = Callable[..., dict[str, Any]]
ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}


@pytest.fixture
def data(tmp_path: Path, models: Models) -> Path:
    """Three photos whose masks are what the tiny SegFormer makes of them, but for a corner."""
    predictor = make_predictor(models("segformer_b0"), engine="torch")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / "val" / folder).mkdir(parents=True)
    for number in range(3):
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (128, 96))
        (mask,) = predictor.masks([image])
        mask[:8, :8] = number
        cv2.imwrite(str(tmp_path / "data" / "val" / "images" / f"{number}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / "data" / "val" / "masks" / f"{number}.png"), mask)
    return tmp_path / "data"


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Let mIoU take one value after the other, whatever is measured, and return options of `export` that measure it."""

    def set_scores(*scores: float) -> dict[str, Any]:
        rest = list(scores)

        def evaluate(*_args: Any, **_options: Any) -> SimpleNamespace:
            metrics = SimpleNamespace(mIoU=rest.pop(0))
            return SimpleNamespace(metrics=metrics, dataset="photos", split="val", images=3)

        monkeypatch.setattr("terrazzo.exports.accuracy_gate.evaluate", evaluate)
        return {"precision": "fp16", "data": "photos"}

    return set_scores


@pytest.mark.parametrize("kind", ENDINGS)
def test_both_figures_are_measured_and_kept_in_the_file(kind: str, models: Models, data: Path, tmp_path: Path) -> None:
    model, path = models("segformer_b0"), tmp_path / f"a{ENDINGS[kind]}"
    written = terrazzo.export(model, path, precision="fp16", data=data, labels="camvid")
    accuracy = written.accuracy
    assert accuracy is not None and written.parity is not None
    assert accuracy.exact == terrazzo.evaluate(model, data, labels="camvid").metrics.mIoU
    assert 50 < accuracy.exact < 100
    from_file = make_predictor(path)
    assert terrazzo.evaluate(from_file, data, labels="camvid").metrics.mIoU == pytest.approx(accuracy.written)
    kept = from_file.record[RECORD_KEY]
    assert kept == accuracy.to_dict() == written.description.record[RECORD_KEY]
    assert kept["mIoU_fp32"] == round(accuracy.exact, 2)
    assert (kept["data"], kept["split"], kept["images"]) == ("data", "val", 3)
    assert from_file.record["val_mIoU"] == model.record["val_mIoU"]  # what it knew before is still there


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_file_that_loses_too_much_never_reaches_its_place(
    kind: str, models: Models, falling: Falling, tmp_path: Path
) -> None:
    path = tmp_path / f"a{ENDINGS[kind]}"
    model = models("setr_naive_tiny")
    with pytest.raises(CheckpointError, match=r"fp32 64\.00, fp16 62\.50, 1\.50 points lost; 1 is") as caught:
        terrazzo.export(model, path, **falling(64.0, 62.5))
    assert caught.value.code == "export-loss"
    assert list(tmp_path.iterdir()) == []
    terrazzo.export(model, path, **falling(64.0, 62.5), max_loss=2)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert path in before
    with pytest.raises(CheckpointError):
        terrazzo.export(model, path, **falling(64.0, 63.9), max_loss=0.05)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_mask_file_is_measured_too(models: Models, data: Path, tmp_path: Path) -> None:
    options = {"precision": "fp16", "data": data, "labels": "camvid", "max_loss": 100}
    written = terrazzo.export(models("segformer_b0"), tmp_path / "a.onnx", output_kind="mask", **options)
    assert written.accuracy is not None and written.accuracy.written > 50


@pytest.mark.slow
def test_an_int8_file_is_measured_on_labelled_images(models: Models, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    path = tmp_path / "a.xml"
    photos = [str(data / "val" / "images")]
    options = {"data": data, "labels": "camvid", "max_loss": 100}
    written = terrazzo.export(models("segformer_b0"), path, precision="int8", calibrate=photos, **options)
    assert written.accuracy is not None and written.agreement is None
    assert written.accuracy.exact != written.accuracy.written
    kept = make_predictor(path).record[RECORD_KEY]
    assert kept["mIoU_int8"] == round(written.accuracy.written, 2)


def test_what_is_wrong_with_the_data_is_said_before_anything_is_written(
    models: Models, data: Path, tmp_path: Path
) -> None:
    (data / "labels.yaml").write_text("names: [a, b, c]\n")
    bare = tmp_path / "bare" / "val" / "images"
    bare.mkdir(parents=True)
    cv2.imwrite(str(bare / "0.png"), np.zeros((64, 64, 3), np.uint8))
    empty = tmp_path / "empty" / "val"
    for folder, channels in (("images", (3,)), ("masks", ())):
        (empty / folder).mkdir(parents=True)
        cv2.imwrite(str(empty / folder / "0.png"), np.full((64, 64, *channels), 255, np.uint8))
    before = sorted(tmp_path.iterdir())
    for options, code in [
        ({"data": data}, "dataset-classes"),
        ({"data": data, "split": "test"}, "dataset-split"),
        ({"data": tmp_path / "bare", "labels": "camvid"}, "dataset-layout"),
        ({"data": tmp_path / "nowhere"}, "dataset-missing"),
        ({"data": tmp_path / "empty", "labels": "camvid"}, "dataset-unlabelled"),
    ]:
        with pytest.raises(DatasetError) as caught:
            terrazzo.export(models("segformer_b0"), tmp_path / "a.onnx", precision="fp16", **options)
        assert caught.value.code == code, caught.value
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_in_fp32_needs_no_labelled_images(models: Models, tmp_path: Path) -> None:
    for name in ("a.onnx", "a.xml", "a.pt2"):
        with pytest.raises(ConfigError) as caught:
            terrazzo.export(models("segformer_b0"), tmp_path / name, data=tmp_path)
        assert caught.value.code == "export-data"


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_the_gate_lets_through_what_loses_no_more_than_is_allowed(before: float, after: float, allowed: float) -> None:
    accuracy = Accuracy(before, after, "int8", "d", "val", 1)
    json.dumps(accuracy.to_dict())
    if before - after <= allowed:
        refuse_miou_loss(accuracy, allowed)
    else:
        with pytest.raises(CheckpointError):
            refuse_miou_loss(accuracy, allowed)


def test_a_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(CheckpointError):
        refuse_miou_loss(Accuracy(50, float("nan"), "int8", "d", "val", 1), 100)


def test_the_command_prints_both_figures_and_refuses(
    models: Models, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrazzo.weights.load.load", lambda name: models("segformer_b0"))
    command = ["export", "--output", str(tmp_path / "a.onnx"), "--precision", "fp16"]
    command += ["--data", str(data), "--labels", "camvid"]
    main(command)
    assert "mIoU on data/val, 3 photos: fp32 " in capsys.readouterr().out
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(SystemExit) as caught:
        main([*command, "--max-loss", "-100"])
    assert caught.value.code == 2 and "error[export-loss]: mIoU on data/val" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()
