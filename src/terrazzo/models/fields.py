"""Arguments of a class as fields of a document: which there are, their types, defaults and bounds.

A field is what the class's signature says: its name, its annotation and its default. Values from files are checked
against the annotation, and against bounds that keep a hostile one from filling the memory before anything is built.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from terrazzo.errors import ConfigError
from terrazzo.text import list_names, show

__all__ = ["LARGEST", "Field", "check_fields", "fields_of"]

LARGEST = 65_536
"""No width, side, stride or band count is larger."""
LONGEST = 64
"""No list is longer."""
MOST_BLOCKS = 512
"""No encoder has more blocks: the deepest that are published have about a hundred."""
MOST_VALUES = 10_000
"""No configuration of transformers holds more values."""

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Field:
    """An argument of a class.

    Attributes:
        hint: its annotation.
        default: its default, or `REQUIRED`.
    """

    hint: Any
    default: Any


@cache
def fields_of(module: Callable[..., Any]) -> Mapping[str, Field]:
    """Return the arguments of a class or a function by name."""
    function: Any = module.__init__ if isinstance(module, type) else module  # type: ignore[misc]
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(module).parameters
    return {name: Field(hints[name], parameter.default) for name, parameter in parameters.items()}


def check_fields(given: Mapping[str, Any], known: Mapping[str, Field], where: str) -> dict[str, Any]:
    """Return the value of every field: the one given, checked, with lists as tuples; or the default.

    Raises:
        ConfigError: a field is missing, or its value is of the wrong type or out of bounds.
    """
    if missing := [name for name, one in known.items() if one.default is REQUIRED and name not in given]:
        raise _wrong(f"{where} needs {list_names(missing)}")
    values = {name: _checked(given[name], one.hint, name, where) for name, one in known.items() if name in given}
    for name, value in values.items():
        blocks = sum(value) if isinstance(value, tuple) else value
        if name in ("depth", "depths") and not 1 <= blocks <= MOST_BLOCKS:
            raise _wrong(f"{where} has {name} {show(value)}, and an encoder has 1 to {MOST_BLOCKS} blocks")
        if isinstance(value, Mapping):
            _refuse_immense(value, name, where)
    return {name: values.get(name, one.default) for name, one in known.items()}


def _checked(value: Any, hint: Any, name: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        choices = [one for one in arguments if one is not types.NoneType]
        is_list = isinstance(value, (list, tuple))
        hint = next((one for one in choices if (typing.get_origin(one) is not None) == is_list), choices[0])
        return _checked(value, hint, name, where)
    if origin is Literal:
        if value in arguments and type(value) in {type(one) for one in arguments}:
            return value
        raise _wrong(f"{name} of {where} is {show(value)}, and can be {', '.join(map(str, arguments))}")
    if origin in (Sequence, tuple):
        is_pair = origin is tuple and Ellipsis not in arguments
        if not isinstance(value, (list, tuple)) or len(value) > LONGEST or (is_pair and len(value) != len(arguments)):
            count = f"{len(arguments)} values" if is_pair else f"at most {LONGEST} values"
            raise _wrong(f"{name} of {where} must be a list of {count}, not {show(value)}")
        return tuple(_checked(item, arguments[0], name, where) for item in value)
    if origin is Mapping:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return dict(value)
        raise _wrong(f"{name} of {where} must be a mapping, not {show(value)}")
    if hint is float and type(value) is int:
        value = float(value) if abs(value) <= LARGEST else math.inf
    if type(value) is not hint:
        raise _wrong(f"{name} of {where} must be {_NAMES.get(hint, 'another value')}, not {show(value)}")
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        raise _wrong(f"{name} of {where} is {show(value)}, and cannot be larger than {LARGEST}")
    return value


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _refuse_immense(values: Mapping[str, Any], name: str, where: str) -> None:
    """Keep a configuration of transformers from asking for what no network has."""
    todo: list[tuple[str, Any]] = list(values.items())
    seen = 0
    while todo:
        key, value = todo.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise _wrong(f"{name} of {where} holds more than {MOST_VALUES} values")
        if isinstance(value, Mapping):
            todo += [(str(inner), item) for inner, item in value.items()]
        elif isinstance(value, (list, tuple)):
            todo += [(key, item) for item in value]
        elif isinstance(value, int) and abs(value) > LARGEST**2:
            raise _wrong(f"{show(key)} in {name} of {where} is {show(value)}, larger than any network has")


def _wrong(message: str) -> ConfigError:
    return ConfigError(message, fix="correct the description of the model", code="spec-value")
