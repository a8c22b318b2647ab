"""Where a model's weights come from and what may be done with them: said once, when a command has loaded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terrazzo.cli.say import say

__all__ = ["tell_origin"]


def tell_origin(name: str, record: Mapping[str, Any]) -> None:
    """Print one line to stderr: the licence, and for somebody else's weights what they were recognised as.

    Models without a record of either (a run of one's own) pass in silence.

    Args:
        name: how the model was asked for.
        record: what is known of it.
    """
    parts = [f"licence {record['licence']}"] if "licence" in record else []
    if "format" in record:
        parts.append(f"read as {record['format']}")
    if str(record.get("origin", name)) != name:
        parts.append(f"from {record['origin']}")
    if str(record.get("labels from", "the file's own")) != "the file's own":
        parts.append(f"classes {record['labels from']}")
    if parts:
        say(f"{name}: {'; '.join(parts)}", error=True)
