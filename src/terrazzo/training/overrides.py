"""Single fields of a recipe by their paths: `optimizer.lr`, `augment.flip.p`, `data.preprocess.short_side`."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from terrazzo.config import parse_yaml
from terrazzo.errors import ConfigError
from terrazzo.text import did_you_mean, show
from terrazzo.training.augment import AUGMENTATIONS
from terrazzo.training.flat_recipe import PATHS
from terrazzo.training.losses import LOSSES, SHORT_NAMES
from terrazzo.training.losses.row import ClassWeightedLoss, Loss
from terrazzo.training.rows import plain, refuse_unknown_row
from terrazzo.training.sections import OPTIONAL

__all__ = ["CLASS_WEIGHTS", "TABLES", "full_paths", "parse_class_weights", "parse_setting", "with_values"]

SECTIONS = ("model", "data", "augment", "loss", "optimizer", "run", *OPTIONAL)
TABLES: Mapping[str, Mapping[str, type[Any]]] = {"augment": AUGMENTATIONS, "loss": LOSSES}
"""The sections that are lists, and the rows that they may have."""

CLASS_WEIGHTS = "loss.class_weights"
"""The path that stands for this field of every loss that has it."""

EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # YAML takes 1e5 for text


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``optimizer.lr=1e-4``; the value is YAML, and numbers need no point.

    Raises:
        ConfigError: there is no ``=``, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(
            f"--set {show(text)} is not a field and its value", fix="write --set optimizer.lr=1e-4", code="recipe-field"
        )
    parsed = parse_yaml(value, f"--set {path}") if value.strip() else None
    if isinstance(parsed, str) and EXPONENT.fullmatch(parsed):
        parsed = float(parsed)
    return path.strip(), parsed


def parse_class_weights(texts: Sequence[str]) -> dict[str, float]:
    """Read ``name=5`` for each class.

    Raises:
        ConfigError: there is no ``=`` and number.
    """
    weights = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"--class-weight {show(text)} is not a class and its weight",
                fix='write --class-weight "traffic sign=5"',
                code="recipe-field",
            ) from None
    return weights


def full_paths(changes: Mapping[str, Any], where: str = "the options") -> dict[str, Any]:
    """Write the short names among the fields in full: `lr` is `optimizer.lr`.

    Raises:
        ConfigError: a name is neither a path nor a short name, or a value is nothing that a recipe can hold.
    """
    values = plain(changes, where)
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where} are {show(values)}", fix='give a mapping such as {"epochs": 20}', code="recipe-value"
        )
    return {_full_path(name, value): value for name, value in values.items()}


def _full_path(name: str, value: Any) -> str:
    is_whole_section = isinstance(value, (Mapping, list, tuple)) or (name == "loss" and isinstance(value, str))
    is_whole_section = is_whole_section or (name in OPTIONAL and value is None)
    if name.partition(".")[0] in SECTIONS and ("." in name or is_whole_section):
        return name
    if name not in PATHS:
        raise _unknown(name, [*PATHS.values(), *PATHS])
    return PATHS[name]


def with_values(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's plain values with some of them changed.

    A row that `augment` lacks is put in at its usual place, and a section that a recipe may lack at the end, with their
    own fields as they are by default.

    Args:
        recipe: its sections.
        changes: full paths and what is to be there.

    Raises:
        ConfigError: a path leads to no field.
    """
    values: dict[str, Any] = copy.deepcopy(dict(recipe))
    changes = dict(changes)
    if isinstance(losses := changes.get("loss"), str):
        values["loss"] = loss_rows(losses, values["loss"])
        del changes["loss"]
    if CLASS_WEIGHTS in changes:
        _set_class_weights(values["loss"], changes.pop(CLASS_WEIGHTS))
    for path, value in changes.items():
        *places, field = path.split(".")
        if places and places[0] in OPTIONAL and values.get(places[0]) is None:
            values[places[0]] = {}
        inner: Any = values
        for depth, place in enumerate(places):
            section = places[0]
            inner = _row(inner, section, place) if depth == 1 and section in TABLES else inner.get(place)
            if not isinstance(inner, list if depth == 0 and section in TABLES else dict):
                raise _unknown(path, PATHS.values())
        if isinstance(inner, list):
            raise _unknown(path, PATHS.values())
        value = copy.deepcopy(value)
        inner[field] = list(value) if isinstance(value, tuple) else value
    return values


def loss_rows(text: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read ``ce+0.5*dice``: losses by name, each with its weight before it.

    Args:
        text: what was written.
        rows: those that the recipe has; a loss that is among them keeps its own fields.

    Raises:
        ConfigError: a loss or a weight is unknown.
    """
    chosen = []
    for part in text.split("+"):
        weight, times, name = part.strip().rpartition("*")
        name = SHORT_NAMES.get(name.strip(), name.strip())
        refuse_unknown_row(name, LOSSES, f"the loss {show(text)}")
        row = dict(next((row for row in rows if isinstance(row, Mapping) and row.get("name") == name), {"name": name}))
        if times:
            try:
                row["weight"] = float(weight)
            except ValueError:
                raise ConfigError(
                    f"the loss {show(text)} has a weight {show(weight)}",
                    fix="write losses as in ce+dice or ce+0.5*dice",
                    code="recipe-row",
                ) from None
        chosen.append(row)
    return chosen


def _set_class_weights(rows: list[dict[str, Any]], weights: Any) -> None:
    """Give all losses that weigh classes the same weights."""
    takers = [row for row in rows if issubclass(LOSSES.get(row["name"], Loss), ClassWeightedLoss)]
    if not takers:
        able = [name for name, kind in LOSSES.items() if issubclass(kind, ClassWeightedLoss)]
        raise ConfigError(
            f"the recipe's loss ({', '.join(row['name'] for row in rows)}) does not weigh classes",
            fix=f"add one that does: {', '.join(able)}",
            code="recipe-field",
        )
    for row in takers:
        row["class_weights"] = weights


def _row(rows: list[dict[str, Any]], section: str, name: str) -> dict[str, Any]:
    """Return the row of this name; `augment` gets one that it does not have."""
    table, names = TABLES[section], [row.get("name") if isinstance(row, Mapping) else None for row in rows]
    if names.count(name) > 1:
        raise ConfigError(
            f"{section} has {names.count(name)} rows {name}", fix="change them in a recipe file", code="recipe-field"
        )
    if name in names:
        return rows[names.index(name)]
    refuse_unknown_row(name, table, section)
    if section != "augment":
        raise ConfigError(
            f"the recipe's {section} has no row {name}",
            fix=f"give the whole list, as in --set '{section}=[{{name: {name}}}]'",
            code="recipe-field",
        )
    after = list(table)[list(table).index(name) :]
    row: dict[str, Any] = {"name": name}
    rows.insert(next((place for place, other in enumerate(names) if other in after), len(rows)), row)
    return row


def _unknown(name: str, known: Any) -> ConfigError:
    hint = "" if name in SECTIONS else did_you_mean(name, known)
    return ConfigError(
        f"a recipe has no field {show(name)}",
        fix=f"{hint}fields are given by section, such as optimizer.lr or augment.flip.p",
    )
