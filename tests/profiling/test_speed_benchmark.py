"""`terrazzo benchmark`, from the command to the figures; no time is asserted, only that there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from PIL import Image

from terrazzo.cli.main import main
from terrazzo.engines.engine import ENGINES
from terrazzo.engines.measured import kept_speeds
from terrazzo.errors import ConfigError, ImageError, TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.profiling import benchmark as benchmark_module
from terrazzo.profiling import choice
from terrazzo.profiling.benchmark import benchmark
from terrazzo.profiling.engine_process import EngineProcess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    labels = LabelSpec.from_names(["background", "leaf", "stem"])
    save_folder(folder, TrainedModel("segformer_b0", create_model("segformer_b0", 3), labels, Preprocess(), {}))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for place in ("one", "two"):  # the same name twice: masks must not be mixed up
        (folder / place).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / place / "a.png")
    return folder


def figures(model: Path, images: Path, tmp_path: Path, *options: str) -> dict[str, object]:
    file = tmp_path / "speed.json"
    main(["benchmark", "--model", str(model), "--rounds", "2", "--photos", str(images), "--json", str(file), *options])
    values: dict[str, object] = json.loads(file.read_text())
    return values


def test_pytorch_alone(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = figures(model, images, tmp_path, "--engine", "torch", "--size", "32x48", "--threads", "1", "--profile")
    assert (values["architecture"], values["classes"], values["size"]) == ("segformer_b0", 3, [32, 48])
    assert values["gemm_peak"] > 1e9 and values["operations"] > 1e6  # type: ignore[operator]
    (row,) = values["engines"]  # type: ignore[misc]
    assert len(row["wall"]["seconds"]) == len(row["cpu"]["seconds"]) == 2
    assert row["first_start"] > 0 and row["start"] > 0
    assert row["memory"] > 50e6 and row["difference"] < 1e-4 and row["differing"] <= 1 and row["pixels"] == 32 * 48
    assert (row["images"]["differing"], row["images"]["pixels"]) == (0, 2 * 40 * 60)
    table = capsys.readouterr().out
    assert "segformer_b0, 3 classes, photos of 32 x 48, batch of 1" in table
    assert len([line for line in table.splitlines() if line.startswith("torch ")]) == 3
    assert "torch by its own counters" in table and "mkldnn::_linear_pointwise" in table
    assert {"layer", "kind", "kernel", "seconds"} == row["layers"][0].keys()


@pytest.mark.slow
def test_all_engines_agree(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "SIZES", ((32, 64), (64, 64)))
    values = figures(model, images, tmp_path, "--size", "64x96", "--batch-size", "2", "--threads", "1")
    assert values["problems"] == []
    assert [row["engine"] for row in values["engines"]] == list(ENGINES)  # type: ignore[attr-defined]
    for row in values["engines"]:  # type: ignore[attr-defined]
        assert row["pixels"] == 2 * 64 * 96
        assert row["difference"] < 1e-4 and row["differing"] <= 2 and row["images"]["differing"] <= 2
    speeds = kept_speeds(1)
    assert speeds is not None and list(speeds) == [(32, 64), (64, 64)]
    for seconds in speeds.values():
        assert list(seconds) == list(ENGINES) and min(seconds.values()) > 0
    assert "for many photos of one size, auto takes" in capsys.readouterr().out
    figures(model, images, tmp_path, "--size", "64x96", "--threads", "1")
    assert kept_speeds(1) == speeds and "auto takes" not in capsys.readouterr().out  # measured once


@pytest.mark.slow
def test_an_exported_file_runs_where_it_can(model: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from terrazzo.graphs.onnx import write_onnx
    from terrazzo.weights.load import load

    file = tmp_path / "tiny.onnx"
    write_onnx(load(model), file)
    report = benchmark(file, size=(64, 64), engines=["onnxruntime"], threads=1, images=images, rounds=1)
    assert (report.architecture, report.classes, report.operations) == ("segformer_b0", 3, None)
    (speed,) = report.engines
    assert speed.differing is None and speed.images is not None
    assert "torch: not measured" in benchmark(file, size=(64, 64), threads=1, rounds=1).table()


class InTurn:
    """Stands for an engine's process: each pass takes some of these seconds, and one engine has too little memory."""

    seconds: ClassVar = {"torch": [9.0, 0.3, 0.2, 0.4], "onnxruntime": [9.0, 0.5, 0.1, 0.6], "openvino": [9.0]}
    asked: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, name: str, _threads: int, _cache: Path) -> None:
        self.name, self.left = name, iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, request: str, **arguments: Any) -> Any:
        self.asked.append((self.name, request))
        if request == "start":
            if self.name == "openvino" and arguments["size"] == (1024, 2048):
                raise ConfigError("too little memory", fix="")
            self.left = iter([*self.seconds[self.name], *[1.0] * 9])
            return None
        return next(self.left), 0.0


