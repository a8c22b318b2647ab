"""Int8: smaller, nearly the same, and refused where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import terrazzo
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.exports.int8 import refuse_loss, split_photos
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
    refuse_loss(0.99, 1.5)
    for agreed in (0.98, float("nan")):
        with pytest.raises(CheckpointError) as caught:
            refuse_loss(agreed, 1.5)
        assert caught.value.code == "export-loss"


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


@pytest.mark.slow
def test_an_int8_file_is_smaller_and_nearly_the_same(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    photos = str(shared_data / "camvid" / "train" / "images" / "0001TP*")
    path = tmp_path / "a.xml"
    written = terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=[photos])
    assert written.agreement is not None and 0.98 < written.agreement < 1
    assert path.with_suffix(".bin").stat().st_size < 5e6
    assert OpenVINOEngine(path).description.precision == "int8"
    before = path.read_bytes()
    with pytest.raises(CheckpointError):
        terrazzo.export("segformer_b0.camvid", path, precision="int8", calibrate=[photos], max_loss=0.0)
    assert path.read_bytes() == before
