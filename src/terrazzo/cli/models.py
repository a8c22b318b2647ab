"""`terrazzo models`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_names, bundled_record

__all__ = ["describe", "models"]

WIDTH = 80
COUNTED_CLASSES = 19


def models() -> None:
    """List the models: those that ship with their weights, then the architectures that can be trained.

    A shipped model comes with its record: what it was trained on, how long and on what, what it scored, and under which
    licence its weights stand.

    Examples:
        terrazzo models
    """
    print("Shipped with their weights, for --model of `terrazzo predict` and `evaluate`:\n")
    for name in bundled_names():
        print(describe(name, bundled_record(name)), end="\n\n")
    if not bundled_names():
        print("  none\n")

    import torch

    from terrazzo.models import create_model, list_models

    print(f"Architectures, for `terrazzo train --model`; parameters with {COUNTED_CLASSES} classes:\n")
    for name in list_models():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in create_model(name, COUNTED_CLASSES).parameters())
        print(f"  {name:<16}{count / 1e6:6.2f} M")


def describe(name: str, config: Mapping[str, Any]) -> str:
    """Lay out what a shipped model's ``config.json`` says: its classes, and every plain value of its record."""
    names, record = config["labels"]["names"], config["record"]
    default = ", the default" if name == DEFAULT_MODEL else ""
    plain = {key.replace("_", " "): value for key, value in record.items() if isinstance(value, (str, int, float))}
    rows = {"architecture": config["architecture"], "classes": f"{len(names)}: {', '.join(names)}", **plain}
    margin = max(map(len, rows)) + 2
    layout = textwrap.TextWrapper(
        WIDTH, initial_indent=" " * 4, subsequent_indent=" " * (margin + 4), break_on_hyphens=False
    )
    lines = [layout.fill(f"{key:<{margin}}{value}") for key, value in rows.items()]
    return "\n".join([f"  {name}{default}", *lines])
