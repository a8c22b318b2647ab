"""`train`: what it refuses before it starts, and what a finished run leaves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import TINY, finish, make_data, start, tiny_recipe, wait_for

import terrazzo
from terrazzo.atomic import PARTIAL_PREFIX
from terrazzo.errors import CheckpointError, ConfigError, DatasetError, OutputError, TerrazzoError, TrainingError
from terrazzo.evaluation.evaluator import evaluate
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import clear_leftovers, locked
from terrazzo.training.train import Run, train


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    finished = train(data, tmp_path_factory.mktemp("runs") / "mine", recipe=tiny_recipe(), workers=0, device="cpu")
    assert finished is not None
    return finished


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of a tiny run's time."""
    for module in ("terrazzo.training.artifacts.curves_png", "terrazzo.training.artifacts.sheet_png"):
        monkeypatch.setattr(module, lambda *_: b"")
    for module in ("terrazzo.evaluation.figures.confusion_png", "terrazzo.evaluation.figures.per_class_png"):
        monkeypatch.setattr(module, lambda _: b"")


def test_a_run_folder_holds_what_people_and_programs_need(run: Run) -> None:
    names = sorted(str(path.relative_to(run.output)) for path in run.output.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("tensorboard/")] == [
        ".lock",
        "checkpoints/newest.pt",
        "checkpoints/previous.pt",
        "curves.png",
        "log.csv",
        "model/README.md",
        "model/config.json",
        "model/model.safetensors",
        "predictions.png",
        "recipe.yaml",
        "report.html",
        "report/confusion.png",
        "report/per_class.csv",
        "report/per_class.png",
        "report/photos.json",
        "report/reliability.png",
        "report/report.json",
        "report/report.txt",
    ]
    for picture in run.output.rglob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 200


def test_a_run_has_a_page_with_its_photos_and_a_card(run: Run, data: Path) -> None:
    photos = json.loads((run.output / "report/photos.json").read_text())["photos"]
    assert [photo["which"] for photo in photos] == ["worst"] * 3
    page = (run.output / "report.html").read_text()
    assert all(photo["name"] in page for photo in photos)
    card = (run.output / "model/README.md").read_text()
    assert 'library_name: "terrazzo"' in card and "| class 0 |" in card and "terrazzo.predict" in card
    terrazzo.report(run.output, data)  # chosen again, from the same model and photos
    assert json.loads((run.output / "report/photos.json").read_text())["photos"] == photos


def test_the_report_is_what_evaluate_says_of_the_shipped_model(run: Run, data: Path) -> None:
    report = evaluate(run.output, data)
    assert np.array_equal(report.confusion, run.report.confusion)
    assert report.protocol_hash == run.report.protocol_hash
    assert report.boundary is not None and run.report.boundary is not None
    assert report.boundary.mIoU == run.report.boundary.mIoU
    saved = json.loads((run.output / "report/report.json").read_text())
    assert saved["mIoU"] == round(report.metrics.mIoU, 2) and saved["split"] == "val"


def test_the_models_record_says_where_it_comes_from(run: Run, data: Path) -> None:
    record = terrazzo.load(run.output).record
    assert record["step"] in (2, 4) and record["hours"] >= 0
    assert record["val_mIoU"] == round(run.report.metrics.mIoU, 2)
    assert record["data"] == "tiles" and (record["train_photos"], record["val_photos"]) == (5, 3)
    assert Recipe.from_dict(record["recipe"], "the record") == tiny_recipe()
    assert record["versions"]["terrazzo"] == terrazzo.__version__ and record["machine"]


@pytest.mark.usefixtures("no_pictures")
def test_the_recipe_file_repeats_the_run(run: Run, data: Path, tmp_path: Path) -> None:
    file = run.output / "recipe.yaml"
    assert Recipe.from_file(file) == tiny_recipe()
    keys = [line.partition(":")[0] for line in file.read_text().splitlines() if line[0] not in "# -"]
    assert keys == list(tiny_recipe().to_dict())
    again = train(str(data), str(tmp_path / "again"), recipe=file, workers=0, device="cpu")
    assert again is not None and np.array_equal(again.report.confusion, run.report.confusion)
    for folder in (run.output, again.output):
        assert not list(folder.rglob(f"{PARTIAL_PREFIX}*"))
    weights = [(folder / "model/model.safetensors").read_bytes() for folder in (run.output, again.output)]
    assert weights[0] == weights[1]


