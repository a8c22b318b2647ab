"""What the manual's tables share: Markdown's layout of rows, and Sphinx directives that make tables from the source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay rows out as a Markdown table; `|` in a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *([re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in rows)]
    head, rule, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, rule.replace(" ", ""), *body])


def add_table(app: Any, name: str, make: Callable[[], str], sources: Iterable[Path] = ()) -> dict[str, bool]:
    """Give Sphinx a directive that puts a table there, made again when a source changes; return what `setup` does."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class Table(SphinxDirective):
        def run(self) -> list[nodes.Node]:
            for path in sources:
                self.env.note_dependency(str(path))
            return self.parse_text_to_nodes(make())

    app.add_directive(name, Table)
    return {"parallel_read_safe": True}
