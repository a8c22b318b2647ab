"""Recipes from before there were sections: the same values, and the same batches bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flat_recipes import FILES, flat
from tiny_runs import tiny_recipe

import terrazzo
from terrazzo.data.loaders import pad_to
from terrazzo.errors import ConfigError
from terrazzo.training.augment import Augmentation
from terrazzo.training.flat_recipe import PATHS
from terrazzo.training.recipe import Recipe, automatic_recipe

RECIPES = Path(__file__).parents[2] / "recipes"

TWINS = {
    "segformer": Recipe.from_file(RECIPES / "segformer_b0_ade20k.yaml"),
    "setr": Recipe.from_file(RECIPES / "setr_pup_tiny_camvid.yaml"),
    "automatic": automatic_recipe("segformer_b0", [(360, 480)] * 40, epochs=20),
}

BATCHES = {
    "segformer": ("182952085b62e077", "900766e92fd9168e",
        [0.8337, 1.1714, 0.8288, 0.7774, 0.9938, 1.1682, 0.89, 0.6493]),
    "setr": ("46ffe9ec3c7bcb60", "e4bf78265af32c20",
        [0.7529, 1.1495, 0.9713, 0.8507, 1.0769, 1.138, 1.0314, 0.4689]),
    "automatic": ("6e17e930956e6f72", "a8d0066f47d39f52",
        [0.8371, 1.2336, 0.7958, 0.7107, 1.0379, 1.241, 0.9168, 0.8527]),
    "all_steps": ("2a4b1674994a260b", "410180fdcac31b65",
        [0.7005, 0.9827, 0.6822, 0.9978, 0.8074, 0.7339, 0.8188, 0.7409]),
}  # fmt: skip
"""Of eight photos, as the version before sections made them: hashes of the masks and of the generators afterwards, and
the mean absolute values of the normalised images."""


def read(name: str) -> Recipe:
    return Recipe.from_file(FILES / f"{name}.yaml")


@pytest.mark.parametrize("name", TWINS)
def test_a_flat_recipe_and_its_twin_in_sections_are_one_recipe(name: str) -> None:
    written = yaml.safe_load((FILES / f"{name}.yaml").read_text())
    assert read(name) == TWINS[name] and read(name).differences(TWINS[name]) == []
    values = flat(read(name))
    assert {key: values[key] for key in written if key != "preprocess"} == {
        key: value for key, value in written.items() if key != "preprocess"
    }
    assert values["preprocess"] == {**values["preprocess"], **written["preprocess"]}


@pytest.mark.parametrize("name", BATCHES)
def test_the_first_batch_is_the_same_bit_for_bit(name: str) -> None:
    boxed = {"resize": (200, 70)} if name == "segformer" else {}
    recipe = read(name).changed({"crop": (64, 64), **boxed})
    augment = Augmentation(recipe.augment, _image, np.ones((8, 5), np.uint32), 255)
    masks, draws, pixels = hashlib.sha256(), hashlib.sha256(), []
    for position in range(8):
        rng = np.random.default_rng((recipe.run.seed, 0, position))
        image, mask = augment(position, rng)
        x_HW3, mask = pad_to(recipe.data.preprocess.normalize(image), mask, recipe.crop, 255)
        masks.update(np.ascontiguousarray(mask))
        draws.update(json.dumps(rng.bit_generator.state, sort_keys=True).encode())
        pixels.append(float(np.abs(x_HW3).mean()))
    assert (masks.hexdigest()[:16], draws.hexdigest()[:16]) == BATCHES[name][:2]
    assert pixels == pytest.approx(BATCHES[name][2], abs=2e-3)


def _image(place: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(place)
    mask = np.kron(rng.integers(0, 5, (9, 12)), np.ones((10, 10))).astype(np.uint8)
    mask[:5] = 255
    return (mask[..., None] * 40 + rng.integers(0, 50, (90, 120, 3))).astype(np.uint8), mask


def test_all_steps_of_flat_recipes_are_in_their_order() -> None:
    names = [row["name"] for row in read("all_steps").to_dict()["augment"]]
    assert names == ["resize", "rotate", "crop", "flip", "photometric", "gamma", "gray", "blur"]


def test_recipes_of_before_a_field_was_there_mean_what_they_meant() -> None:
    recipe = tiny_recipe("segformer_b0", auxiliary_weight=0.0)
    added = ("encoder", "steps", "optimizer", "momentum", "sync_batchnorm", "auxiliary_weight", "protocol",
             "checkpointing", "compile", "split", "crowds")  # fmt: skip
    older = {key: value for key, value in flat(recipe).items() if key not in added}
    assert Recipe.from_dict(older, "here") == recipe


def test_the_record_of_the_shipped_model_is_a_recipe() -> None:
    record = terrazzo.load("segformer_b0.camvid").record["recipe"]
    recipe = Recipe.from_dict(record, "the record")
    assert record["lr"] == recipe.optimizer.lr == 6e-4 and recipe.run.epochs == 54
    assert (recipe.crop, recipe.run.seed, recipe.loss[0].class_weight_power) == ((320, 320), 1, 0.5)
    assert [row["name"] for row in recipe.to_dict()["augment"]][-3:] == ["gamma", "gray", "blur"]


def test_unknown_and_missing_keys_of_flat_recipes_are_named() -> None:
    complete = flat(tiny_recipe("segformer_b0"))
    with pytest.raises(ConfigError, match="here has an unknown key 'wramup_steps'") as caught:
        Recipe.from_dict({**complete, "wramup_steps": 3}, "here")
    assert "did you mean warmup_steps" in caught.value.fix
    del complete["lr"], complete["crop"]
    with pytest.raises(ConfigError, match="here lacks crop, lr"):
        Recipe.from_dict(complete, "here")
    with pytest.raises(ConfigError, match=r"here: optimizer\.lr is 'ten'"):
        Recipe.from_dict({**flat(tiny_recipe("segformer_b0")), "lr": "ten"}, "here")


def test_every_field_of_flat_recipes_has_its_place() -> None:
    written = yaml.safe_load((FILES / "automatic.yaml").read_text())
    assert list(PATHS) == list(written)
