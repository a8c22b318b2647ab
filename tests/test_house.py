"""The house: no circles of imports, and CONTRIBUTING names every folder and only what exists."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import terrazzo

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(terrazzo.__file__).parent


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """Every module of the package that a file imports anywhere: at its top, inside functions, or for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name for name in names if name in modules}
    return found


def test_no_circle_of_imports() -> None:
    names = {
        ".".join(["terrazzo", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    # The package's own file names, for types, what it opens.
    graph = {name: imports_of(path, set(names) - {"terrazzo"}) - {name} for name, path in names.items()}
    del graph["terrazzo"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_contributing_names_every_folder_and_only_what_exists() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    roots = (REPOSITORY, PACKAGE)
    named = {name for name in re.findall(r"`([\w./-]+(?:/|\.py|\.md|\.toml))`", text) if name != "utils.py"}
    named |= {name for line in re.findall(r"^    (\w.*)$", text, re.M) for name in re.findall(r"\w+(?:/|\.py)", line)}
    assert len(named) > 25
    missing = {name for name in named if not any((root / name).exists() for root in roots)}
    assert missing == set()
    folders = {
        f"{path.relative_to(PACKAGE).as_posix()}/"
        for path in PACKAGE.rglob("*")
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert {folder for folder in folders if folder not in named} == set()
