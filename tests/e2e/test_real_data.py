"""The first hour with the program, on real data: the shipped model on a photo and on CamVid, a new model on nuclei."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.notes import TerrazzoWarning
from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_record


def terrazzo_command(*arguments: object, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "terrazzo", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sky_trees_and_building_come_out_as_such(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A temple between trees, under a wide sky: a place and a light that the training photos do not have."""
    main(["predict", str(shared_data / "photos" / "china.jpg"), "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    shares = {row["name"]: row["share"] for row in json.loads((tmp_path / "china.json").read_text())["classes"]}
    assert {"Sky", "Tree", "Building"} <= set(list(shares)[:5])
    assert shares["Sky"] > 0.2 and shares["Tree"] > 0.1 and shares["Building"] > 0.1
    assert printed.index("Sky") < printed.index("china_overlay.png")
    mask = np.asarray(Image.open(tmp_path / "china_mask.png"))
    names = bundled_record(DEFAULT_MODEL)["labels"]["names"]
    assert mask.shape == (427, 640)
    assert (mask[:60, :500] == names.index("Sky")).mean() > 0.9


def test_the_shipped_models_score_is_the_recorded_one(shared_data: Path) -> None:
    with pytest.warns(TerrazzoWarning, match="names no classes"):
        report = terrazzo.evaluate(DEFAULT_MODEL, shared_data / "camvid", split="val")
    assert report.images == 101
    assert report.metrics.mIoU == pytest.approx(bundled_record(DEFAULT_MODEL)["record"]["val_mIoU"], abs=0.05)


def test_training_on_data_that_nobody_tuned_for(shared_data: Path, tmp_path: Path) -> None:
    """Microscopy photos of many sizes: train, measure and predict with no option but where and how long."""
    for split, count in (("train", 16), ("val", 3)):
        for folder in ("images", "masks"):
            (tmp_path / "nuclei" / split / folder).mkdir(parents=True)
        for photo in sorted((shared_data / "nuclei" / split / "images").iterdir())[:count]:
            mask = photo.parents[1] / "masks" / photo.name
            shutil.copy(photo, tmp_path / "nuclei" / split / "images")
            shutil.copy(mask, tmp_path / "nuclei" / split / "masks")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "nuclei").rglob("*")}
    trained = terrazzo_command("train", "--data", "nuclei", "--output", "run", "--epochs", 2, cwd=tmp_path)
    assert "mIoU" in trained
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "nuclei").rglob("*")} == before

    with pytest.warns(TerrazzoWarning, match="names no classes"):
        report = terrazzo.evaluate(tmp_path / "run", tmp_path / "nuclei", split="val")
    assert report.labels.names == ("background", "foreground")
    assert report.to_dict()["mIoU"] == json.loads((tmp_path / "run" / "report" / "report.json").read_text())["mIoU"]
    photos = sorted((tmp_path / "nuclei" / "val" / "images").iterdir())
    for photo, result in zip(photos, terrazzo.predict(list(photos), tmp_path / "run"), strict=True):
        with Image.open(photo) as image:
            assert result.mask.shape == (image.height, image.width)
