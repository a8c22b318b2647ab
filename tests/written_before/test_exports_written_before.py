"""Exported files that an earlier version wrote run as they did, and say of themselves what they said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import DATA, EXPECTED, assert_agrees, image, unpacked

import terrazzo

NAMES = sorted(path.name.removesuffix(".xz") for path in (DATA / "exports").glob("*.xz") if ".bin" not in path.name)
TOLERANCES = {"fp16": 1e-2, "int8": 0.05}
"""The runtimes' own kernels for these types differ from processor to processor."""
NEEDS = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(DATA / "exports", tmp_path_factory.mktemp("exports"))


def test_one_of_each_kind_is_here() -> None:
    kinds = {(Path(name).suffix, Path(name).stem.rpartition("_")[2]) for name in NAMES}
    assert {(".onnx", "segformer"), (".onnx", "mask"), (".onnx", "fp16"), (".onnx", "int8")} <= kinds
    assert {(".xml", "segformer"), (".xml", "mask"), (".xml", "fp16"), (".xml", "int8")} <= kinds
    assert {(".pt2", "segformer"), (".pt2", "naive"), (".onnx", "naive"), (".onnx", "mmseg")} <= kinds


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "segformer.pt2" else name for name in NAMES]
)
def test_it_runs_as_before(name: str, folder: Path) -> None:
    pytest.importorskip(NEEDS[Path(name).suffix])
    expected: dict[str, Any] = json.loads(EXPECTED.read_text())[name]
    trusted = {"trust": True} if name.endswith(".pt2") else {}
    predictor = terrazzo.make_predictor(folder / name, **trusted)  # type: ignore[arg-type]
    assert predictor.labels.names[:2] == ("Sky", "Building") and predictor.labels.num_classes == 11
    assert (predictor.preprocess.short_side, predictor.preprocess.long_side) == (64, 128)
    assert predictor.preprocess.mean == (123.675, 116.28, 103.53)
    assert predictor.record["licence"] == "CC0-1.0" and predictor.record["val_mIoU"] == 61.25
    wants = "mask" not in expected
    result = terrazzo.predict(image(), predictor, probabilities=wants)
    if wants:
        assert result.probabilities is not None
        precision = Path(name).stem.rpartition("_")[2]
        assert_agrees(result.probabilities, expected, TOLERANCES.get(precision, 1e-4))
    else:
        mask = np.array(expected["mask"])
        assert len(np.unique(mask)) > 2
        assert (result.mask[::4, ::4] == mask).mean() > 0.98  # rounding decides where two classes tie
