"""`terrazzo train`, as a person types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.cli.train import train
from terrazzo.data.splits import SplitRule
from terrazzo.training.overrides import full_paths
from terrazzo.training.preflight import MOST_WORKERS
from terrazzo.training.recipe import automatic_recipe
from terrazzo.training.train import DEFAULT_ARCHITECTURE


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
            image = (mask[..., None] * 150 + rng.integers(0, 60, (40, 40, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """B0 after an epoch of two steps, from a process of its own, where no terminal is."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--crop", "32", "32", "--batch-size", "2", "--epochs", "1", "--workers", "0", "--device", "cpu"]
    options += ["--set", "optimizer.weight_decay=1e-2", "--set", "augment.cutmix.p=1", "--set", "hue=0"]
    command = [sys.executable, "-m", "terrazzo", "train", "--data", str(data), "--output", "mine", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    return folder / "mine", done


def test_val_and_group_by_reach_the_recipe(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of the command, and as the object that `terrazzo.train` takes."""

    class Reached(Exception):
        pass

    def stop(*_: object, **named: Any) -> None:
        raise Reached(full_paths(named["overrides"])["data.split"])

    monkeypatch.setattr("terrazzo.training.train.train", stop)
    with pytest.raises(Reached) as caught:
        main(["train", "--data", str(data / "train"), "--output", "x", "--val", "0.25", "--group-by", "[0-9]"])
    rule = {"val": 0.25, "group_by": "[0-9]", "seed": 0, "folds": None, "fold": None}
    assert caught.value.args == (rule,)
    recipe = automatic_recipe(DEFAULT_ARCHITECTURE, [(40, 40)]).changed(
        {"split": SplitRule(val=0.25, group_by="[0-9]")}
    )
    assert recipe.data.split == SplitRule(val=0.25, group_by="[0-9]")


def test_a_run_says_what_it_does_and_how_to_use_it(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    output, done = trained
    assert done.returncode == 0, done.stderr
    assert "mIoU" in done.stdout and "background" in done.stdout
    assert "terrazzo predict PHOTO --model mine" in done.stdout
    told = done.stderr.splitlines()
    assert told[0].startswith("model     segformer_b0, 3,714,") and "from random weights" in told[0]
    assert [line.split()[0] for line in told[:6]] == ["model", "data", "batch", "schedule", "machine", "output"]
    assert told[6].startswith("memory    about ") and " for training" in told[6]
    assert told[7].startswith("disk      about ") and " free" in told[7]
    assert told[8].startswith("photos    kept decoded in memory (")
    assert told[9].startswith("epoch 1/1  loss ") and "best so far" in told[9]
    assert "\x1b" not in done.stderr
    written = yaml.safe_load((output / "recipe.yaml").read_text())
    assert written["augment"][1]["size"] == [32, 32] and written["optimizer"]["weight_decay"] == 0.01
    assert written["augment"][-2]["hue"] == 0
    assert written["augment"][-1] == {"name": "cutmix", "p": 1, "area": [0.1, 0.5], "aspect": [0.5, 2.0]}
    model = terrazzo.load(output)
    assert model.architecture == "segformer_b0" and model.labels.names == ("background", "foreground")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.lr", "is not a field and its value"),
        ("optimizer.lrr=1", "optimizer has an unknown key 'lrr'"),
        ("augment.flip.p=2", "augment.flip.p is 2"),
        ("optimiser.lr=1", "a recipe has no field 'optimiser.lr'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", str(data), "--output", str(tmp_path / "run"), "--set", setting])
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_help_tells_the_defaults_of_a_run_without_a_recipe() -> None:
    fresh, begun = (automatic_recipe("segformer_b0", [(360, 480)] * 4, weights=start) for start in (None, "a"))
    told = {
        "epochs": f"by default {fresh.run.epochs}.",
        "batch_size": f"by default {fresh.run.batch_size}.",
        "lr": f"by default {fresh.optimizer.lr:g}, or {begun.optimizer.lr:g} where training starts from weights.",
        "seed": f"by default {fresh.run.seed}.",
        "precision": f"{fresh.run.precision} (the default: ",
        "checkpointing": f"by default it is {'on' if fresh.run.checkpointing else 'off'}.",
        "compile": f"by default it is {'on' if fresh.run.compile else 'off'}.",
        "patience": f"by default {fresh.run.patience}.",
        "train_split": f"by default {fresh.data.train_split}.",
        "val_split": f"by default {fresh.data.val_split}.",
        "crowds": f"{fresh.data.crowds} (the default)",
        "model": f"{DEFAULT_ARCHITECTURE} (the default ",
        "crop": "from 128 to 512.",
        "workers": f"at most {MOST_WORKERS}.",
    }
    for option, text in told.items():
        help_ = re.search(rf"^    {option}\n((?:        .*\n)+)", train.__doc__ or "", re.MULTILINE)
        assert help_ is not None and text in " ".join(help_[1].split()), option


def test_a_run_is_not_written_over(
    data: Path, trained: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = trained
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", str(data), "--output", str(output)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error[training-output-taken]: {output} holds an earlier run",
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
        (["--device", "tpu"], "no device 'tpu'"),
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
