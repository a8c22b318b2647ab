"""The weights that have names: what ships in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["BUNDLED_FOLDER", "DEFAULT_MODEL", "bundled_folder", "bundled_names", "bundled_record"]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
DEFAULT_MODEL = "segformer_b0.camvid"


def bundled_names() -> list[str]:
    """Return the names of the models that ship in the package."""
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob("*/config.json"))


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a model that ships in the package, or None."""
    return BUNDLED_FOLDER / name if name in bundled_names() else None


def bundled_record(name: str) -> dict[str, Any]:
    """Return a shipped model's ``config.json`` without opening its weights."""
    config: dict[str, Any] = json.loads((BUNDLED_FOLDER / name / "config.json").read_text(encoding="utf-8"))
    return config
