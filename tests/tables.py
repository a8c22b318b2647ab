"""Tables of the program with rows that only a test has. The tables themselves cannot be changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest


def with_rows(patch: pytest.MonkeyPatch, table: Mapping[str, Any], rows: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let every module of the program see a table with further rows, and return that table."""
    return with_table(patch, table, {**table, **rows})


def with_table(patch: pytest.MonkeyPatch, table: Mapping[str, Any], rows: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let every module of the program see other rows in place of a table, and return them as a table."""
    seen = MappingProxyType(dict(rows))
    for name, module in list(sys.modules.items()):
        if name.startswith("terrazzo"):
            for attribute, value in list(vars(module).items()):
                if value is table:
                    patch.setattr(module, attribute, seen)
    return seen
