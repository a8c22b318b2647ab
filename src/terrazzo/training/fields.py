"""Frozen dataclasses read from the plain values of YAML and JSON: types, ranges, names.

A field's annotation says what it takes, as in ``p: Annotated[float, Within(at_least=0, at_most=1)] = 0.5``; a field
without a default must be given. The sections of a recipe, its augmentations and its losses are all read by this.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from terrazzo.config import refuse_unknown_keys
from terrazzo.errors import ConfigError
from terrazzo.text import nearest, show

__all__ = [
    "Bounds",
    "Checked",
    "Count",
    "NotNegative",
    "Share",
    "Within",
    "accepted",
    "plain",
    "plain_values",
    "read_fields",
    "read_row",
    "refuse_unknown_row",
    "row_name",
]

T = TypeVar("T")

DEEPEST = 16
"""Levels of lists and mappings in a recipe; its own have five."""

MOST = 1 << 63
"""A larger whole number is no setting, and overflows what computes with it."""


@dataclass(frozen=True, kw_only=True)
class Within:
    """The range of a number, or of each number in a pair.

    Attributes:
        at_least: lower bound, included; `above` leaves it out.
        at_most: upper bound, included; `below` leaves it out.
        ordered: of a pair, the first number is not above the second.
        pixels: the most that the product of a pair may be.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    ordered: bool = False
    pixels: int | None = None

    def holds(self, value: Any) -> bool:
        """Tell whether a value of the field's type lies in the range; None does."""
        numbers = () if value is None else value if isinstance(value, tuple) else (value,)
        return (
            all(self.at_least is None or number >= self.at_least for number in numbers)
            and all(self.above is None or number > self.above for number in numbers)
            and all(self.at_most is None or number <= self.at_most for number in numbers)
            and all(self.below is None or number < self.below for number in numbers)
            and (not self.ordered or list(numbers) == sorted(numbers))
            and (self.pixels is None or math.prod(numbers) <= self.pixels)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            text = f"between {self.at_least} and {self.at_most}"
        else:
            ends = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
            text = " and ".join(f"{word} {_number(end)}" for word, end in ends.items() if end is not None)
        text = f"a lower and an upper bound, each {text}" if self.ordered else text
        return text if self.pixels is None else f"{text}, {self.pixels:,} pixels at most"


LARGEST = 1 << 31

Share: TypeAlias = Annotated[float, Within(at_least=0, at_most=1)]
NotNegative: TypeAlias = Annotated[float, Within(at_least=0)]
Count: TypeAlias = Annotated[int, Within(at_least=1, below=LARGEST)]
Bounds: TypeAlias = Annotated[tuple[float, float], Within(above=0, ordered=True)]


class Checked:
    """A dataclass whose values are of their fields' types and within their ranges, or it raises.

    Raises:
        ConfigError: the first value that is not (code "recipe-value").
    """

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            plain, ranges = (get_args(kind)[0], kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())
            self._require(name, _is(value, plain), _described(plain))
            for within in ranges:
                self._require(name, within.holds(value), str(within))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            value = getattr(self, name)
            shown = repr(value)[:200] if isinstance(value, tuple) else show(value)
            raise ConfigError(f"{name} is {shown}", fix=f"it must be {expected}", code="recipe-value")


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
    declared: Any = kind
    known = {field.name: field for field in fields(declared)}
    refuse_unknown_keys(values, known, where)
    required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", fix="add it, as in the recipes under recipes/")
    hints = get_type_hints(kind)
    try:
        return kind(**{name: _converted(hints[name], value) for name, value in values.items()})
    except ConfigError as error:
        joint = "." if error.code == "recipe-value" else ": "
        raise ConfigError(f"{where}{joint}{error.message}", fix=error.fix, code=error.code) from error


def plain(value: object, where: str, path: str = "", depth: int = 0) -> Any:
    """Return what a caller gave as YAML has it: NumPy's numbers as Python's, paths as text, tuples as lists.

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
    """Raise a ConfigError that names a row nobody reads, and the nearest one that exists."""
    if name not in table:
        near = nearest(name, table)
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError(
            f"{where} has an unknown row {show(name)}", fix=f"{hint}rows: {', '.join(table)}", code="recipe-row"
        )


def accepted(kind: type[Any], name: str) -> str:
    """Say what a field takes: its type, and its range where it has one."""
    hint = get_type_hints(kind, include_extras=True)[name]
    plain, ranges = (get_args(hint)[0], hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
    return "; ".join([_described(plain), *map(str, ranges)])


def row_name(table: Mapping[str, type[Any]], row: object) -> str:
    """Return the name that a row's class has in its table."""
    return next(name for name, kind in table.items() if kind is type(row))


def plain_values(instance: object) -> dict[str, Any]:
    """Return a dataclass's fields as YAML and JSON have them; `read_fields` reads them back."""
    declared: Any = instance
    return {field.name: _plain(getattr(instance, field.name)) for field in fields(declared)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _converted(kind: Any, value: object) -> object:
    """Make tuples of lists, and of a mapping the class that can read it."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, Mapping):
        for part in get_args(kind) or (kind,):
            if hasattr(part, "from_dict"):
                return part.from_dict(value)
    return value


def _is(value: object, kind: Any) -> bool:
    """Tell whether a value is of a field's type; whole numbers are numbers, and true is not 1."""
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is(value, part) for part in parts)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in parts
    if get_origin(kind) is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and _is_finite(value)
    return isinstance(value, kind)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _described(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        joint = ", or " if any(get_origin(part) is tuple for part in parts) else " or "
        return joint.join(_described(part) for part in parts)
    if get_origin(kind) is Literal:
        return " or ".join(parts)
    if get_origin(kind) is tuple:
        return "a list of names" if parts[-1] is Ellipsis else f"a list of {len(parts)}, each {_described(parts[0])}"
    words = {
        NoneType: "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number, such as 6.0e-5",  # YAML takes 6e-5 for text; numbers in it need a point
        str: "a name",
    }
    return words.get(kind, "a mapping of names to values")


def _number(value: float) -> str:
    return "2**31" if value == LARGEST else f"{value:g}"
