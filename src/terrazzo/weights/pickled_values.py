"""Converts placeholders of unpickled objects to plain Python values: mappings of names, and numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from terrazzo.weights.pickles import Placeholder

__all__ = ["as_mapping", "plain"]

MAX_DEPTH = 12
MAX_VALUES = 200_000


def as_mapping(value: object) -> Mapping[Any, Any] | None:
    """A value's entries by name: of a dictionary, of an object like one (Lightning's AttributeDict), or attributes."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Placeholder):
        return value.items or (value.state if isinstance(value.state, dict) else None)
    return None


def plain(value: object) -> Any:
    """A value in Python's own types: objects as mappings of what they hold, numpy's numbers and arrays as numbers.

    What says nothing outside of the program that wrote it becomes None, as does what lies too deep.
    """
    return _plain(value, MAX_DEPTH, [MAX_VALUES])


def _plain(value: object, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth == 0 or left[0] < 0:
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1, left) for item in value[: max(0, left[0])]]
    if isinstance(value, Placeholder) and (numbers := _numpy_values(value)) is not None:
        return numbers
    if (mapping := as_mapping(value)) is not None:
        return {key: _plain(item, depth - 1, left) for key, item in mapping.items() if left[0] > 0}
    if isinstance(value, Placeholder) and value.path.startswith("pathlib"):
        return "/".join(part for part in value.args if isinstance(part, str))
    return None


def _numpy_values(value: Placeholder) -> Any:
    """The numbers of numpy's scalars and arrays in each of the forms in which it pickles them; None of other things."""
    form = re.sub(r"^numpy\.(_?core\.)?", "", value.path)
    try:
        if form == "multiarray.scalar":
            dtype, data = value.args
            return np.frombuffer(data, _numpy_dtype(dtype), count=1)[0].item()
        if form == "multiarray._reconstruct":
            _, shape, dtype, fortran, data = value.state
        elif form == "numeric._frombuffer":
            data, dtype, shape, order = value.args
            fortran = order == "F"
        else:
            return None
        if len(data) > MAX_VALUES:
            return None
        return np.frombuffer(data, _numpy_dtype(dtype)).reshape(shape, order="F" if fortran else "C").tolist()
    except (TypeError, ValueError, AttributeError, IndexError):
        return None


def _numpy_dtype(value: Placeholder) -> np.dtype[Any]:
    code, order = value.args[0], value.state[1] if isinstance(value.state, tuple) else "="
    if not re.fullmatch(r"[fiu][1248]|b1", code) or order not in ("<", ">", "|", "="):
        raise ValueError(code)
    return np.dtype(f"{order}{code}")