@pytest.mark.usefixtures("no_pictures")
def test_resuming_takes_the_runs_own_recipe(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(run.output, tmp_path / "copy")
    again = train(data, tmp_path / "copy", resume=True, workers=0, device="cpu")
    assert again is not None and np.array_equal(again.report.confusion, run.report.confusion)
    with pytest.raises(TrainingError, match="planned for 4 steps"):
        train(data, tmp_path / "copy", resume=True, overrides={"epochs": 1}, workers=0, device="cpu")
    assert Recipe.from_file(tmp_path / "copy/recipe.yaml").run.epochs == 2


def test_resuming_with_other_images_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(run.output, tmp_path / "copy")
    more = make_data(tmp_path / "more", train=9)
    with pytest.raises(TrainingError, match="was to have 4 steps, and has 8") as caught:
        train(more, tmp_path / "copy", resume=True, workers=0, device="cpu")
    assert caught.value.code == "training-resume"


@pytest.mark.usefixtures("no_pictures")
def test_without_a_recipe_one_is_made_for_the_images_and_the_length(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"epochs": 1, "batch_size": 5, "crop": [32, 32]}
    run = train(data, tmp_path / "run", TINY["segformer_tiny"], overrides=changes, workers=0, device="cpu")
    assert run is not None
    made = Recipe.from_file(run.output / "recipe.yaml")
    assert (made.run.epochs, made.run.batch_size, made.crop, made.optimizer.warmup_steps) == (1, 5, (32, 32), 0)
    assert made.data.preprocess.short_side == 48
    said = capsys.readouterr().err
    assert "3 classes, 5 photos to learn from, 3 to validate on" in said
    assert "5 windows of 32 x 32" in said and "1 epoch of 1 step, 1 in all" in said
    assert "segformer_tiny" in said and str(run.output) in said


@pytest.mark.usefixtures("no_pictures")
def test_steps_take_the_place_of_a_recipes_epochs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(data, tmp_path, recipe=tiny_recipe(), overrides={"steps": 3}, workers=0, device="cpu")
    assert run is not None and terrazzo.load(run.output).record["step"] in (2, 3)
    used = Recipe.from_file(run.output / "recipe.yaml")
    assert (used.run.epochs, used.run.steps) == (None, 3)
    assert "2 epochs of 2 steps, the last of 1, 3 in all" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_starting_from_a_models_weights(run: Run, data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1, lr=1e-30, ema_decay=None, drop_path=0.0)
    later = train(data, tmp_path, recipe=recipe, weights=str(run.output), workers=0, device="cpu")
    assert later is not None
    assert Recipe.from_file(tmp_path / "recipe.yaml").model.weights == str(run.output)
    before, after = (terrazzo.load(folder).network.state_dict() for folder in (run.output, tmp_path))
    for name in before:
        if "running_" not in name and "num_batches" not in name:
            assert np.array_equal(before[name], after[name]), name


@pytest.mark.usefixtures("no_pictures")
def test_setr_is_trained_kept_and_measured_by_its_protocol(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(model="setr_naive_nano", epochs=1, crop=(32, 48), protocol="setr-ade20k", optimizer="sgd")
    run = train(data, tmp_path, recipe=recipe, workers=0, device="cpu")
    assert run is not None and run.report.protocol == "setr-ade20k"
    report = evaluate(run.output, data, protocol="setr-ade20k")
    assert np.array_equal(report.confusion, run.report.confusion)
    assert report.protocol_hash == run.report.protocol_hash
    network = terrazzo.load(run.output).network
    assert tuple(network.state_dict()["encoder.pos_embed"].shape) == (1, 2, 3, 16)


def test_what_to_start_from_is_asked_for_where_it_is_not_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is to start from mit_b0\.pth, which is not here") as caught:
        train(data, tmp_path, recipe=tiny_recipe(weights="mit_b0.pth"), workers=0, device="cpu")
    assert caught.value.code == "checkpoint-missing" and "--weights random" in caught.value.fix


@pytest.mark.usefixtures("no_pictures")
def test_random_weights_can_be_asked_for(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(weights="mit_b0.pth", steps=1, epochs=None)
    run = train(data, tmp_path, recipe=recipe, weights="random", workers=0, device="cpu")
    assert run is not None and Recipe.from_file(run.output / "recipe.yaml").model.weights is None


# -- what is refused before anything happens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"recipe": "nothing.yaml"}, "config", "nothing.yaml cannot be read"),
        ({"overrides": {"epocs": 3}}, "config", "'epocs'"),
        ({"overrides": {"epochs": 0}}, "recipe-value", r"run\.epochs is 0"),
        ({"overrides": {"epochs": 3, "steps": 3}}, "recipe-value", r"run\.steps is 3"),
        ({"overrides": {"holdout": ["x*"]}}, "training-holdout", "0 of the 5"),
        ({"overrides": {"val_split": "tset"}}, "dataset-split", "tset"),
        ({"model": "segformer_b9", "recipe": None}, "model-name", "segformer_b9"),
        ({"model": "segformer_b1"}, "recipe-model", "segformer_b1"),
        ({"labels": "camvd"}, "labels", "camvd"),
        ({"weights": "nowhere"}, "checkpoint-missing", "nowhere"),
        ({"device": "tpu"}, "config-device", "tpu"),
        ({"workers": -1}, "config-workers", "workers is -1"),
        ({"resume": True}, "training-no-checkpoint", "no checkpoint to resume from"),
    ],
)
def test_mistakes_are_told_before_training(
    data: Path, tmp_path: Path, changes: dict[str, Any], code: str, said: str
) -> None:
    options = {"recipe": tiny_recipe(), "workers": 0, "device": "cpu", **changes}
    with pytest.raises(TerrazzoError, match=said) as caught:
        train(data, tmp_path / "run", **options)
    assert caught.value.code.startswith(code)
    assert not (tmp_path / "run/checkpoints").exists() and not (tmp_path / "run/model").exists()


def test_splits_without_images_or_labels_are_refused(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "tiles"
    shutil.copytree(data, root)
    for mask in (root / "val/masks").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(mask)
    with pytest.raises(DatasetError, match="every pixel of every mask of val is ignored"):
        train(root, tmp_path / "run", recipe=tiny_recipe(), workers=0, device="cpu")
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(root / "train/masks/train_1.png")
    with pytest.raises(DatasetError, match=r"train_1\.png: .*7"):
        train(root, tmp_path / "run", recipe=tiny_recipe(), workers=0, device="cpu")
    for file in [*(root / "val/masks").iterdir(), *(root / "val/images").iterdir()]:
        file.unlink()
    with pytest.raises(DatasetError, match="val"):
        train(root, tmp_path / "run", recipe=tiny_recipe(), workers=0, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_in_it_is_not_written_over(run: Run, data: Path) -> None:
    with pytest.raises(TrainingError, match="holds an earlier run") as caught:
        train(data, run.output, recipe=tiny_recipe(), workers=0, device="cpu")
    assert caught.value.code == "training-output-taken" and "--resume" in caught.value.fix


def test_an_output_that_cannot_be_written_is_refused_at_once(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        train(data, tmp_path / "file", recipe=tiny_recipe(), workers=0, device="cpu")
    with pytest.raises(OutputError):
        train(data, Path("/proc/run"), recipe=tiny_recipe(), workers=0, device="cpu")


def test_no_gpu_is_said_plainly(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="PyTorch finds no device 'cuda"):
        train(data, tmp_path, recipe=tiny_recipe(), workers=0, device="cuda")


def hold(folder: Path) -> None:
    with locked(folder):
        (folder / "held").touch()
        wait_for(lambda: (folder / "enough").exists())


def test_two_runs_in_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    holder = start(hold, tmp_path)
    try:
        wait_for((tmp_path / "held").exists)
        with pytest.raises(TrainingError, match="another run is writing") as caught:
            train(data, tmp_path, recipe=tiny_recipe(), workers=0, device="cpu")
        assert caught.value.code == "training-locked"
    finally:
        (tmp_path / "enough").touch()
        assert finish(holder) == [0]
    with locked(tmp_path):
        pass


def test_leftovers_of_a_killed_run_are_removed_and_its_model_put_back(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.output, tmp_path / "run")
    output = tmp_path / "run"
    model = (output / "model/model.safetensors").read_bytes()
    os.rename(output / "model", output / f"{PARTIAL_PREFIX}1")
    (output / f"{PARTIAL_PREFIX}2").mkdir()
    (output / f"{PARTIAL_PREFIX}2/model.safetensors").write_bytes(b"half")
    (output / "checkpoints" / f"{PARTIAL_PREFIX}3.pt").write_bytes(b"half")
    clear_leftovers(output)
    assert (output / "model/model.safetensors").read_bytes() == model
    assert not list(output.rglob(f"{PARTIAL_PREFIX}*"))
