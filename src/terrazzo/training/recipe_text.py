"""The text of a recipe file: sections with a field a line, and lists with a row a line."""

from __future__ import annotations

from typing import Any

import yaml

from terrazzo.training.overrides import TABLES
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.recipe import Recipe

__all__ = ["recipe_text"]


def recipe_text(recipe: Recipe | PretrainRecipe) -> str:
    """Write a recipe in full, with the fields in their order."""
    values = recipe.to_dict()
    for section in TABLES.keys() & values.keys():
        values[section] = [_Row(row) for row in values[section]]
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


class _Row(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _row(dumper: _Dumper, row: _Row) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", row, flow_style=True)


def _list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    is_plain = not any(isinstance(value, list | dict) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=is_plain)


_Dumper.add_representer(_Row, _row)
_Dumper.add_representer(list, _list)
