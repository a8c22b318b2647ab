"""YAML as plain values: names, numbers, true and false, null, lists and mappings.

Numbers and the words for true, false and null are read as YAML 1.1 has them, and 6e-5 is a number too. Dates, times and
12:30 stay text. What people and programs read in two ways is refused: numbers that begin with 0, keys that occur
twice, merge keys, and tags that would make other types. An alias counts with all that it stands for, so that a small
file cannot fill the memory.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from terrazzo.text import printable, show

if TYPE_CHECKING:
    import yaml

__all__ = ["DEEPEST", "MOST_DIGITS", "MOST_NODES", "YamlProblem", "load"]

DEEPEST = 64  # lists and mappings inside each other; real documents have a handful
MOST_NODES = 2_000_000  # values and keys
MOST_DIGITS = 20  # of a whole number: 64 bits
LONGEST_NUMBER = 100  # characters

NULLS = {"", "~", "null", "Null", "NULL"}
BOOLEANS = {
    word: value
    for value, names in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for name in names
    for word in (name, name.capitalize(), name.upper())
}
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0b[01]+)")
FLOAT = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+][0-9]+)")
LEADING_ZERO = re.compile(r"[-+]?0[0-7_]+")  # 08 is text for YAML 1.1, and written without quotes
NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF|nan|NaN|NAN)")
TAGS = "tag:yaml.org,2002:"
SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),),
}  # fmt: skip


class YamlProblem(Exception):
    """Says what is wrong in which line (None where nobody knows), and what to do about it."""

    def __init__(self, line: int | None, problem: str, fix: str = "correct that line") -> None:
        super().__init__(problem)
        self.line, self.problem, self.fix = line, problem, fix


def load(text: str) -> Any:
    """Return what a YAML text holds.

    Raises:
        YamlProblem: it is not YAML as the module's docstring has it.
    """
    import yaml  # takes a while, and most commands need none

    builder = _Builder()
    try:
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        problem = printable(" ".join(str(part) for part in (error.context, error.problem) if part))
        if "nesting depth" in problem:  # libyaml reads ahead, as far as 1,000 levels
            problem = f"nested deeper than {DEEPEST} levels"
        raise YamlProblem(_line(error.problem_mark or error.context_mark), f"not valid YAML: {problem}") from error
    except (yaml.YAMLError, UnicodeError) as error:
        fix = "save it as UTF-8 text without control characters"
        raise YamlProblem(None, "not text that YAML may hold", fix) from error
    return builder.root[0] if builder.root else None


@dataclass
class _Node:
    """A list or mapping that is being filled."""

    value: list[Any] | dict[str | int, Any]
    anchor: str | None
    started: int  # nodes before it
    height: int = 1  # levels from here down
    key: list[str | int] = field(default_factory=list)  # of the value that comes next


class _Builder:
    """Makes plain values of YAML's events, one after another, so that no depth of nesting fills the stack."""

    def __init__(self) -> None:
        self.root: list[Any] = []
        self._open: list[_Node] = []
        self._anchored: dict[str, tuple[Any, int, int]] = {}  # value, nodes, levels
        self._nodes = 0

    def take(self, event: yaml.Event) -> None:
        import yaml

        if isinstance(event, yaml.DocumentStartEvent) and self.root:
            raise _at(event, "a second document begins", "keep one document in the file")
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if event.tag not in (None, "!", TAGS + ("seq" if is_list else "map")):
                raise _unknown_tag(event)
            self._count(event, 1, 1)
            self._open.append(_Node([] if is_list else {}, event.anchor, self._nodes - 1))
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            node = self._open.pop()
            if node.anchor is not None:
                self._anchored[node.anchor] = node.value, self._nodes - node.started, node.height
            self._put(event, node.value, node.height)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(event, 1, 0)
            value = _scalar(event, is_key=self._awaits_key())
            if event.anchor is not None:
                self._anchored[event.anchor] = value, 1, 0
            self._put(event, value, 0)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchored:
                raise _at(event, f"*{printable(str(event.anchor)[:40])} stands for nothing complete above it")
            value, nodes, height = self._anchored[event.anchor]
            self._count(event, nodes, height)
            self._put(event, value, height)

    def _count(self, event: yaml.Event, nodes: int, height: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise _at(event, f"more than {MOST_NODES:,} values", "check that this is the right file")
        if len(self._open) + height > DEEPEST:
            raise _at(event, f"nested deeper than {DEEPEST} levels", "check that this is the right file")

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and not self._open[-1].key

    def _put(self, event: yaml.Event, value: Any, height: int) -> None:
        if not self._open:
            self.root.append(value)
            return
        node = self._open[-1]
        node.height = max(node.height, height + 1)
        if isinstance(node.value, list):
            node.value.append(value)
        elif node.key:
            node.value[node.key.pop()] = value
        elif isinstance(value, bool) or not isinstance(value, (str, int)):
            raise _at(event, f"{show(value)} cannot be a key", "write a name or a whole number, or add quotes")
        elif value in node.value:
            raise _at(event, f"the key {show(value)} occurs twice", "remove one of them")
        else:
            node.key.append(value)


def _scalar(event: yaml.ScalarEvent, is_key: bool) -> Any:
    text, tag = event.value, event.tag
    if tag in ("!", TAGS + "str") or (tag is None and not event.implicit[0]):
        return text
    if tag is None:
        if is_key and text == "<<":
            raise _at(event, "merge keys (<<) are not read", "write the values out in full")
        return _plain(event, text)
    name = tag.removeprefix(TAGS)
    if tag == name or name not in SCALAR_TAGS:
        raise _unknown_tag(event)
    value = _plain(event, text)
    if type(value) not in SCALAR_TAGS[name]:
        raise _at(event, f"{show(text)} is not what !!{name} says", f"remove !!{name}, or correct the value")
    return float(value) if name == "float" else value


def _plain(event: yaml.ScalarEvent, text: str) -> Any:
    """Tell the type of a value without quotes, as YAML 1.1 does, but for dates, times and octal numbers."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if text[0] not in "-+.0123456789":
        return text
    if LEADING_ZERO.fullmatch(text):
        raise _at(event, f"{show(text)} may be octal or decimal", "leave out the leading zeros, or write it in quotes")
    if NOT_FINITE.fullmatch(text):
        raise _at(event, f"{text} is not a finite number", "write a number, or add quotes")
    is_integer = INTEGER.fullmatch(text)
    if not is_integer and not FLOAT.fullmatch(text):
        return text
    digits = text.replace("_", "")
    if len(digits) > (LONGEST_NUMBER if not is_integer else MOST_DIGITS if "0b" not in digits else 70):
        raise _at(event, f"a number of {len(digits):,} digits")
    value = int(digits, 0) if is_integer else float(digits)
    if not math.isfinite(value):
        raise _at(event, f"{show(text)} is larger than any number that can be computed with")
    return value


def _unknown_tag(event: yaml.Event) -> YamlProblem:
    tag = str(getattr(event, "tag", ""))
    shown = "!!" + tag.removeprefix(TAGS) if tag.startswith(TAGS) else tag
    return _at(event, f"the tag {printable(shown[:60])} is not read", "remove it, and write a plain value")


def _at(event: yaml.Event, problem: str, fix: str = "correct that line") -> YamlProblem:
    return YamlProblem(_line(event.start_mark), problem, fix)


def _line(mark: Any) -> int | None:
    return None if mark is None else mark.line + 1
