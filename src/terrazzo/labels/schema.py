"""Reads the document that describes labels in labels.yaml, in config.json and in the bundled class lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terrazzo.config import read_json
from terrazzo.errors import LabelError
from terrazzo.labels.validation import MAX_CLASSES, MAX_STORED, Color, Target, checked_color
from terrazzo.text import did_you_mean, show

__all__ = ["bundled_names", "document_fields", "load_bundled", "names_in_order"]

CLASSES = Path(__file__).with_name("classes")
KEYS = ("names", "palette", "map", "colors")


def bundled_names() -> tuple[str, ...]:
    """Name the class lists that ship with the package, for `LabelSpec.bundled`."""
    return tuple(sorted(path.stem for path in CLASSES.glob("*.json")))


def load_bundled(name: str) -> object:
    """Read the document of a bundled class list."""
    if name not in bundled_names():
        raise LabelError(
            f"there is no class list named {show(name)}",
            fix=f"{did_you_mean(name, bundled_names())}choose one of {', '.join(bundled_names())}, or give a file "
            "such as labels.yaml",
            code="labels-bundled",
        )
    return read_json(CLASSES / f"{name}.json")


def document_fields(document: object) -> dict[str, Any]:
    """Turn a document into the arguments of `LabelSpec.from_names`, whose checks it leaves to that.

    Raises:
        LabelError: an unknown key, or a value of the wrong type or size.
    """
    if not isinstance(document, Mapping):
        raise LabelError(
            f"labels must be a mapping, not {show(document)}", fix="write `names: [first, second]`", code="labels-type"
        )
    for key in document:
        if key not in KEYS:
            raise LabelError(
                f"labels have an unknown key {show(key)}",
                fix=f"{did_you_mean(key, KEYS)}the keys are {', '.join(KEYS)}",
                code="labels-key",
            )
    names = document.get("names")
    fields = document_fields(load_bundled(names)) if isinstance(names, str) else {"names": names_in_order(names)}
    if document.get("palette") is not None:
        fields["palette"] = document["palette"]
    if document.get("map") is not None:
        fields["id_map"] = _id_map(document["map"])
    if document.get("colors") is not None:
        fields["colors"] = _colors(document["colors"])
    return fields


def names_in_order(names: object) -> object:
    """Order ``{0: background, 1: nucleus}``; JSON writes the numbers as text."""
    if not isinstance(names, Mapping):
        return names
    by_index = {_integer(key): name for key, name in names.items()} if len(names) <= MAX_CLASSES else {}
    if len(by_index) != len(names) or set(by_index) != set(range(len(names))):
        raise LabelError(
            f"names must be numbered from 0 without gaps, to {MAX_CLASSES - 1} at most",
            fix="number them so, or write a list",
            code="labels-names",
        )
    return [by_index[k] for k in range(len(names))]


def _id_map(id_map: object) -> list[tuple[int, Target]]:
    if not isinstance(id_map, Mapping) or len(id_map) > MAX_STORED + 1:
        raise LabelError(
            f"`map` must be a mapping of at most {MAX_STORED + 1} stored values, not {show(id_map)}",
            fix="write `map: {0: ignore, 1: 0}`",
            code="labels-map",
        )
    pairs: list[tuple[int, Target]] = []
    for stored, target in id_map.items():
        pairs += [(value, target) for value in _stored_values(stored)]
        if len(pairs) > MAX_STORED + 1:
            raise LabelError(
                "the ranges in `map` overlap", fix="let each stored value occur once", code="labels-ambiguous"
            )
    return pairs


def _stored_values(key: object) -> Sequence[Any]:
    """Read "12" as 12, and "128-255" as all values from 128 to 255."""
    first, dash, last = key.partition("-") if isinstance(key, str) and len(key) <= 40 else ("", "", "")
    low, high = _integer(first), _integer(last)
    if not dash or not isinstance(low, int) or not isinstance(high, int):
        return [_integer(key)]
    if not low <= high <= MAX_STORED:
        raise LabelError(
            f"`map` has {show(key)}, which is not a range of stored values",
            fix=f"write the smaller value first, from 0 to {MAX_STORED}",
            code="labels-map",
        )
    return range(low, high + 1)


def _colors(colors: object) -> list[tuple[Color, Target]]:
    """Read ``{"255,0,0": 0}``, or a list whose i-th colour is class i."""
    if isinstance(colors, Sequence) and not isinstance(colors, str) and len(colors) <= MAX_CLASSES:
        return [(checked_color(color), k) for k, color in enumerate(colors)]
    if not isinstance(colors, Mapping) or len(colors) > MAX_STORED + 1:
        raise LabelError(
            f"`colors` must be a mapping of at most {MAX_STORED + 1} colours, not {show(colors)}",
            fix='write `colors: {"255,0,0": 0, "0,0,0": ignore}`',
            code="labels-colors",
        )
    pairs: list[tuple[Color, Target]] = []
    for text, target in colors.items():
        channels = text.split(",") if isinstance(text, str) and len(text) <= 40 else [text]
        pairs.append((checked_color([_integer(part) for part in channels]), target))
    return pairs


def _integer(key: object) -> Any:
    """Read "12" as 12; anything else stays, to be refused by the check of the field it belongs to."""
    text = key.strip() if isinstance(key, str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else key
