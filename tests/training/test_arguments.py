"""What a Python caller gives `terrazzo.train` is checked by its types before anything is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny_recipe

import terrazzo
from terrazzo.errors import ConfigError
from terrazzo.training.recipe import Recipe


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("data", None, "train: data is None"),
        ("data", "a\0b", "train: data is 'a\\x00b', which cannot be the name of anything"),
        ("output", ["run"], "train: output is a list"),
        ("recipe", {"lr": 1}, "train: recipe is a dict"),
        ("overrides", "lr=1", "train: overrides is 'lr=1'"),
        ("overrides", {1: 2}, "the options: it has a key 1"),
        ("overrides", {"lr": torch.ones(2)}, "the options: lr is a Tensor"),
        ("overrides", {"data.split": {"val": 10**400}}, "the options: data.split.val is a whole number beyond 2**63"),
        ("overrides", {"data.labels": 5}, "the options: data.labels is 5"),
        ("workers", True, "train: workers is True"),
    ],
)
def test_another_type_is_refused_by_the_arguments_name(tmp_path: Path, argument: str, value: Any, message: str) -> None:
    given = {"data": tmp_path / "none", "output": tmp_path / "run", argument: value}
    with pytest.raises(ConfigError) as caught:
        terrazzo.train(**given)
    assert caught.value.message == message and caught.value.code in ("argument-type", "recipe-value")
    assert list(tmp_path.iterdir()) == []


def cyclic() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    "values",
    [None, 5, "x", [1], b"x", object(), Recipe, np.arange(3), torch.ones(2), {1, 2}, iter([1]), cyclic(), {(1,): 2}],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_recipe_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"here|values is") as caught:
        Recipe.from_dict(values, "here")
    assert caught.value.code in ("recipe-value", "argument-type") and len(caught.value.message) < 300


@pytest.mark.parametrize(
    "value",
    [np.arange(3), torch.ones(2), object(), {1, 2}, b"x", 1j, 10**400, cyclic()],
    ids=lambda value: type(value).__name__,
)
def test_odd_values_in_any_place_of_a_recipe_are_refused(value: Any) -> None:
    """In every section, row and field, in place of the whole and of its parts."""

    def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        keys: list[Any] = []
        if isinstance(values, Mapping):
            keys = list(values)
        elif isinstance(values, list):
            keys = list(range(len(values)))
        return [path, *(place for key in keys for place in places(values[key], (*path, key)))][:200]

    def with_value(values: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return value
        copied = dict(values) if isinstance(values, Mapping) else list(values)
        copied[path[0]] = with_value(values[path[0]], path[1:])
        return copied

    whole = tiny_recipe(split={"val": 0.2, "group_by": None, "seed": 0}).to_dict()
    assert len(places(whole)) > 70
    for path in places(whole):
        with pytest.raises(ConfigError):
            Recipe.from_dict(with_value(whole, path), "here")


def test_numbers_of_numpy_and_paths_become_plain_values() -> None:
    """As `np.logspace` and `pathlib` give them; a checkpoint with NumPy's own types could not be read again."""
    recipe = tiny_recipe(lr=np.float64(1e-3), batch_size=np.int64(2), checkpointing=np.bool_(True), weights=Path("b0"))
    kinds = [type(recipe.optimizer.lr), type(recipe.run.batch_size), type(recipe.run.checkpointing)]
    assert kinds == [float, int, bool] and recipe.model.weights == "b0"
    assert tiny_recipe(lr=np.float32(0.5)).optimizer.lr == 0.5
