"""Matches a data set's classes to a model's by name, since the two may number the same classes differently.

Case, spaces, underscores and hyphens do not count. The same names in another order are mapped. Names that are mere
numbers, such as ``class 0`` and ``LABEL_0``, are matched by these; where only one side has them, or the guessed
``background, foreground``, they say nothing but the order, and are taken by it. Everything else is not a match: pairing
classes by position would give wrong numbers that look right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from terrazzo.errors import LabelError
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.labels.validation import Target
from terrazzo.text import did_you_mean, list_names, printable, show

__all__ = ["Matching", "ends", "find_class", "match_classes", "only_numbered", "reordered", "side_by_side"]

NUMBERED = re.compile(r"(?:class|classes|cls|c|label|category|cat|id|index)?(\d{1,5})")
GUESSED = ("background", "foreground")
SHOWN = 8  # changed places listed in one note
SIDE_BY_SIDE = 24  # rows of two lists shown in one message


@dataclass(frozen=True)
class Matching:
    """Which class of a model each class of a data set is.

    Attributes:
        table: for each class of the data its index in the model; None where the order is the same.
        names: the classes in the model's order, by the data's names, or by the model's where the data only has numbers.
        note: what was assumed, for the user; None where the names agree in order.
    """

    table: tuple[int, ...] | None
    names: tuple[str, ...]
    note: str | None = None


def match_classes(data: Sequence[str], model: Sequence[str], *, guessed: bool = False) -> Matching | None:
    """Match the classes of a data set to those of a model.

    Args:
        data: names, in the data's order.
        model: names, in the model's order.
        guessed: the model's names were guessed from their number, so that they are no better than numbers.

    Returns:
        How they belong together, or None where they are different classes.
    """
    data, model = tuple(data), tuple(model)
    if len(data) != len(model):
        return None
    if data == model:
        return Matching(None, data)
    for key in (_exact, _loose, _number):
        ours, theirs = [key(name) for name in data], [key(name) for name in model]
        if len(set(ours)) < len(ours):
            continue  # such as "a b" and "ab", which only their spelling tells apart
        if ours == theirs:
            by_number = key is _number and f"the classes are matched by their numbers: {ends(data)}"
            return Matching(None, data, by_number or None)
        if set(ours) == set(theirs):
            table = tuple(theirs.index(name) for name in ours)
            in_order = tuple(data[table.index(place)] for place in range(len(table)))
            moved = [f"{show(data[k])} {k} -> {place}" for k, place in enumerate(table) if k != place]
            more = f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else ""
            order = "the data counts its classes in another order than the model"
            return Matching(table, in_order, f"{order}; matched by name: {', '.join(moved[:SHOWN])}{more}")
    if guessed:
        return Matching(
            None,
            data,
            f"the model's names are a guess: its classes are taken in the order of the data's, {ends(data)}",
        )
    numbered = _numbered(data), _numbered(model)
    pairs = zip(data, model, *numbered, strict=True)
    if not any(map(any, numbered)) or not (_ascend(data) and _ascend(model)):
        return None
    if not all((mine != its and (mine or its)) or _loose(name) == _loose(other) for name, other, mine, its in pairs):
        return None
    sides = [side for side, found in zip(("the data's", "the model's"), numbered, strict=True) if any(found)]
    names = tuple(other if mine else name for name, other, mine in zip(data, model, numbered[0], strict=True))
    note = f"the names of {' and '.join(sides)} classes are only numbers; taken in order as {ends(names)}"
    return Matching(None, names, note)


def find_class(names: Sequence[str], wanted: str) -> int:
    """Return the index of the class of a name, which is compared as `match_classes` compares names.

    Raises:
        LabelError: no class has this name, or several have (code "labels-class-name").
    """
    found: list[int] = []
    for key in (_exact, _loose) if isinstance(wanted, str) else ():
        found = [k for k, name in enumerate(names) if key(name) == key(wanted)]
        if len(found) == 1:
            return found[0]
    if found:
        raise LabelError(
            f"{show(wanted)} may be any of {list_names([names[k] for k in found])}",
            fix="spell it as one of them",
            code="labels-class-name",
        )
    nearest = did_you_mean(wanted, names) if isinstance(wanted, str) else ""
    raise LabelError(
        f"no class is called {show(wanted)}", fix=f"{nearest}name one of {list_names(names)}", code="labels-class-name"
    )


def reordered(labels: LabelSpec, matching: Matching) -> LabelSpec:
    """Return a data set's labels in the order of the model that they were matched to; they read the same masks."""
    if matching.table is None:
        return labels if matching.names == labels.names else replace(labels, names=matching.names)
    table = matching.table

    def follow(target: Target) -> Target:
        return "ignore" if target == "ignore" else table[target]

    return LabelSpec(
        names=matching.names,
        palette=tuple(labels.palette[table.index(place)] for place in range(len(table))),
        id_map=tuple((value, follow(target)) for value, target in labels.stored_values),
        colors=None if labels.colors is None else tuple((color, follow(target)) for color, target in labels.colors),
    )


