"""Recipes: complete, in sections, and particular about what they hold."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tiny_recipe

from terrazzo.errors import ConfigError
from terrazzo.training.flat_recipe import PATHS
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.run_folder import write_recipe


def test_a_recipe_survives_json_and_yaml(tmp_path: Path) -> None:
    recipe = tiny_recipe(holdout=("a*", "b"), resize=(2048, 512), lr=6e-5, clip_norm=None, labels="camvid")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), "here") == recipe
    write_recipe(tmp_path, recipe)
    assert Recipe.from_file(tmp_path / "recipe.yaml") == recipe
    text = (tmp_path / "recipe.yaml").read_text()
    assert list(yaml.safe_load(text)) == list(recipe.to_dict())
    assert "  - {name: crop, size: [32, 32], cat_max_ratio: 0.75, rare: 0.0, rarer_than: 0.02}\n" in text
    assert text.startswith("# ")
    assert "\n  lr: 6.0e-05\n" in text and "\n  holdout: [a*, b]\n" in text


def test_every_recipe_in_the_house_is_complete() -> None:
    files = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    for file in files:
        assert list(Recipe.from_file(file).to_dict()) == list(yaml.safe_load(file.read_text()))


def test_unknown_and_missing_keys_are_named(tmp_path: Path) -> None:
    for change, problem, hint in (
        ({"run": {"wramup": 3}}, "here: run has an unknown key 'wramup'", None),
        ({"optimizer": {"wramup_steps": 3}}, "here: optimizer has an unknown key 'wramup_steps'", "warmup_steps"),
        ({"optimiser": {}}, "here has an unknown key 'optimiser'", "optimizer"),
        ({"lr": 0.1}, "here has an unknown key 'lr'", None),
        ({"augment": [{"name": "filp"}]}, "here: augment has an unknown row 'filp'", "flip"),
        ({"augment": [{"name": "flip", "q": 1}]}, "here: augment.flip has an unknown key 'q'", None),
        ({"augment": ["flip"]}, "here: augment has an entry 'flip' without a name", None),
        ({"augment": {"flip": {}}}, "here: augment is a dict", None),
        ({"loss": [{"name": "cross-entropy"}]}, "here: loss has an unknown row 'cross-entropy'", "cross_entropy"),
        ({"run": None}, "here: run is None", None),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            Recipe.from_dict({**tiny_recipe().to_dict(), **change}, "here")
        assert hint is None or f"did you mean {hint}" in caught.value.fix
    complete = tiny_recipe().to_dict()
    del complete["optimizer"]["lr"], complete["optimizer"]["power"]
    with pytest.raises(ConfigError, match="here: optimizer lacks lr, power"):
        Recipe.from_dict(complete, "here")
    del complete["optimizer"], complete["loss"]
    with pytest.raises(ConfigError, match="here lacks loss, optimizer"):
        Recipe.from_dict(complete, "here")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml does not hold"):
        Recipe.from_file(tmp_path / "list.yaml")
    (tmp_path / "torn.yaml").write_text("model: [\n")
    with pytest.raises(ConfigError, match=r"torn\.yaml, line 2: not valid YAML"):
        Recipe.from_file(tmp_path / "torn.yaml")


def test_rows_may_leave_out_fields_and_are_written_in_full() -> None:
    rows = [{"name": "crop", "size": [32, 32]}, {"name": "erasing"}]
    recipe = tiny_recipe(augment=rows)
    assert recipe.to_dict()["augment"] == [
        {"name": "crop", "size": [32, 32], "cat_max_ratio": 0.75, "rare": 0.0, "rarer_than": 0.02},
        {"name": "erasing", "p": 0.5, "area": [0.02, 0.4], "aspect": [0.3, 3.3], "labels": "ignore"},
    ]


@pytest.mark.parametrize("names", [[], ["resize"], ["crop", "crop"], ["crop", "flip", "resize"]])
def test_windows_have_one_size(names: list[str]) -> None:
    rows = [{"name": name, **({"size": [32, 32]} if name == "crop" else {})} for name in names]
    with pytest.raises(ConfigError, match="here: augment has") as caught:
        Recipe.from_dict({**tiny_recipe().to_dict(), "augment": rows}, "here")
    assert caught.value.code == "recipe-augment"


@pytest.mark.parametrize("rows", [[], [{"name": "cross_entropy", "weight": 0}]])
def test_something_is_minimised(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="loss has no row with a weight"):
        Recipe.from_dict({**tiny_recipe().to_dict(), "loss": rows}, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpointing", 1),
        ("compile", "yes"),
        ("epochs", 0),
        ("steps", 0),
        ("steps", 10),
        ("epochs", None),
        ("batch_size", 0),
        ("validate_every", -1),
        ("lr", -0.1),
        ("lr", math.nan),
        ("crop", [0, 32]),
        ("ratio_range", [0.5]),
        ("flip", 1.5),
        ("drop_path", 1.0),
        ("ema_decay", 1.0),
        ("precision", "fp16"),
        ("optimizer", "adam"),
        ("momentum", 1.0),
        ("auxiliary_weight", -0.4),
        ("sync_batchnorm", 1),
        ("normalize_by", "some"),
        ("warmup_steps", -1),
        ("patience", -1),
        ("clip_norm", 0),
        ("hue", -3),
        ("resize", [0, 5]),
        ("ratio_range", [2.0, 1.0]),
        ("epochs", "ten"),
        ("epochs", 1.5),
        ("epochs", True),
        ("lr", "6e-5"),
        ("lr", None),
        ("lr", math.inf),
        ("crop", 512),
        ("crop", [32.5, 32]),
        ("crop", [32, 32, 32]),
        ("holdout", "0001*"),
        ("holdout", [1]),
        ("preprocess", None),
        ("patience", "never"),
        ("model", 0),
        ("lr", 10**400),
        ("seed", 1 << 31),
        ("crop", [1 << 20, 1 << 20]),
        ("contrast", [1.5, 0.5]),
        ("train_split", None),
    ],
)
def test_values_of_the_wrong_kind_or_range_are_named(key: str, value: Any) -> None:
    named = "run.steps" if value is None and key == "epochs" else PATHS[key]
    with pytest.raises(ConfigError, match=f"here: ({re.escape(named)}|{key}) is "):
        tiny_recipe().changed({key: value}, "here")


sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


@settings(max_examples=30, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=20), st.integers(1, 300), st.integers(1, 64))
def test_any_images_get_a_usable_recipe(images: list[tuple[int, int]], epochs: int, batch_size: int) -> None:
    recipe = automatic_recipe("segformer_b0", images, epochs=epochs, batch_size=batch_size)
    assert Recipe.from_dict(recipe.to_dict(), "here") == recipe
    assert all(128 <= side <= 512 and side % 32 == 0 for side in recipe.crop)
    steps = max(len(images) // batch_size, 1) * epochs
    assert recipe.optimizer.warmup_steps <= min(300, steps / 10)
    if len(set(images)) == 1:
        assert recipe.data.preprocess.short_side == min(images[0])
    else:
        assert recipe.data.preprocess.short_side is None


def test_unknown_protocols_are_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="here: run: unknown protocol 'segformer-ade'") as caught:
        tiny_recipe().changed({"protocol": "segformer-ade"}, "here")
    assert caught.value.code == "protocol-name" and "segformer-ade20k" in caught.value.fix


def test_the_length_is_given_in_epochs_or_in_steps() -> None:
    made = automatic_recipe("segformer_b0", [(48, 64)] * 8, steps=50)
    assert (made.run.epochs, made.run.steps, made.optimizer.warmup_steps) == (None, 50, 5)
    assert automatic_recipe("segformer_b0", [(48, 64)] * 8).run.epochs == 100
    with pytest.raises(ConfigError, match="steps is 50") as caught:
        automatic_recipe("segformer_b0", [(48, 64)] * 8, epochs=3, steps=50)
    assert "where epochs is null" in caught.value.fix


def test_an_unknown_model_is_refused_before_anything_else() -> None:
    with pytest.raises(ConfigError, match="segformer_b9"):
        automatic_recipe("segformer_b9", [(10, 10)])
