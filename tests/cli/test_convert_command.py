"""`terrazzo convert`, and the line about licence and origin that commands print when they have loaded a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.weights.create import create_model
from terrazzo.weights.remap.segformer import NVLABS


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = NVLABS.to_theirs(create_model("segformer_b0", 19).state_dict())
    torch.save({"meta": {}, "state_dict": state}, "city.pth")
    return "city.pth"


def test_a_checkpoint_becomes_a_folder(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", checkpoint, "city"])
    out, err = capsys.readouterr()
    assert out == "segformer_b0, 3.7 M parameters, 19 classes\nwritten to city\n"
    assert err.count("\n") == 1 and err.startswith("city.pth: licence not stated in the file")
    assert "read as NVlabs SegFormer" in err and "taken to be cityscapes" in err
    assert terrazzo.load("city").labels.names[0] == "road"


def test_a_second_time_is_refused_in_two_lines(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", checkpoint, "city", "--to", "hf"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["convert", checkpoint, "city"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error[output-taken]: city is there already with a model in it",
        "  fix: choose another destination, or add --overwrite",
    ]


def test_prediction_takes_a_checkpoint_and_tells_its_licence_once(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(name)
    main(["predict", "a.png", "b.png", "--model", checkpoint, "--output", "out", "--save", "mask"])
    assert capsys.readouterr().err.count("licence") == 1
    main(["predict", "a.png", "--output", "out", "--save", "mask"])
    assert capsys.readouterr().err.startswith("segformer_b0.camvid: licence Apache-2.0 for the weights")
