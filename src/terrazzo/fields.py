"""Reading the fields of a document, such as a recipe or the description of a model, from YAML's and JSON's values.

The fields of a dataclass are its own; those of any other class or function are its arguments. An annotation says what a
field takes, as in ``p: Annotated[float, Within(at_least=0, at_most=1)] = 0.5``; a field without a default must be
given. The parts of a `ModelSpec` and the sections and rows of a recipe are all read by this.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import repeat
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from terrazzo.errors import ConfigError
from terrazzo.text import did_you_mean, show

__all__ = [
    "LARGEST",
    "BelowOne",
    "Bounds",
    "Count",
    "Field",
    "NotNegative",
    "Share",
    "Within",
    "accepted",
    "as_plain",
    "fields_of",
    "read_value",
    "refuse_missing",
    "refuse_unknown",
    "required",
    "wrong_value",
]

MOST_VALUES = 10_000
"""Upper bound of the values in a mapping that a field takes as it is, such as the configuration of a backbone."""
MOST = 1 << 32
"""Upper bound of a whole number in such a mapping."""


@dataclass(frozen=True, kw_only=True)
class Within:
    """The range of a number, or of each number in a list.

    Attributes:
        at_least: lower bound, included; `above` leaves it out.
        at_most: upper bound, included; `below` leaves it out.
        ordered: of a pair, the first number is not above the second.
        pixels: the most that the product of a pair may be.
        total: the least and the most that the sum of a list may be.
        items: the most that a list may hold.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    ordered: bool = False
    pixels: int | None = None
    total: tuple[int, int] | None = None
    items: int | None = None

    def holds(self, value: Any) -> bool:
        """Whether a value of the field's type lies in the range; a value without numbers does."""
        items = value if isinstance(value, tuple) else (value,)
        numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
        return (
            (self.items is None or len(items) <= self.items)
            and all(self.at_least is None or number >= self.at_least for number in numbers)
            and all(self.above is None or number > self.above for number in numbers)
            and all(self.at_most is None or number <= self.at_most for number in numbers)
            and all(self.below is None or number < self.below for number in numbers)
            and (not self.ordered or numbers == sorted(numbers))
            and (self.pixels is None or not numbers or math.prod(numbers) <= self.pixels)
            and (self.total is None or not numbers or self.total[0] <= sum(numbers) <= self.total[1])
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            text = f"between {self.at_least} and {self.at_most}"
        else:
            ends = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
            text = " and ".join(f"{word} {_number(end)}" for word, end in ends.items() if end is not None)
        text = f"a lower and an upper bound, each {text}" if self.ordered else text
        more = [
            "" if self.pixels is None else f"{self.pixels:,} pixels at most",
            "" if self.total is None else f"{self.total[0]} to {self.total[1]} in all",
            "" if self.items is None else f"a list of at most {self.items} values",
        ]
        return ", ".join(part for part in (text, *more) if part)


LARGEST = 1 << 31

Share: TypeAlias = Annotated[float, Within(at_least=0, at_most=1)]
BelowOne: TypeAlias = Annotated[float, Within(at_least=0, below=1)]
NotNegative: TypeAlias = Annotated[float, Within(at_least=0)]
Count: TypeAlias = Annotated[int, Within(at_least=1, below=LARGEST)]
Bounds: TypeAlias = Annotated[tuple[float, float], Within(above=0, ordered=True)]


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        hint: its annotation.
        default: its default, or `inspect.Parameter.empty`.
    """

    hint: Any
    default: Any


def fields_of(kind: Callable[..., Any]) -> Mapping[str, Field]:
    """Return the fields of a dataclass, or the arguments of another class or a function, by name."""
    is_plain_class = isinstance(kind, type) and not is_dataclass(kind)
    hints = get_type_hints(kind.__init__ if is_plain_class else kind, include_extras=True)
    parameters = inspect.signature(kind).parameters
    return {name: Field(hints[name], parameter.default) for name, parameter in parameters.items()}


def refuse_unknown(
    names: Iterable[object], known: Iterable[str], where: str, *, what: str = "key", code: str | None = None
) -> None:
    """Raise a ConfigError for the first name that is not known, with the nearest one that is.

    Args:
        names: what was written.
        known: what can be.
        where: for messages, such as ``recipe.yaml: optimizer``.
        what: they are names of this.
        code: of the error.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where} has an unknown {what} {show(name)}",
                fix=f"{did_you_mean(name, known)}known {what}s: {', '.join(known)}",
                code=code,
            )


def required(kind: Callable[..., Any]) -> list[str]:
    """Return the names of the fields without a default."""
    return [name for name, one in fields_of(kind).items() if one.default is inspect.Parameter.empty]


