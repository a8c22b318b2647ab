"""Odd values of options end in two lines before anything is begun, and never in a server that waits for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.bands import Bands, numbered
from terrazzo.imaging.read import ReadOptions
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


@pytest.fixture(scope="module")
def a_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    for split in ("train", "val"):
        for kind, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("masks", np.eye(8, dtype=np.uint8))):
            (root / split / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(root / split / kind / "a.png")
    return root


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lr", "0"], "optimizer.lr is 0.0"),
        (["--lr", "1e-5", "--set", "optimizer.min_lr=1e-4"], "optimizer.min_lr is 0.0001"),
        (["--set", "loss=[{name: tversky, alpha: 0, beta: 0}]"], "loss.tversky.alpha is 0"),
        (["--epochs", "0"], "run.epochs is 0"),
        (["--set", "optimizer.weight_decay=-1"], "optimizer.weight_decay is -1"),
        (["--layer-decay", "0"], "optimizer.layer_decay is 0.0"),
        (["--set", "run.ema_decay=1"], "run.ema_decay is 1"),
    ],
)
def test_numbers_that_teach_nothing(
    options: list[str], said: str, a_pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = refused(capsys, "train", "--data", str(a_pair), "--output", f"{tmp_path}/run", *options)
    assert len(lines) == 2 and lines[0].startswith("error[recipe-value]") and said in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["predict", "evaluate", "explain", "check-data"])
@pytest.mark.parametrize(
    ("options", "said"),
    [(["--frame", "-1"], "the frame is -1"), (["--bands", "1,1,2"], "band 1 is chosen twice")],
)
def test_images_are_not_opened_where_no_option_could_read_them(
    verb: str, options: list[str], said: str, a_pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = [str(a_pair)] if verb != "evaluate" else ["--data", str(a_pair)]
    with pytest.raises(SystemExit) as ended:
        main([verb, *place, *options, *(["--output", f"{tmp_path}/o"] if verb in ("predict", "explain") else [])])
    assert ended.value.code == 2
    assert said in "".join(capsys.readouterr())
    assert not (tmp_path / "o").exists()


def test_bands_to_learn_are_named_once() -> None:
    bands = Bands(3, 3, names=("red", "green", "blue"))
    assert numbered(["red", 3], bands) == (1, 3)
    for chosen in ([1, 1], ["red", 1], ["blue", "Blue "]):
        with pytest.raises(ImageError, match=r"band [13] is chosen twice"):
            numbered(chosen, bands)


def test_other_numbers_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="0 pixels are allowed"):
        ReadOptions(max_pixels=0)
    with pytest.raises(ConfigError, match="max_loss is nan"):
        terrazzo.export("there is no such model", tmp_path / "x.onnx", max_loss=float("nan"))


def test_a_warm_up_longer_than_the_run_is_said(
    a_pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "optimizer.warmup_steps=50", "--crop", "32", "32", "--batch-size", "2", "--workers", "0"]
    main(["train", "--data", str(a_pair), "--output", f"{tmp_path}/run", "--steps", "1", "--dry-run", *settings])
    said = capsys.readouterr().err
    assert "learning rate 0.001, which is never reached: warm-up takes 50 steps" in said


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
