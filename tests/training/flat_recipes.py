"""Recipes as they were before they had sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from terrazzo.training.flat_recipe import PATHS
from terrazzo.training.recipe import Recipe

FILES = Path(__file__).parent / "flat"


def flat(recipe: Recipe) -> dict[str, Any]:
    """Write a recipe's values flat; augmentations that it lacks are 0."""
    values: dict[str, Any] = {}
    for name, path in PATHS.items():
        section, *row, field = path.split(".")
        place = recipe.to_dict()[section]
        if row:
            place = next((entry for entry in place if entry["name"] == row[0]), {field: 0.0})
        values[name] = place[field]
    return values
