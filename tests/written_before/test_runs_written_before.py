"""Runs that an earlier version was stopped in the middle of go on; and its recipes are read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flat_recipes import flat
from probes import DATA, EXPECTED, assert_agrees, images, unpacked

import terrazzo
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.recipe import Recipe

RUNS = ["run_dinov2", "run_segformer"]
RECIPES = sorted(path.stem for path in (DATA / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads(EXPECTED.read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data set, and with the encoder's configuration where the recipe names it."""
    unpacked(DATA / "tiles", tmp_path / "tiles")
    unpacked(DATA / "encoder", tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_best_model_of_a_run_is_loaded(place: Path, expected: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    model = terrazzo.load(unpacked(DATA / "run_dinov2", place / "run"))
    assert model.record["recipe"]["encoder"] == "hf:encoder/config.json"
    with torch.no_grad():
        assert_agrees(model.network(torch.from_numpy(images())).numpy(), expected["run_dinov2"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_where_it_was_stopped(name: str, place: Path, expected: dict[str, Any]) -> None:
    """Weights, average, optimiser, generators, place in the schedule: each has a share in the next losses."""
    if name == "run_dinov2":
        pytest.importorskip("transformers")
    run, then = unpacked(DATA / name, place / name), expected[f"{name}, resumed"]
    terrazzo.train("tiles", run, resume=True, workers=0, device="cpu")
    with (run / "log.csv").open() as file:
        first, last = csv.DictReader(file)
    assert (first["step"], last["step"]) == ("2", "4")
    assert float(last["loss"]) == pytest.approx(then["loss"], rel=2e-3)
    assert float(last["lr"]) == pytest.approx(then["lr"], rel=1e-6)
    assert float(last["mIoU"]) == pytest.approx(then["mIoU"], abs=0.5)
    with torch.no_grad():
        logits = terrazzo.load(run).network(torch.from_numpy(images())).numpy()
    assert_agrees(logits, then["logits"], 2e-3)
    # The moments of the optimiser are by parameter: in another order each moves another weight.
    state, _ = load_checkpoint(run / "checkpoints")
    for key, norm in then["weights"].items():
        assert float(state["model"][key].double().norm()) == pytest.approx(norm, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", RECIPES)
def test_a_flat_recipe_is_read(name: str) -> None:
    values = json.loads((DATA / "recipes" / "values.json").read_text())[name]
    assert flat(Recipe.from_file(DATA / "recipes" / f"{name}.yaml")) == values


def test_values_that_nobody_could_misread() -> None:
    """Some of them by hand, so that the reader and what it is compared with cannot err together."""
    paper = flat(Recipe.from_file(DATA / "recipes" / "setr_pup_deit_base_cityscapes_80k.yaml"))
    assert (paper["model"], paper["steps"], paper["batch_size"]) == ("setr_pup_deit_base", 80000, 8)
    assert (paper["optimizer"], paper["lr"], paper["min_lr"], paper["power"]) == ("sgd", 0.01, 0.0001, 0.9)
    assert (paper["crop"], paper["resize"], paper["decoder_lr_factor"]) == ([768, 768], [2049, 1025], 10.0)
    assert (paper["auxiliary_weight"], paper["normalize_by"], paper["ema_decay"]) == (0.4, "all", None)
    early = flat(Recipe.from_file(DATA / "recipes" / "run_before_those_fields.yaml"))
    assert (early["checkpointing"], early["compile"], early["split"], early["crowds"]) == (False, False, None, "ignore")
    assert len(RECIPES) == 11