def test_sizes_are_measured_once_in_turn_after_two_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "EngineProcess", InTurn)
    monkeypatch.setattr("terrazzo.engines.engine.find_spec", lambda _name: True)
    usual = {"torch": 0.2, "onnxruntime": 0.1, "openvino": 1.0}
    expected = {(512, 512): usual, (1024, 1024): usual, (1024, 2048): {"torch": 0.2, "onnxruntime": 0.1}}
    assert choice.measure_choice(2) == kept_speeds(2) == expected
    assert [name for name, request in InTurn.asked if request == "call"][3:9] == [*usual, *usual]


def test_without_a_place_to_keep_them_speeds_are_only_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(choice, "EngineProcess", InTurn)
    with pytest.warns(TerrazzoWarning, match="auto chooses by its built-in rules"):
        assert choice.measure_choice(2)


# -- what a user can get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engines": "tensorflow"}, "no engine 'tensorflow'"),
        ({"engines": ["torch", "auto"]}, "no engine 'auto'"),
        ({"size": (0, 512)}, "size is 0"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(
    options: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_module, "EngineProcess", None)
    with pytest.raises(ConfigError, match=words):
        benchmark(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", ["512", "512x", "512,512", "-1x5"])
def test_a_size_that_is_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", f"--size={size}"])
    assert "give height and width, as in 512x512" in capsys.readouterr().err


def test_images_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no-such"):
        benchmark(images=tmp_path / "no-such.jpg")


# -- the processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["device", "photo"])
def test_what_cannot_be_measured_is_told_before_anything_is(
    wrong: str, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = EngineProcess.ask

    def note_and_ask(process: EngineProcess, request: str, **arguments: object) -> object:
        asked.append(request)
        return ask(process, request, **arguments)

    monkeypatch.setattr(EngineProcess, "ask", note_and_ask)
    if wrong == "photo":
        damaged = images / "two" / "a.png"
        damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(TerrazzoError) as caught:
        benchmark(model, images=images, device="xpu:7" if wrong == "device" else None)
    assert caught.value.code == ("engine-device" if wrong == "device" else "image-truncated")
    assert asked == ["check"]


def test_what_goes_wrong_in_a_process_comes_back(tmp_path: Path) -> None:
    """An error of ours as it was raised, any other as a fault; and the process answers on."""
    with EngineProcess("engine", 1, tmp_path) as process:
        with pytest.raises(ConfigError, match="no engine 'tensorflow'") as caught:
            work = {"model": "x", "threads": 1, "device": None, "precision": "fp32", "size": (8, 8), "batch_size": 1}
            process.ask("start", engine="tensorflow", **work)
        assert caught.value.code == "engine-name" and caught.value.fix
        with pytest.raises(ConfigError, match="engine failed: AttributeError") as caught:
            process.ask("call")  # nothing was started
        assert caught.value.code == "benchmark-failed"
        assert process.ask("memory") > 1e6


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with EngineProcess("engine", 1, tmp_path) as process:
        process.process.kill()
        with pytest.raises(TerrazzoError, match="engine: its process ended with status -9") as caught:
            process.ask("memory")
    assert caught.value.code == "benchmark-memory"
    assert process.process.returncode == -9


def test_an_engine_that_cannot_run_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    works = {"torch"}

    class Refusing:
        """Stands for a process whose engine is not installed, or is not for such a file."""

        code: str | None = None

        def __init__(self, name: str, *_: object) -> None:
            self.name = name

        def __enter__(self) -> Refusing:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def ask(self, request: str, **_: object) -> object:
            if request == "facts":
                return {"architecture": "segformer_b0", "classes": 3, "operations": None, "gemm_peak": 1e9}
            if request == "start" and self.name not in works:
                code = self.code if self.name == "torch" else None
                raise ConfigError(f"{self.name} cannot", fix="install it", code=code)
            return {"check": None, "start": None, "call": (0.5, 0.25), "memory": 1000}[request]

    monkeypatch.setattr(benchmark_module, "EngineProcess", Refusing)
    told: list[tuple[int, int]] = []
    report = benchmark(rounds=3, progress=lambda done, total: told.append((done, total)))
    assert [speed.engine for speed in report.engines] == ["torch"]
    assert [problem.message for problem in report.problems] == ["onnxruntime cannot", "openvino cannot"]
    assert report.engines[0].wall.seconds == (0.5, 0.5, 0.5) and report.engines[0].differing is None
    assert all(done <= total for done, total in told)
    with pytest.raises(ConfigError, match="openvino cannot"):
        benchmark(engines=["torch", "openvino"])
    works.clear()
    with pytest.raises(ConfigError, match="torch cannot"):
        benchmark()
    Refusing.code = "engine-file"
    with pytest.raises(ConfigError, match="onnxruntime cannot"):
        benchmark()
