"""Licence and origin of weights, which a model's record carries through training, conversion and export.

A record may hold ``licence``, ``origin`` (somebody else's file or hub id) and ``started_from``: what training started
from, the latest first, each with its name and as much of licence, origin and checksum as is known. Terms of weights
hold for what is trained on from them, so a run has the licence of its start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from terrazzo.weights.catalog import known_licence

__all__ = ["STARTS", "licence_of", "origin_of_run", "starts_of"]

STARTS = "started_from"
NOT_RECORDED = "not recorded"


def licence_of(record: Mapping[str, Any]) -> str | None:
    """Return a model's licence, and after it those of what it started from where they are others.

    None is a model that was trained from random weights, and whose owner has stated no licence.
    """
    own = str(record["licence"]) if "licence" in record else None
    terms = own or ""
    for start in starts_of(record):
        licence = str(start.get("licence", ""))
        if licence and not re.search(rf"(?<![\w-]){re.escape(licence)}(?![\w-])", terms):
            inherited = licence if own is None and not terms else f"{start['name']}, which it started from: {licence}"
            terms = "; ".join(filter(None, (terms, inherited)))
    return terms or None


def starts_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what training started from, the latest first; of a run from before this was recorded, by its recipe."""
    if isinstance(listed := record.get(STARTS), list):
        return [dict(start) for start in listed if isinstance(start, Mapping) and "name" in start]
    recipe = record.get("recipe")
    if "licence" in record or not isinstance(recipe, Mapping):
        return []
    section = recipe.get("model")
    model = section if isinstance(section, Mapping) else recipe  # recipes were flat
    encoder = model.get("encoder")
    name = model.get("weights") or encoder
    if not isinstance(name, str) or name.endswith(".json"):  # an encoder's configuration alone: random weights
        return []
    return [{"name": name, "licence": known_licence(name.removeprefix("hf:")) or NOT_RECORDED}]


def origin_of_run(name: str, record: Mapping[str, Any], sha256: str | None = None) -> dict[str, Any]:
    """Return what the record of a run says that starts from a model.

    Args:
        name: how the model was asked for.
        record: the model's.
        sha256: of its weights.
    """
    licence, origin = licence_of(record), record.get("origin")
    start = {"name": name, "licence": licence, "origin": None if origin == name else origin, "sha256": sha256}
    known = {key: value for key, value in start.items() if value is not None}
    return {**({} if licence is None else {"licence": licence}), STARTS: [known, *starts_of(record)]}
