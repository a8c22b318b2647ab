"""Checks of names, colours and maps, which may come from a stranger's checkpoint or a hand-written labels.yaml.

Sizes are checked before anything is built from them, and messages never print more of a value than fits on a line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar

import numpy as np

from terrazzo.errors import LabelError
from terrazzo.text import show

__all__ = [
    "MAX_CLASSES",
    "MAX_STORED",
    "Color",
    "Target",
    "checked_color",
    "checked_names",
    "checked_pairs",
    "checked_palette",
    "checked_stored",
    "list_counts",
]

Color: TypeAlias = tuple[int, int, int]
Target: TypeAlias = int | Literal["ignore"]  # what a stored value or colour stands for
Key = TypeVar("Key", int, Color)

MAX_CLASSES = 65535  # the last 16-bit value is the ignore value
MAX_NAME = 200
MAX_STORED = 65535
SHOWN = 8  # offending values, colours or names listed in one message


def checked_names(names: object) -> tuple[str, ...]:
    """Names of at least two classes, distinct, printable, without spaces around them."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise LabelError(
            "names is an empty list"
            if isinstance(names, list) and not names
            else f"names must be a list of class names, not {show(names)}",
            fix="write `names: [first, second]`",
            code="labels-names",
        )
    if len(names) > MAX_CLASSES:
        raise LabelError(
            f"{len(names)} classes are more than the {MAX_CLASSES} that a 16-bit mask can hold",
            fix="merge classes",
            code="labels-names",
        )
    stripped: dict[str, None] = {}
    composed: set[str] = set()  # an accent may be part of its letter or stand behind it, and looks the same
    for name in names:
        if not isinstance(name, str):
            raise LabelError(
                f"class name {show(name)} is not text", fix='put it in quotes, as in "no"', code="labels-names"
            )
        if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise LabelError(
                f"class name {show(name)} is empty, longer than {MAX_NAME} characters or holds control characters",
                fix="choose a short printable name",
                code="labels-names",
            )
        if unicodedata.normalize("NFC", name.strip()) in composed:
            raise LabelError(f"class name {show(name)} occurs twice", fix="rename one of them", code="labels-names")
        stripped[name.strip()] = None
        composed.add(unicodedata.normalize("NFC", name.strip()))
    if len(stripped) == 1:
        raise LabelError(
            f"{show(names[0])} alone leaves nothing to tell apart: background and object are two labels",
            fix=f"list both, as in `names: [background, {show(names[0])}]`",
            code="labels-one-class",
        )
    return tuple(stripped)


def checked_palette(palette: object, num_classes: int) -> tuple[Color, ...]:
    """One colour for each class."""
    if isinstance(palette, str) or not isinstance(palette, Sequence) or len(palette) != num_classes:
        sized = isinstance(palette, Sequence) and not isinstance(palette, str)
        raise LabelError(
            f"the palette must hold one colour for each of the {num_classes} classes, "
            f"not {len(palette) if sized else show(palette)}",  # type: ignore[arg-type]
            fix="give as many colours as names, or leave the palette out",
            code="labels-palette",
        )
    return tuple(map(checked_color, palette))


def checked_color(color: object) -> Color:
    """Red, green and blue from 0 to 255."""
    if isinstance(color, Sequence) and not isinstance(color, str) and len(color) == 3:
        red, green, blue = color
        if is_int(red, 255) and is_int(green, 255) and is_int(blue, 255):
            return int(red), int(green), int(blue)
    shown = [show(part) for part in color] if isinstance(color, (list, tuple)) and len(color) <= 4 else show(color)
    raise LabelError(
        f"{', '.join(shown) if isinstance(shown, list) else shown} is not a colour",
        fix="write red, green and blue from 0 to 255: [255, 0, 0]",
        code="labels-color",
    )


def checked_stored(value: object) -> int:
    """A value that an 8-bit or 16-bit mask file can hold."""
    if not is_int(value, MAX_STORED):
        raise LabelError(
            f"stored value {show(value)} in `map` is not an integer from 0 to {MAX_STORED}",
            fix="write stored mask values on the left, class indices or `ignore` on the right",
            code="labels-map",
        )
    return int(value)


def checked_pairs(
    field: Literal["map", "colors"], pairs: object, checked_key: Callable[[object], Key], num_classes: int
) -> tuple[tuple[Key, Target], ...]:
    """What stored values or colours stand for, sorted so that equal specs compare equal."""
    items = list(pairs.items() if isinstance(pairs, Mapping) else pairs if isinstance(pairs, Iterable) else [None])
    if not all(isinstance(item, (tuple, list)) and len(item) == 2 for item in items):
        raise LabelError(
            f"`{field}` is {show(pairs)} that does not say what stands for what",
            fix="give a mapping, or a list of pairs",
            code=f"labels-{field}",
        )
    checked: dict[Key, Target] = {}
    for left, right in items:
        key = checked_key(left)
        target: Target
        if isinstance(right, str) and right == "ignore":
            target = "ignore"
        elif is_int(right, num_classes - 1):
            target = int(right)
        else:
            raise LabelError(
                f"`{field}` sends {key} to {show(right)}, but the {num_classes} classes are 0 to {num_classes - 1}",
                fix="write a class index, or `ignore`",
                code=f"labels-{field}",
            )
        if checked.setdefault(key, target) != target:
            raise LabelError(
                f"`{field}` sends {key} to both {checked[key]} and {target}",
                fix="keep one of them",
                code="labels-ambiguous",
            )
    if not checked:
        raise LabelError(
            f"`{field}` is empty", fix="leave it out, or name everything that masks hold", code=f"labels-{field}"
        )
    return tuple(sorted(checked.items(), key=lambda item: item[0]))


def is_int(value: object, maximum: int) -> TypeGuard[int]:
    """Whether it is a whole number from 0 to the maximum; True and False are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(0 <= value <= maximum)


def list_counts(counts: Mapping[Any, int]) -> str:
    """The first few values or colours with their pixels."""
    shown = ", ".join(f"{value} ({n} pixel{'s' * (n != 1)})" for value, n in list(counts.items())[:SHOWN])
    return shown + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")
