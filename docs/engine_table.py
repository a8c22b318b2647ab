"""The manual's table of engines, made from the records in the source."""

from __future__ import annotations

from typing import Any

from terrazzo.engines.engine import ENGINES, EngineRecord
from terrazzo.weights.exported import FORMATS


def as_markdown() -> str:
    """Lay the records out as a Markdown table."""
    lines = ["| `--engine` | runs | on | `--precision` | needs |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_row, ENGINES.values())])


def _row(engine: EngineRecord) -> str:
    suffixes = " and ".join(f"`{FORMATS[name]}`" for name in engine.formats)
    files = f"exported {suffixes} files; " if suffixes else ""
    weights = "by converting them" if engine.runs_conversions else "of any kind"
    extra = "nothing more" if engine.extra is None else f"the extra `{engine.extra}`"
    cells = [
        f"`{engine.name}`",
        f"{files}weights {weights}",
        ", ".join(engine.devices),
        ", ".join(engine.precisions),
        extra,
    ]
    return f"| {' | '.join(cells)} |"


def setup(app: Any) -> dict[str, bool]:
    """Give Sphinx the directive ``engine-table``."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class EngineTable(SphinxDirective):
        def run(self) -> list[nodes.Node]:
            return self.parse_text_to_nodes(as_markdown())

    app.add_directive("engine-table", EngineTable)
    return {"parallel_read_safe": True}
