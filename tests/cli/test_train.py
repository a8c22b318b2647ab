"""`terrazzo train`, as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import terrazzo
from terrazzo.cli.main import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 40 x 40: a bright square somewhere on a dark ground."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((40, 40), np.uint8)
            top, left = rng.integers(0, 20, 2)
            mask[top : top + 20, left : left + 20] = 1
            photo = (mask[..., None] * 150 + rng.integers(0, 60, (40, 40, 3))).astype(np.uint8)
            Image.fromarray(photo).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    return root


def test_train_then_resume_then_predict(data: Path, tmp_path: Path) -> None:
    """In a process of its own, told by environment to use one thread, where no terminal is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "terrazzo", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    options = ["--crop", "32", "32", "--batch-size", "2", "--epochs", "1", "--workers", "0", "--device", "cpu"]
    trained = run("train", "--data", data, "--output", "mine", *options)
    assert trained.returncode == 0, trained.stderr
    assert "mIoU" in trained.stdout and "background" in trained.stdout
    assert "terrazzo predict PHOTO --model mine" in trained.stdout
    assert "epoch 1/1" in trained.stderr and "\x1b" not in trained.stderr
    assert yaml.safe_load((tmp_path / "mine/recipe.yaml").read_text())["crop"] == [32, 32]
    model = terrazzo.load(tmp_path / "mine")
    assert model.architecture == "segformer_b0" and model.labels.names == ("background", "foreground")
    assert (tmp_path / "mine/predictions.png").exists()

    again = run("train", "--data", data, "--output", "mine", *options)
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        "error[training-output-taken]: mine holds an earlier run",
        "  fix: add --resume to go on with it, or choose another --output",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["--precision", "fp8"], "precision is 'fp8'"),
        (["--epochs", "0"], "epochs is 0"),
        (["--model", "segformer_b9"], "unknown model 'segformer_b9'"),
        (["--resume"], "holds no checkpoint to resume from"),
        (["--holdout", "9*"], "matches 0 of the 4 photos"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_mistakes_end_in_two_lines_and_status_2(
    data: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", str(data), "--output", str(tmp_path / "run"), *options])
    errors = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert len(errors) == 2 and errors[0].startswith("error[") and errors[1].startswith("  fix: ")
    assert said in errors[0]
