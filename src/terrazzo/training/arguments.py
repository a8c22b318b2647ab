"""The types of a public function's arguments, seen to before it does anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from terrazzo.errors import ConfigError
from terrazzo.text import show

__all__ = ["refuse_wrong_types"]


def refuse_wrong_types(function: Callable[..., Any], arguments: Mapping[str, object]) -> None:
    """Refuse an argument that is not of the type that the function's signature says.

    Raises:
        ConfigError: naming it and the types (code "config-argument"); or a path that no file can have.
    """
    hints = get_type_hints(function)
    for name, value in arguments.items():
        types = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        if not any(_is(value, get_origin(kind) or kind) for kind in types):
            raise ConfigError(
                f"{name} is {show(value)}",
                fix=f"it must be {function.__annotations__[name].replace(' |', ' or')}",
                code="config-argument",
            )
        if Path in types and isinstance(value, (str, Path)) and not _is_possible(value):
            raise ConfigError(
                f"{name} is {show(str(value))}, which no file can be called", fix="correct it", code="config-argument"
            )


def _is(value: object, kind: Any) -> bool:
    """Tell whether a value is of a type; True is not 1."""
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))


def _is_possible(path: str | Path) -> bool:
    try:
        os.lstat(path)
    except (ValueError, OSError) as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))
    return True
