"""Fine-tuning keeps the preprocessing of its start, and says what the start scores before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.labels.spec import LabelSpec
from terrazzo.models.segformer import segformer_spec
from terrazzo.preprocess import Preprocess
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import load

NARROW = segformer_spec("segformer_narrow", {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}, 16)
SHORT_64 = Preprocess(short_side=64, long_side=256, mean=(100, 100, 100), std=(50, 50, 50))


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terrazzo.training.train.write_artifacts", lambda *_: None)  # pictures take seconds
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 48 x 72 pixels, left dark and right light."""
    root = tmp_path_factory.mktemp("data") / "halves"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(2):
            mask = np.repeat(np.arange(2, dtype=np.uint8), 36)[None].repeat(48, 0)
            Image.fromarray(np.repeat(mask[..., None] * np.uint8(200), 3, 2)).save(
                root / split / f"images/{number}.png"
            )
            Image.fromarray(mask).save(root / split / f"masks/{number}.png")
    (root / "labels.yaml").write_text("names: [dark, light]\n")
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    network = create_model(NARROW, 2).eval()
    save_folder(folder, TrainedModel("segformer_narrow", network, LabelSpec.from_names(["dark", "light"]), SHORT_64))
    return folder


def fine_tune(data: Path, output: Path, start: Path, **options: Any) -> TrainedModel:
    overrides = {"steps": 1, "batch_size": 2, "precision": "fp32", "lr": 1e-30}
    options.setdefault("overrides", overrides)
    if "recipe" not in options:
        options["model"] = NARROW
    terrazzo.train(data, output, weights=str(start), workers=0, device="cpu", **options)
    return load(output)


def test_the_preprocessing_of_the_start_is_kept_and_its_score_is_told(
    data: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fine_tune(data, tmp_path / "run", start)
    assert model.preprocess == SHORT_64
    recipe = Recipe.from_file(tmp_path / "run" / "recipe.yaml")
    assert recipe.data.preprocess == SHORT_64 and recipe.crop == (128, 128)
    assert recipe.to_dict()["augment"][0]["box"] == [96, 64]
    said = capsys.readouterr().err
    assert "photos    resized to a short side of 64 in validation and after training; as for the start" in said
    before = terrazzo.evaluate(str(start), data, engine="torch").metrics.mIoU
    assert f"before the first step: mIoU {before:.2f}" in said
    assert model.record["start_mIoU"] == pytest.approx(before, abs=0.006)


def test_a_recipe_that_changes_it_is_followed_and_it_is_said(
    data: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = automatic_recipe(NARROW, [(48, 72)] * 2, steps=1, batch_size=2)
    recipe = recipe.changed({"crop": (32, 32), "precision": "fp32"})
    model = fine_tune(data, tmp_path / "run", start, recipe=recipe, overrides={})
    assert model.preprocess.short_side == 48
    said = capsys.readouterr().err
    assert "the recipe changes what the start was trained with: short_side 64 -> 48, long_side 256 -> 192" in said


@pytest.mark.parametrize(
    ("preprocess", "crop", "resize"),
    [
        (Preprocess(short_side=480, long_side=1920), (480, 480), (640, 480)),
        (Preprocess(short_side=512, long_side=2048, multiple_of=32), (512, 512), (704, 512)),
        (Preprocess(size=(256, 256)), (256, 256), (256, 256)),
        (Preprocess(short_side=360, long_side=1440), (352, 352), None),
        (Preprocess(), (352, 352), None),
    ],
)
def test_windows_are_cut_from_images_of_the_size_that_the_network_sees(
    preprocess: Preprocess, crop: tuple[int, int], resize: tuple[int, int] | None
) -> None:
    recipe = automatic_recipe("segformer_b0", [(360, 480)] * 4, weights="x", preprocess=preprocess)
    assert (recipe.data.preprocess, recipe.crop) == (preprocess, crop)
    assert recipe.augment[0] == RandomResize(box=resize)


def test_a_start_without_a_classifier_for_these_classes_has_no_score(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    network = create_model(NARROW, 2).eval()
    save_folder(other, TrainedModel("segformer_narrow", network, LabelSpec.from_names(["sky", "road"]), SHORT_64))
    model = fine_tune(data, tmp_path / "run", other, reset_head=True)
    assert "before the first step" not in capsys.readouterr().err and "start_mIoU" not in model.record
    assert model.preprocess == SHORT_64
