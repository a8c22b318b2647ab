"""Data sets of photos and masks: recognising their layout, reading pairs, checking them, batches for training.

Names are imported when they are first used: prediction takes sources from here, and no layouts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terrazzo.data.dataset import Dataset, Sample
    from terrazzo.data.detect import find_layout
    from terrazzo.data.layout import Layout
    from terrazzo.data.opening import open_dataset
    from terrazzo.data.rules import DataRules

__all__ = ["DataRules", "Dataset", "Layout", "Sample", "find_layout", "open_dataset"]

_HOMES = {
    "DataRules": "rules",
    "Dataset": "dataset",
    "Layout": "layout",
    "Sample": "dataset",
    "find_layout": "detect",
    "open_dataset": "opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'terrazzo.data' has no attribute {name!r}")
    return getattr(import_module(f"terrazzo.data.{_HOMES[name]}"), name)
