"""Sections and rows of a recipe: dataclasses that check their values, read from mappings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

import numpy as np

from terrazzo.errors import ConfigError
from terrazzo.fields import as_plain, fields_of, read_value, refuse_missing, refuse_unknown, required, wrong_value
from terrazzo.text import show

__all__ = ["Checked", "plain", "read_fields", "read_row", "refuse_unknown_row", "row_name"]

T = TypeVar("T")

DEEPEST = 16
"""Levels of lists and mappings in a recipe; its own have five."""

MOST = 1 << 63
"""A larger whole number is not a setting, and overflows what computes with it."""


class Checked:
    """A dataclass whose values are of their fields' types and within their ranges, or it raises.

    Raises:
        ConfigError: the first value that is not (code "recipe-value").
    """

    def __post_init__(self) -> None:
        for name, one in fields_of(type(self)).items():
            object.__setattr__(self, name, read_value(getattr(self, name), one.hint, name, code="recipe-value"))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise wrong_value(name, getattr(self, name), expected, code="recipe-value")


def read_fields(kind: type[T], values: object, where: str) -> T:
    """Make a dataclass of a mapping of its fields.

    Args:
        kind: the dataclass.
        values: what was written.
        where: for messages, such as ``recipe.yaml: optimizer``.

    Raises:
        ConfigError: it is not a mapping, a key is unknown or missing, or a value has the wrong type or range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {show(values)}", fix="write `name: value` lines below it", code="recipe-value")
    refuse_unknown(values, fields_of(kind), where)
    refuse_missing(values, required(kind), where, fix="add it, as in the recipes under recipes/")
    try:
        return kind(**values)
    except ConfigError as error:
        joint = "." if error.code == "recipe-value" else ": "
        raise ConfigError(f"{where}{joint}{error.message}", fix=error.fix, code=error.code) from error


def plain(value: object, where: str, path: str = "", depth: int = 0) -> Any:
    """Return what a caller gave as YAML has it: NumPy's numbers as Python's, paths as text, tuples as lists.

    A dataclass, such as a `SplitRule` or a `Preprocess`, becomes the mapping of its fields.

    Args:
        value: a mapping of settings, or one of them.
        where: for messages, such as ``the options``.
        path: of the value within it.
        depth: lists and mappings around it.

    Raises:
        ConfigError: it is something that no recipe can hold (code "recipe-value").
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = as_plain(value)
    if value is None or isinstance(value, bool | str | float) or (isinstance(value, int) and abs(value) < MOST):
        return value
    if isinstance(value, list | tuple) and depth < DEEPEST:
        return [plain(item, where, f"{path}[{place}]", depth + 1) for place, item in enumerate(value)]
    if isinstance(value, Mapping) and depth < DEEPEST:
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(
                f"{where}: {path or 'it'} has a key {show(odd[0])}", fix="keys are names", code="recipe-value"
            )
        return {key: plain(item, where, f"{path}.{key}".lstrip("."), depth + 1) for key, item in value.items()}
    if isinstance(value, int):
        raise ConfigError(
            f"{where}{f': {path}' if path else ''} is a whole number beyond 2**63",
            fix="give a smaller one",
            code="recipe-value",
        )
    raise ConfigError(
        f"{where}{f': {path}' if path else ''} is {show(value)}",
        fix="give text, a number, true or false, null, or a list or a mapping of these",
        code="recipe-value",
    )


def read_row(table: Mapping[str, type[T]], values: object, where: str) -> T:
    """Make a dataclass of ``{name: flip, p: 0.5}``: the class's name in a table, and its own fields.

    Raises:
        ConfigError: as `read_fields`, or the table has no such row.
    """
    if not isinstance(values, Mapping) or not isinstance(name := values.get("name"), str):
        raise ConfigError(
            f"{where} has an entry {show(values)} without a name",
            fix=f"write entries such as {{name: {next(iter(table))}}}",
            code="recipe-row",
        )
    refuse_unknown_row(name, table, where)
    own = {key: value for key, value in values.items() if key != "name"}
    return read_fields(table[name], own, f"{where}.{name}")


def refuse_unknown_row(name: str, table: Mapping[str, Any], where: str) -> None:
    """Raise a ConfigError that names a row that a list cannot have, and the nearest one that it can."""
    refuse_unknown([name], table, where, what="row", code="recipe-row")


def row_name(table: Mapping[str, type[Any]], row: object) -> str:
    """Return the name that a row's class has in its table."""
    return next(name for name, kind in table.items() if kind is type(row))
