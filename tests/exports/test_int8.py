"""Int8: smaller, nearly the same, and refused where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import terrazzo
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.exports import int8
from terrazzo.exports.int8 import agreement, refuse_loss, split_photos
from terrazzo.exports.onnx import describe
from terrazzo.weights.files import TrainedModel

Models = Callable[[str], TrainedModel]


def test_int8_needs_photos_and_openvino(models: Models, tmp_path: Path) -> None:
    model = models("segformer_b0")
    for name, options, code in [
        ("a.xml", {"precision": "int8"}, "export-calibrate"),
        ("a.xml", {"calibrate": ["x.png"]}, "export-calibrate"),
        ("a.onnx", {"precision": "int8", "calibrate": ["x.png"]}, "export-precision"),
        ("a.xml", {"precision": "int8", "calibrate": ["x.png"], "output_kind": "mask"}, "export-precision"),
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


def test_photos_for_the_gate_are_held_back_from_calibration(tmp_path: Path) -> None:
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.zeros((2, 2, 3), np.uint8))
    photos, checked = split_photos([str(tmp_path)])
    assert len(photos) + len(checked) == 40 and not set(photos) & set(checked)
    assert len(checked) >= 8
    few = sorted(tmp_path.iterdir())[:3]
    assert split_photos([str(path) for path in few]) == (few, few)
    every, none = split_photos([str(tmp_path)], hold_back=False)  # labelled photos take their place
    assert len(every) == 40 and none == []


def two_layers(first: float, second: float) -> Any:
    """Two matrix products by the identity, as int8 has them: weights times a scale, which is a little off."""
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    images = x = ops.parameter([1, 3, 4, 4], np.float32, name="images")
    for name, scale in (("first", first), ("second", second)):
        weight = ops.multiply(ops.constant(np.eye(4, dtype=np.float32)), ops.constant(np.float32(scale)))
        x = ops.relu(ops.matmul(x, weight, False, False, name=name), name=f"{name}, activated")
    return openvino.Model([x], [images])


def test_layers_are_ranked_by_the_error_that_they_add() -> None:
    images = [np.random.default_rng(number).random((1, 3, 4, 4), dtype=np.float32) for number in range(2)]
    exact = two_layers(1, 1)
    assert sorted(int8.int8_layers(exact)) == ["first", "second"]
    assert int8.costliest_layers(exact, two_layers(1.5, 1.01), images) == ["first", "second"]
    assert int8.costliest_layers(exact, two_layers(1.001, 1.5), images) == ["second", "first"]


def ten_photos(shared_data: Path) -> list[str]:
    return [str(shared_data / "camvid" / "train" / "images" / f"0001TP_00{number}*") for number in (67, 68, 69)]


@pytest.mark.slow
def test_an_int8_file_is_smaller_and_nearly_the_same(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    path, photos = tmp_path / "a.xml", ten_photos(shared_data)
    written = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=photos)
    assert written.agreement is not None and 0.98 < written.agreement < 1
    assert written.int8 is not None and written.int8.restored == 0 and written.int8.layers > 50
    assert path.with_suffix(".bin").stat().st_size < 5e6
    assert OpenVINOEngine(path).description.precision == "int8"
    before = path.read_bytes()
    monkeypatch.setattr(int8, "costliest_layers", lambda *_: [])  # none goes back, and nothing gets better
    with pytest.raises(CheckpointError) as caught:
        terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=photos, max_loss=0.0)
    assert caught.value.code == "export-loss"
    assert path.read_bytes() == before


@pytest.mark.slow
def test_layers_that_cost_too_much_go_back_to_float32(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    path, photos = tmp_path / "a.xml", ten_photos(shared_data)
    plain = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=photos)
    assert plain.agreement is not None
    allowed = 100 * (1 - plain.agreement) / 2
    written = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=photos, max_loss=allowed)
    assert written.int8 is not None and plain.int8 is not None and written.agreement is not None
    assert 0 < written.int8.restored < written.int8.layers
    assert 100 * (1 - written.agreement) <= allowed
    assert plain.size < written.size < 10e6