def side_by_side(data: Sequence[str], model: Sequence[str], sides: tuple[str, str] = ("the data", "the model")) -> str:
    """Show two lists of classes on one line, the data's name first; of long lists the rows that differ."""
    names = zip_longest(map(show, data), map(show, model), fillvalue="-")
    rows = [(k, name, other) for k, (name, other) in enumerate(names)]
    if len(rows) > SIDE_BY_SIDE:
        rows = [row for row in rows if row[1] != row[2]]
    more = f"; and {len(rows) - SIDE_BY_SIDE} more" if len(rows) > SIDE_BY_SIDE else ""
    shown = "; ".join(f"{k} {name} | {other}" for k, name, other in rows[:SIDE_BY_SIDE])
    first, second = map(printable, sides)
    alone = _left_over(first, data, model) + _left_over(second, model, data)
    return f"({first} | {second}): {shown}{more}{alone}"


def only_numbered(names: Sequence[str]) -> bool:
    """Whether names say nothing but the order of the classes."""
    numbered = _numbered(names)
    return all(
        found or name.casefold() in BACKGROUND_NAMES for found, name in zip(numbered, names, strict=True)
    ) and any(numbered)


def ends(names: Sequence[str]) -> str:
    """The first classes and the last one, with their numbers."""
    shown = [f"{k} {show(name)}" for k, name in enumerate(names)]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:3], "...", shown[-1]])


def _numbered(names: Sequence[str]) -> list[bool]:
    """Say which names are only the numbers of their places, counted from 0 or 1, or from 0 after a background."""
    if tuple(map(_loose, names)) == GUESSED:
        return [False, True]
    matches = [NUMBERED.fullmatch(_loose(name)) for name in names]
    offsets = {int(match[1]) - k for k, match in enumerate(matches) if match is not None}
    counted = offsets in ({0}, {1}) or (offsets == {-1} and names[0].casefold() in BACKGROUND_NAMES)
    return [match is not None and counted for match in matches]


def _ascend(names: Sequence[str]) -> bool:
    """Whether the numbers among names stand in their order."""
    numbers = [int(match[1]) for name in names if (match := NUMBERED.fullmatch(_loose(name)))]
    return numbers == sorted(numbers)


def _left_over(side: str, names: Sequence[str], others: Sequence[str]) -> str:
    theirs = set(map(_loose, others))
    alone = [name for name in names if _loose(name) not in theirs]
    more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
    return f"; only in {side}: {', '.join(map(show, alone[:SHOWN]))}{more}" if 0 < len(alone) < len(names) else ""


def _exact(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _loose(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_\-\u2010-\u2015]+", "", plain) or plain


def _number(name: str) -> str:
    """The number of a name that says nothing else, whatever the word before it; of other names all."""
    match = NUMBERED.fullmatch(_loose(name))
    return _loose(name) if match is None else str(int(match[1]))
