"""The manual's table of engines, made from the records in the source."""

from __future__ import annotations

from typing import Any

from tables import add_table, markdown_table
from terrazzo.engines.engine import ENGINES, EngineRecord
from terrazzo.weights.exported import FORMATS


def as_markdown() -> str:
    """Lay the records out as a Markdown table."""
    return markdown_table(("`--engine`", "runs", "on", "`--precision`", "needs"), map(_row, ENGINES.values()))


def _row(engine: EngineRecord) -> list[str]:
    suffixes = " and ".join(f"`{FORMATS[name]}`" for name in engine.formats)
    files = f"exported {suffixes} files; " if suffixes else ""
    weights = "by converting them" if engine.runs_conversions else "of any kind"
    extra = "nothing more" if engine.extra is None else f"the extra `{engine.extra}`"
    return [
        f"`{engine.name}`",
        f"{files}weights {weights}",
        ", ".join(engine.devices),
        ", ".join(engine.precisions),
        extra,
    ]


def setup(app: Any) -> dict[str, bool]:
    """Give Sphinx the directive ``engine-table``."""
    return add_table(app, "engine-table", as_markdown)
