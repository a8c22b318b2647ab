"""Checking the arguments of public functions against their annotations, so that a wrong type is named at once."""

from __future__ import annotations

import builtins
import inspect
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from terrazzo.errors import ConfigError
from terrazzo.text import show

__all__ = ["check_fields", "checked"]

P = ParamSpec("P")
R = TypeVar("R")

READ = "ImageSource"
"""An annotation of images, whose reader tells their many forms apart and says better what is wrong."""

LONGEST_NAME, LONGEST_TEXT = 255, 4095  # bytes of a file's name, and of its whole path

TEXT = (str, bytes, bytearray)
ACCEPTED: dict[Any, tuple[type, ...]] = {int: (Integral,), float: (Real,), Path: (os.PathLike,)}
"""What also passes for an annotated type: numpy's scalars, and paths of all kinds."""

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    os.PathLike: "a path",
    type(None): "None",
    Callable: "a function",
    Mapping: "a mapping",
    dict: "a mapping",
    Iterable: "a list",
    Sequence: "a list",
    list: "a list",
    tuple: "a tuple",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse arguments that are not what a function's annotations say, before it begins.

    Annotations that only a type checker can resolve accept anything, such as that of a loaded model, whose class cannot
    be imported without torch. Missing and unknown arguments are Python's own TypeError.

    Raises:
        ConfigError: an argument is something else, or text that no file or name can be called (code "argument-type").
    """
    signature = inspect.signature(function)

    @wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        annotations = _annotations(inspect.unwrap(function))
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            _check(function.__name__, name, value, annotations.get(name, Any))
        return function(*args, **kwargs)

    return checking


def check_fields(instance: Any) -> None:
    """Refuse a dataclass whose fields are not what their annotations say: for its ``__post_init__``.

    Raises:
        ConfigError: a field is something else (code "argument-type").
    """
    kind = type(instance)
    assert is_dataclass(kind)
    annotations = _annotations(kind)
    for field in fields(kind):
        _check(kind.__name__, field.name, getattr(instance, field.name), annotations.get(field.name, Any))


def _check(where: str, name: str, value: Any, annotation: Any) -> None:
    if get_origin(annotation) is Annotated:  # an option of a command
        annotation = get_args(annotation)[0]
    if not _fits(value, annotation):
        raise ConfigError(
            f"{where}: {name} is {_shown(value)}", fix=f"give {_in_words(annotation)}", code="argument-type"
        )
    if isinstance(value, (str, os.PathLike)) and not _can_be_a_name(value, Path in (annotation, *get_args(annotation))):
        raise ConfigError(
            f"{where}: {name} is {show(os.fspath(value))}, which cannot be the name of anything",
            fix="leave out zero bytes and halves of characters, and make it shorter",
            code="argument-type",
        )


def _shown(value: Any) -> str:
    """A value as messages have it; of a short tuple, its items, of which one has another type or there are too many."""
    if isinstance(value, tuple) and len(value) <= 6:
        return f"({', '.join(map(show, value))})"
    return show(value)


def _can_be_a_name(value: str | os.PathLike[Any], is_path: bool) -> bool:
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        return False
    if b"\0" in encoded or len(encoded) > LONGEST_TEXT:
        return False
    return not is_path or max(map(len, encoded.split(b"/"))) <= LONGEST_NAME


@cache
def _annotations(owner: Any) -> dict[str, Any]:
    """The annotations of a function or class, as far as they mean something at runtime."""
    known = _Known(vars(inspect.getmodule(owner)))
    resolved = {}
    for name, text in owner.__annotations__.items():
        try:
            resolved[name] = Any if READ in str(text) else eval(text, {}, known)
        except TypeError:  # an alias that is text itself, beside a class
            resolved[name] = Any
    return resolved


class _Known(dict[str, Any]):
    """Names of a module; those that only a type checker sees stand for anything."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _fits(value: Any, annotation: Any) -> bool:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(_fits(value, type(part)) for part in parts)  # which of them, the function says better
    kind = origin or annotation
    if kind is None:
        return value is None
    if kind is Any or not isinstance(kind, type) or (getattr(kind, "_is_protocol", False) and kind not in WORDS):
        return True
    if isinstance(value, bool) and kind in (int, float):
        return False
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ == "bool"  # numpy's
    if kind in (tuple, list, Sequence, Iterable):
        return _fits_all(value, kind, parts)
    return isinstance(value, (kind, *ACCEPTED.get(kind, ())))


def _fits_all(value: Any, kind: Any, parts: tuple[Any, ...]) -> bool:
    """Whether something is a collection, and its items, where they can be looked at, are what they should be."""
    if isinstance(value, (*TEXT, os.PathLike, Mapping)) or not isinstance(value, Iterable):
        return False
    if not isinstance(value, Collection if kind is Iterable else Sequence):
        return kind is Iterable  # a generator, whose items come only once
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return not parts or all(_fits(item, parts[0]) for item in value)


def _in_words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    kind = type(None) if annotation is None else origin or annotation
    if kind is tuple and parts:
        return f"a tuple of {'any length' if parts[-1] is Ellipsis else len(parts)}, each {_in_words(parts[0])}"
    words = WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")
    return f"{words} of which each is {_in_words(parts[0])}" if words == "a list" and parts else words
