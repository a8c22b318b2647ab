"""The benchmark programs run: on cases so small that their figures mean nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run a program's main() with options; return what it printed."""
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name: str, *options: str) -> str:
        module = __import__(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return run


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("way", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_gpu_smoke(start, way: str) -> None:
    """Everything but the GPU itself: both sides, half precision, the training step."""
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    before = sorted(results.iterdir())
    text = start("gpu", "--device", "cpu", "--smoke", "--models", "b0", "--ways", f"{way},graph", "--write")
    assert sorted(results.iterdir()) == before  # a smoke run is never written
    assert "a smoke run, whose figures mean nothing" in text and "failed" not in text
    inference = [row for row in rows_of(text) if row[:2] == ["B0", "bf16"] and len(row) == 12]
    training = [row for row in rows_of(text) if row[:2] == ["B0", "bf16"] and len(row) == 8]
    assert [row[2] for row in inference] == ["1", "2"] and [row[2] for row in training] == ["2"]
    number = r"[\d.]+(e[+-]\d+)?"
    first = inference[0]
    assert re.fullmatch(f"{number} / {number}", first[3 if way == "eager" else 4])
    assert float(first[11]) < 1e-4 and float(first[6]) > 0
    assert first[5] == ""  # no CUDA graph on a CPU


@pytest.mark.parametrize("program", ["gpu", "gpu_check"])
def test_gpu_without_one(start, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA GPU here"):
        start(program)


@pytest.mark.slow
def test_gpu_check_rehearsed_on_a_cpu(start) -> None:
    rows = rows_of(start("gpu_check", "--device", "cpu", "--quick"))
    checks = [row for row in rows if row[-1] in ("yes", "NO")]
    assert [row[-1] for row in checks] == ["yes"] * 8
    kinds = [row[0].split()[0].rstrip(":,") for row in checks]
    assert kinds == ["predict"] * 3 + ["evaluate", "train", "train", "resume", "export"]
    measured = [row for row in rows if row[:2] == ["B0", "bf16"]]
    assert [row[2] for row in measured] == ["1", "2"] and all(float(row[6]) > 0 for row in measured)


def test_a_gpu_check_that_fails_is_a_row_and_the_exit_status(start, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_check  # type: ignore[import-not-found]

    def evaluate(checks) -> None:
        raise RuntimeError("CUDA error: no kernel image\nmore")

    def predict(checks) -> None:
        checks.compare("pixels", 0.5, 0.9)

    for name in ("train", "resume", "export", "make_photos"):
        monkeypatch.setattr(gpu_check, name, lambda checks: None)
    monkeypatch.setattr(gpu_check, "evaluate", evaluate)
    monkeypatch.setattr(gpu_check, "predict", predict)
    monkeypatch.setattr(gpu_check, "speeds", lambda *_: [])
    shown: list[str] = []
    monkeypatch.setattr(gpu_check, "publish", lambda _name, text, write: shown.append(text))
    with pytest.raises(SystemExit, match="1"):
        start("gpu_check", "--device", "cpu", "--quick")
    assert ["pixels", "50.0000%", "90.0000%", "NO"] in rows_of(shown[0])
    assert ["evaluate", "RuntimeError: CUDA error: no kernel image", "", "NO"] in rows_of(shown[0])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "peer"), [("segformer_b0", "transformers"), ("setr_mla_tiny", "literal")])
def test_engines(start, model: str, peer: str) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    options = ("--models", model, "--size", "64x96", "--classes", "5", "--rounds", "1")
    text = start("engines", *options)
    assert f"`python benchmarks/engines.py {' '.join(options)}`" in text
    rows = {row[0]: row for row in rows_of(text)}
    for way in ("ours, ONNX Runtime", "ours, OpenVINO", f"{peer}, ONNX Runtime", f"{peer}, OpenVINO", "ours, PyTorch"):
        assert float(rows[way][7]) < 1e-4
    assert rows[f"{peer}, PyTorch"][2] == "1.00"


@pytest.mark.slow
def test_directory(start, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    folder = tmp_path / "some"
    folder.mkdir()
    for number in range(3):
        image = np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), 12, 0), 12, 1)
        Image.fromarray(image).save(folder / f"{number}.png")
    text = start("directory", "--photos", str(folder), "--peer-count", "2")
    rows = {row[0]: row for row in rows_of(text)}
    for engine in ("torch", "onnxruntime", "openvino"):
        found = re.fullmatch(r"(\d+)( \(gap (.*)\))?", rows[f"ours, {engine}"][8])
        assert found is not None and int(found[1]) <= 2 and float(found[3] or 0) < 1e-4
    assert "transformers, 2 photos" in rows


@pytest.mark.slow
def test_image_to_mask(start) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    text = start("photo_to_mask", "--rounds", "1")
    rows = {row[0]: row for row in rows_of(text)}
    assert {"ours, PyTorch", "ours, ONNX Runtime", "ours, OpenVINO", "transformers", "network"} <= set(rows)


@pytest.mark.slow
def test_precision(start, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nncf")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder, shape in (("images", (6, 8, 3)), ("masks", (6, 8))):
            place = tmp_path / "data" / split / folder
            place.mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256 if folder == "images" else 11, shape, dtype=np.uint8)
                Image.fromarray(np.repeat(np.repeat(pixels, 16, 0), 16, 1)).save(place / f"{number}.png")
    rows = {row[0]: row for row in rows_of(start("precision", "--data", str(tmp_path / "data"), "--rounds", "1"))}
    exact = rows["fp32, PyTorch"]
    for engine in ("ONNX Runtime", "OpenVINO"):
        assert rows[f"fp32, {engine}"][1:3] == [exact[1], "0.00"]
        assert float(rows[f"fp16 weights, {engine}"][3]) < 0.6 * float(exact[3])
        assert float(rows[f"int8, {engine}"][3]) < 0.4 * float(exact[3])
    if sys.modules["engines"].processor_has_bf16():  # type: ignore[attr-defined]
        assert abs(float(rows["bf16, PyTorch"][2])) < 5 and abs(float(rows["bf16, OpenVINO"][2])) < 5
    else:
        assert rows["bf16, PyTorch"][1] == rows["bf16, OpenVINO"][1] == ""


@pytest.mark.slow
def test_rasters_of_growing_size(start, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    photo = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos" / "photo.png")
    options = ["--photos", str(tmp_path / "photos"), "--folder", str(tmp_path / "scenes"), "--sides", "", "--narrow"]
    text = start("raster", *options, "1100")
    assert "| 1100 x 1100 | 4 | narrow |" in text
    again = start("raster", *options, "1100")  # what is done is kept
    assert text.splitlines()[-1] == again.splitlines()[-1]
