"""Single fields of a recipe changed by their paths, as `--set` and `overrides` do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tiny_runs import tiny_recipe

from terrazzo.errors import ConfigError
from terrazzo.training.augment import AUGMENTATIONS
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.overrides import parse_setting
from terrazzo.training.recipe import Recipe, automatic_recipe


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
        ("lr=6.0e-5", "lr", 6e-5),
        ("run.epochs=null", "run.epochs", None),
        ("model.weights=", "model.weights", None),
        ("model.weights=runs/a=b.pth", "model.weights", "runs/a=b.pth"),
        ("run.compile=true", "run.compile", True),
        ("crop=[256, 320]", "crop", [256, 320]),
        ("loss=[{name: cross_entropy, weight: 0.5}]", "loss", [{"name": "cross_entropy", "weight": 0.5}]),
    ],
)
def test_a_setting_is_a_path_and_a_value(text: str, path: str, value: Any) -> None:
    assert parse_setting(text) == (path, value)


@pytest.mark.parametrize("text", ["lr", "=3", "crop=[3"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"optimizer.lr": 0.5}, ["optimizer.lr"]),
        ({"lr": 0.5, "batch_size": 1}, ["optimizer.lr", "run.batch_size"]),
        ({"augment.flip.p": 0}, ["augment.flip.p"]),
        ({"crop": (64, 64)}, ["augment.crop.size"]),
        ({"data.preprocess.short_side": 40}, ["data.preprocess"]),
        ({"split": {"val": 0.5}}, ["data.split"]),
        ({"loss.cross_entropy.normalize_by": "all"}, ["loss.cross_entropy.normalize_by"]),
        ({"augment": [{"name": "crop", "size": [32, 32]}]}, ["augment"]),
        ({"augment": ({"name": "crop", "size": (9, 9)},), "augment.crop.cat_max_ratio": 1}, ["augment"]),
        ({}, []),
    ],
)
def test_fields_are_changed_by_their_paths(changes: dict[str, Any], differs: list[str]) -> None:
    recipe, given = tiny_recipe(), copy.deepcopy(changes)
    changed = recipe.changed(changes)
    assert changed.differences(recipe) == differs and changes == given
    assert Recipe.from_dict(changed.to_dict(), "here") == changed
    if differs == ["augment"]:
        assert isinstance(changed.augment[0], RandomCrop) and len(changed.augment) == 1


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "crop"])
def test_an_augmentation_that_is_missing_is_put_in_at_its_usual_place(name: str) -> None:
    bare = tiny_recipe(augment=[{"name": "crop", "size": [32, 32]}])
    field = next(iter(AUGMENTATIONS[name].__dataclass_fields__))
    default = AUGMENTATIONS[name].__dataclass_fields__[field].default
    order = [row["name"] for row in bare.changed({f"augment.{name}.{field}": default}).to_dict()["augment"]]
    assert order == sorted(["crop", name], key=list(AUGMENTATIONS).index)
    full = automatic_recipe("segformer_b0", [(48, 64)])
    order = [row["name"] for row in full.changed({f"augment.{name}.{field}": default}).to_dict()["augment"]]
    assert order == [row for row in AUGMENTATIONS if row in order]


@pytest.mark.parametrize(
    ("changes", "problem", "hint"),
    [
        ({"optimizer.lrr": 1}, "the options: optimizer has an unknown key 'lrr'", "did you mean lr"),
        ({"optimiser.lr": 1}, "a recipe has no field 'optimiser.lr'", "did you mean optimizer.lr"),
        ({"lrr": 1}, "a recipe has no field 'lrr'", "did you mean lr"),
        ({"augment.filp.p": 0}, "augment has an unknown row 'filp'", "did you mean flip"),
        ({"augment.flip.q": 0}, "the options: augment.flip has an unknown key 'q'", "known keys: p"),
        ({"augment.flip": 0}, "a recipe has no field 'augment.flip'", "augment.flip.p"),
        ({"augment.flip.p": 2}, "the options: augment.flip.p is 2", "between 0 and 1"),
        ({"run.epochs.x": 2}, "a recipe has no field 'run.epochs.x'", "run.epochs"),
        ({"run": 3}, "a recipe has no field 'run'", "by section"),
        ({"augment": "flip"}, "a recipe has no field 'augment'", "fields are given by section"),
        (
            {"augment.resize.ratio_range": (2, 1)},
            "ratio_range is [2, 1]",
            "a lower and an upper bound, each above 0",
        ),
        ({"loss.cross_entrpy.weight": 2}, "loss has an unknown row", "did you mean cross_entropy"),
        ({"augment": ["flip", {"name": []}], "augment.flip.p": 0}, "augment has an entry", "entries such as"),
        ({"augment": [{"name": "flip"}] * 2, "augment.flip.p": 0}, "augment has 2 rows flip", "recipe file"),
        ({"data.split.val": 0.1}, "a recipe has no field 'data.split.val'", "data.split"),
    ],
)
def test_what_cannot_be_changed_is_named(changes: dict[str, Any], problem: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_recipe().changed(changes)
    assert problem in caught.value.message and hint in caught.value.fix
