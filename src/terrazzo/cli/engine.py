"""The option ``--engine``, whose help lists the table of engines."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from terrazzo.engines.engine import ENGINES

__all__ = ["EngineOption", "engine_names"]


def engine_names(joined_by: str) -> str:
    """Return the names of all engines, for a help text."""
    *others, last = ENGINES
    return f"{', '.join(others)} {joined_by} {last}"


EngineOption: TypeAlias = Annotated[
    str,
    Parameter(
        help=f"Compute with {engine_names('or')}; auto takes a GPU where there is one, and else what is done first."
    ),
]