def refuse_missing(
    names: Iterable[object], needed: Iterable[str], where: str, *, fix: str, code: str | None = None
) -> None:
    """Raise a ConfigError that lists the names that are needed and were not written.

    Args:
        names: what was written.
        needed: what must be.
        where: for messages.
        fix: what to do.
        code: of the error.
    """
    written = list(names)
    if missing := [name for name in needed if name not in written]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", fix=fix, code=code)


def read_value(value: Any, hint: Any, where: str, *, code: str, limits: Iterable[Within] = ()) -> Any:
    """Return a value as its field has it: lists as tuples, whole numbers of a float as floats, mappings as their class.

    Args:
        value: what was written.
        hint: the field's annotation. Its ranges hold for all that it takes.
        where: the field, for messages, such as ``optimizer.lr``.
        code: of the error.
        limits: ranges that hold for any field, beside its own.

    Raises:
        ConfigError: the value has another type, or is out of range.
    """
    try:
        taken = _typed(value, hint)
    except _AnotherType:
        raise wrong_value(where, value, _described(hint), code=code) from None
    for within in (*_ranges(hint), *limits):
        if not within.holds(taken):
            raise wrong_value(where, value, str(within), code=code)
    if isinstance(taken, dict):
        _refuse_immense(taken, where, code)
    return taken


def wrong_value(where: str, value: object, expected: str, *, code: str) -> ConfigError:
    """Return the error for a value that its field cannot take."""
    is_list = isinstance(value, list | tuple)
    shown = f"[{', '.join(map(show, value[:8]))}{', ...' * (len(value) > 8)}]" if is_list else show(value)  # type: ignore[index,arg-type]
    return ConfigError(f"{where} is {shown}", fix=f"it must be {expected}", code=code)


def accepted(kind: Callable[..., Any], name: str) -> str:
    """Say what a field takes: its type, and its range where it has one."""
    hint = fields_of(kind)[name].hint
    return "; ".join([_described(hint), *map(str, _ranges(hint))])


def as_plain(value: Any) -> Any:
    """Return a value, or all fields of a dataclass, as YAML and JSON have them."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)} if is_dataclass(value) else value


class _AnotherType(Exception):
    """A value is not of its field's type."""


def _typed(value: Any, hint: Any) -> Any:
    """Return a value as the field's type has it; whole numbers are numbers, and true is not 1."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _typed(value, parts[0])
    if origin in (UnionType, Union):
        for part in parts:
            try:
                return _typed(value, part)
            except _AnotherType:
                continue
    elif origin is Literal:
        if any(type(value) is type(part) and value == part for part in parts):
            return value
    elif origin in (tuple, Sequence):
        if isinstance(value, list | tuple):
            is_open = origin is Sequence or Ellipsis in parts
            if is_open or len(value) == len(parts):
                return tuple(map(_typed, value, repeat(parts[0]) if is_open else parts))
    elif origin is Mapping:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return dict(value)
    elif isinstance(value, bool):
        if hint is bool:
            return value
    elif hint is float:
        if isinstance(value, int | float) and _is_finite(value):
            return float(value)
    elif isinstance(value, Mapping) and hasattr(hint, "from_dict"):
        return hint.from_dict(value)
    elif isinstance(value, hint):
        return value
    raise _AnotherType


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _refuse_immense(values: Mapping[str, Any], where: str, code: str) -> None:
    """Refuse a mapping without declared fields that asks for more memory than any network needs."""
    todo: list[tuple[str, Any]] = list(values.items())
    seen = 0
    while todo:
        key, value = todo.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise wrong_value(where, values, f"a mapping of at most {MOST_VALUES:,} values", code=code)
        if isinstance(value, Mapping):
            todo += [(str(inner), item) for inner, item in value.items()]
        elif isinstance(value, list | tuple):
            todo += [(key, item) for item in value]
        elif isinstance(value, int) and abs(value) > MOST:
            raise wrong_value(f"{where}: {show(key)}", value, f"at most {MOST:,}", code=code)


def _ranges(hint: Any) -> list[Within]:
    if get_origin(hint) is Annotated:
        return [*_ranges(get_args(hint)[0]), *hint.__metadata__]
    is_union = get_origin(hint) in (UnionType, Union)
    return [within for part in get_args(hint) for within in _ranges(part)] if is_union else []


def _described(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _described(parts[0])
    if origin in (UnionType, Union):
        joint = ", or " if any(get_origin(part) is tuple for part in parts) else " or "
        return joint.join(map(_described, parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is Sequence or (origin is tuple and Ellipsis in parts):
        return {str: "a list of names", int: "a list of whole numbers"}.get(parts[0], "a list of numbers")
    if origin is tuple:
        return f"a list of {len(parts)}, each {_described(parts[0])}"
    words = {
        NoneType: "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number, such as 6.0e-5",  # with a point: other YAML readers take 6e-5 for text
        str: "a name",
    }
    return words.get(hint, "a mapping of names to values")


def _number(value: float) -> str:
    return "2**31" if value == LARGEST else f"{value:g}"
