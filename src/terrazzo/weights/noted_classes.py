"""Class names that training programs note beside the weights, such as Lightning's ``hyper_parameters.class_names``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from terrazzo.config import parse_json
from terrazzo.errors import CheckpointError
from terrazzo.text import show
from terrazzo.weights.pickled_values import as_mapping, plain

__all__ = ["CLASS_NAMES", "choose_names", "noted_classes", "noted_in_text"]

CLASS_NAMES = "class names noted"
"""Where what a checkpoint notes has the lists that `noted_classes` finds, by the way to each."""

LISTS = re.compile(r"(class|label|category)_?names|classes|(id|idx|index)(2|_to_)(label|class|name)", re.IGNORECASE)
NUMBERED = re.compile(r"(label|class|name)(2|_to_)(id|idx|index)", re.IGNORECASE)
PASSED_OVER = re.compile(r"optim|sched|callback|history|message_hub|state_dict", re.IGNORECASE)
DEEPEST = 4
MOST = 20_000  # entries that are looked at


def noted_classes(content: object) -> dict[str, Any]:
    """Find what stands under names for class names in a checkpoint, by the way to it: lists, or names by number."""
    found: dict[str, Any] = {}
    waiting: deque[tuple[str, object, int]] = deque([("", content, 0)])
    left = MOST
    while waiting and left > 0:
        path, value, depth = waiting.popleft()
        for key, item in (as_mapping(value) or {}).items():
            left -= 1
            if not isinstance(key, str) or left < 0:
                continue
            way = f"{path}.{key}".lstrip(".")
            if LISTS.fullmatch(key):
                found[way] = plain(item)
            elif NUMBERED.fullmatch(key) and isinstance(by_name := plain(item), Mapping):
                found[way] = {number: name for name, number in by_name.items() if isinstance(number, int)}
            elif depth < DEEPEST and not PASSED_OVER.search(key):
                waiting.append((way, item, depth + 1))
    return found


def noted_in_text(metadata: object) -> dict[str, Any]:
    """Find the same in the metadata of a safetensors file, which holds nothing but text: lists as JSON."""
    values: dict[str, Any] = {}
    for key, text in metadata.items() if isinstance(metadata, Mapping) else ():
        with suppress(CheckpointError):
            values[key] = parse_json(text.encode(), f"the metadata {show(key)}", error=CheckpointError)
    return noted_classes(values)


def choose_names(noted: object, count: int) -> tuple[list[str] | None, str]:
    """Return the names of a number of classes, and the way to them; None where nothing names so many, or in two ways.

    Args:
        noted: as `noted_classes` finds it.
        count: how many names there must be.
    """
    lists = {way: names for way, value in (noted.items() if isinstance(noted, Mapping) else ())
             if (names := _as_list(value)) is not None and len(names) == count}  # fmt: skip
    first = next(iter(lists), "")
    return (lists[first], first) if lists and all(names == lists[first] for names in lists.values()) else (None, "")


def _as_list(value: object) -> list[str] | None:
    if isinstance(value, Mapping):
        by_number = {str(key): name for key, name in value.items()}
        value = [by_number.get(str(k)) for k in range(len(by_number))]
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        return None
    return [str(name) for name in value] if all(isinstance(name, str) and name.strip() for name in value) else None
