"""PyAV, which decodes and encodes video: an optional package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from terrazzo.errors import MissingExtraError

__all__ = ["import_av"]


def import_av() -> Any:
    """Import PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("av")
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
