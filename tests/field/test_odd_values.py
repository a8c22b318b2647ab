"""Odd values of options end in two lines before anything is begun, and never in a server that waits for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.training.data import open_splits
from terrazzo.training.train import recipe_for
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    return err.splitlines()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-wait", "1e400"], "batch_wait is inf"),
        (["--stop-timeout", "1e400"], "stop_timeout is inf"),
        (["--batch-wait", "nan"], "batch_wait is nan"),
        (["--cors", "nonsense"], "'nonsense' is not an origin"),
        (["--cors", "https://example.org/page"], "'https://example.org/page' is not an origin"),
        (["--model", "a="], "'a=' does not name a model"),
        (["--model", " =segformer_b0.camvid"], "' =segformer_b0.camvid' does not name a model"),
        (["--model", "a/b=segformer_b0.camvid"], "'a/b=segformer_b0.camvid' does not name a model"),
        (["--model", "a\nb=segformer_b0.camvid"], "'a\\nb=segformer_b0.camvid' does not name a model"),
    ],
)
def test_options_of_the_server(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi")
    lines = refused(capsys, "serve", "--port", "0", *options)
    assert len(lines) == 2 and lines[0].startswith("error[") and said in lines[0] and lines[1].startswith("  fix: ")


@pytest.mark.parametrize("option", ["--epochs", "--steps", "--seed", "--patience", "--short-side"])
def test_a_number_that_nothing_can_hold_is_called_so(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = refused(capsys, "train", "--data", str(tmp_path), "--output", f"{tmp_path}/run", option, str(10**20))
    assert lines[0].endswith("is a whole number beyond 2**63") and lines[1] == "  fix: give a smaller one"


def test_a_folder_whose_name_is_not_text_keeps_its_models(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "caf\udce9"
    labels = LabelSpec.from_names(["background", "leaf"])
    save_folder(folder / "m", TrainedModel("segformer_b0", create_model("segformer_b0", 2), labels, Preprocess(), {}))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = terrazzo.predict(image, folder / "m", device="cpu", engine="torch").mask
    terrazzo.export(folder / "m", folder / "m.onnx")
    np.testing.assert_array_equal(terrazzo.predict(image, folder / "m.onnx", engine="onnxruntime").mask, expected)


def test_validating_on_what_is_learnt_from_is_said(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            path = tmp_path / split / kind / f"a.{suffix}"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.eye(32, dtype=np.uint8)).convert("RGB" if kind == "images" else "L").save(path)
    usual = recipe_for(tmp_path, "segformer_b0", {})[0].data
    open_splits(usual, tmp_path)
    with pytest.warns(TerrazzoWarning, match="validation is what the run learns from and what it is validated on"):
        open_splits(replace(usual, train_split="validation"), tmp_path)
