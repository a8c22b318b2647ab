"""Text from outside on one line: escaping names, paths and values for messages, and "did you mean"."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["did_you_mean", "first_few", "list_names", "nearest", "printable", "said_by", "show", "shown_path"]

LONGEST = 200  # characters of a stranger's text in one message
LONGEST_PATH = 1000
SHOWN = 8  # names listed in one message


def printable(text: str) -> str:
    """Put text from outside on one line: line breaks become spaces, and what could steer a terminal is escaped."""
    if text.isprintable():
        return text
    return "".join(" " if c == "\n" else c if c.isprintable() else ascii(c)[1:-1] for c in text)


def said_by(error: BaseException, most: int = 300) -> str:
    """What an error of another library says, on one line and cut; its class if it says nothing."""
    return printable(" ".join(str(error).split()))[:most] or type(error).__name__


def shown_path(path: str | os.PathLike[str] | os.PathLike[bytes] | bytes) -> str:
    """Write a path in a message: names may hold bytes that no text has, or escape sequences of terminals."""
    text = os.fsdecode(path)
    text = text if text.isprintable() else ascii(text)[1:-1]
    text = text if text.strip() == text != "" else f"'{text}'"  # whose spaces would not be seen
    return text if len(text) <= LONGEST_PATH else f"{text[: LONGEST_PATH // 2]}...{text[-LONGEST_PATH // 2 :]}"


def show(value: object) -> str:
    """Write a stranger's value as part of a line: control characters escaped, nested structures by their type only."""
    if isinstance(value, str):
        return ascii(value[:40] + "..." * (len(value) > 40)) if not value.isprintable() else repr(value[:LONGEST])
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 10**12):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def list_names(names: Iterable[str]) -> str:
    """The first few names, each escaped, and how many more there are."""
    return first_few(map(show, names))


def first_few(items: Iterable[object], most: int = SHOWN, mark: str = ", ", what: str = "more") -> str:
    """The first few of some items, and how many more there are."""
    texts = [str(item) for item in items]
    return mark.join(texts[:most]) + (f" and {len(texts) - most} {what}" if len(texts) > most else "")


def did_you_mean(word: object, choices: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Begin a fix with the choice spelt most like a word: "did you mean flip? "; empty if none is close."""
    near = nearest(word, choices, cutoff=cutoff) if isinstance(word, str) else None
    return f"did you mean {near}? " if near else ""


def nearest(word: str, choices: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The choice spelt most like a word, if any is close: for "did you mean"."""
    import difflib  # only for messages

    return next(iter(difflib.get_close_matches(word[:LONGEST], list(choices), n=1, cutoff=cutoff)), None)
