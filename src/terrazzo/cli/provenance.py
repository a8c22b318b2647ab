"""The licence and origin of a model's weights, which a command prints once when it has loaded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terrazzo.cli.say import say
from terrazzo.weights.origin import licence_of, starts_of

__all__ = ["tell_origin"]


def tell_origin(name: str, record: Mapping[str, Any]) -> None:
    """Print one line to stderr: the licence, and for somebody else's weights what they were recognised as.

    Nothing is printed for a run from random weights, which has neither.

    Args:
        name: how the model was asked for.
        record: what is known of it.
    """
    licence, starts = licence_of(record), starts_of(record)
    parts = [] if licence is None else [f"licence {licence}"]
    if "format" in record:
        parts.append(f"read as {record['format']}")
    if str(record.get("origin", name)) != name:
        parts.append(f"from {record['origin']}")
    if str(record.get("labels from", "the file's own")) != "the file's own":
        parts.append(f"classes {record['labels from']}")
    if starts:
        parts.append(f"started from {' and before that '.join(str(start['name']) for start in starts)}")
    if parts:
        say(f"{name}: {'; '.join(parts)}", error=True)
