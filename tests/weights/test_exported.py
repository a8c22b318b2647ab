"""What an exported file says about itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from terrazzo.errors import CheckpointError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.exported import ExportedDescription

DESCRIPTION = ExportedDescription(
    "segformer_b0",
    LabelSpec.bundled("camvid"),
    Preprocess(short_side=480, long_side=1920),
    output="mask",
    precision="int8",
    record={"val_mIoU": 66.1},
    name="segformer_b0.camvid",
)


def test_a_description_survives_its_text() -> None:
    assert ExportedDescription.from_json(DESCRIPTION.to_json(), "x.onnx") == DESCRIPTION


def test_a_file_of_somebody_else_is_told() -> None:
    with pytest.raises(CheckpointError, match="not written by terrazzo") as caught:
        ExportedDescription.from_json(None, "x.onnx")
    assert caught.value.code == "export-foreign"


@pytest.mark.parametrize(
    ("key", "value"), [("output", "heat"), ("precision", 3), ("labels", {}), ("preprocess", {"mean": 1}), ("record", 7)]
)
def test_a_damaged_description_is_told(key: str, value: object) -> None:
    values = {**json.loads(DESCRIPTION.to_json()), key: value}
    with pytest.raises(CheckpointError, match=r"x\.onnx has a damaged description"):
        ExportedDescription.from_json(json.dumps(values), "x.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"format_version": 1}'])
def test_text_that_is_no_description_is_told(text: str) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        ExportedDescription.from_json(text, "x.onnx")


def test_a_newer_version_is_told() -> None:
    with pytest.raises(CheckpointError, match="format version 2"):
        ExportedDescription.from_json('{"format_version": 2}', "x.onnx")


def test_reading_one_does_not_import_torch() -> None:
    code = "import terrazzo.weights.exported, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
