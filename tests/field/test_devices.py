"""Any text as --device ends in a device or in an error that lists those of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from terrazzo.cli.main import main
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
from terrazzo.inference.predict import make_predictor
from terrazzo.training.distributed import joined_ranks

ABSENT = ["cuda", "cuda:1", "0", "1", "mps", "xpu", "meta", "tpu", "", "cuda:", "cpu:x", "💥", "\x1b[2J"]


@pytest.fixture
def without_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: False)


@pytest.mark.usefixtures("without_accelerators")
@pytest.mark.parametrize("device", ABSENT)
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_device(device)
    assert caught.value.code == "engine-device" and "cpu" in caught.value.fix
    assert caught.value.message.isprintable()
    with pytest.raises(ConfigError) as caught, joined_ranks(device):
        pass
    assert caught.value.code == "config-device"


@pytest.mark.usefixtures("without_accelerators")
def test_the_processor_by_any_spelling() -> None:
    assert find_device() == find_device("cpu") == find_device(" CPU ") == torch.device("cpu")
    with joined_ranks(None) as ranks:
        assert ranks.device == torch.device("cpu")


def test_names_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device() == find_device("cuda") == torch.device("cuda")
    assert find_device("1") == find_device("cuda:1") == find_device(torch.device("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="choose from cpu, cuda, cuda:0, cuda:1"):
        find_device("2")
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    assert find_device("mps") == torch.device("mps")


@pytest.mark.usefixtures("without_accelerators")
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{image}"],
        ["predict", "{image}", "--engine", "onnxruntime"],
        ["predict", "{image}", "--engine", "openvino"],
        ["explain", "{image}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("device", ["cuda", "mps", "0", "anything"])
def test_commands(command: list[str], device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("onnxruntime", "openvino"):
        if engine in command:
            pytest.importorskip(engine)
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    with pytest.raises(SystemExit) as ended:
        main([part.format(image=image) for part in command] + ["--device", device, "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    first, fix = capsys.readouterr().err.splitlines()
    assert first.startswith("error[engine-device]: ") and repr(device) in first and fix.startswith("  fix: ")


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"device": "mps"}, {"compiled": True}], ids=str)
@pytest.mark.parametrize("file", ["m.onnx", "m.xml", "m.pt2"])
def test_exported_files_refuse_what_they_would_leave_aside(file: str, change: dict[str, Any]) -> None:
    """Before the file is looked for, so that nothing is computed elsewhere than was asked for."""
    for package in ("onnxruntime", "openvino"):
        pytest.importorskip(package)
    if (file, *change) == ("m.onnx", "device"):
        pytest.skip("ONNX Runtime may have GPUs, so that the file is opened first")
    with pytest.raises(ConfigError) as caught:
        make_predictor(file, **change)
    assert caught.value.code == "engine-device"
