"""Every deliberate fault of scripts/mutations.py still fits the code: it would be put where it is meant to be."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "scripts" / "mutations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_every_old_text_is_in_its_file_exactly_once(table: ModuleType) -> None:
    texts = {name: (ROOT / path).read_text(encoding="utf-8") for name, path in table.FILES.items()}
    counts = {m.name: texts[m.file].count(m.old) for m in table.MUTATIONS}
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert all(mutation.old != mutation.new for mutation in table.MUTATIONS)


def test_what_is_changed_is_still_python(table: ModuleType) -> None:
    for mutation in table.MUTATIONS:
        path = ROOT / table.FILES[mutation.file]
        if path.suffix == ".py":
            compile(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), mutation.name, "exec")


def test_every_named_test_is_there(table: ModuleType) -> None:
    texts = {name: (ROOT / path).read_text(encoding="utf-8") for name, path in table.TESTS.items()}
    for mutation in table.MUTATIONS:
        for test in mutation.tests:
            name, _, function = test.partition("::")
            assert f"def {function or 'test_'}" in texts[name], test


def test_names_are_unique_and_nothing_is_unused(table: ModuleType) -> None:
    names = [mutation.name for mutation in table.MUTATIONS]
    assert len(names) == len(set(names)) >= 20
    assert {mutation.file for mutation in table.MUTATIONS} == set(table.FILES)
    tests = {test.partition("::")[0] for mutation in table.MUTATIONS for test in mutation.tests}
    assert tests == set(table.TESTS)


def test_the_manual_has_every_fault(table: ModuleType) -> None:
    text = (ROOT / "docs" / "mutations.md").read_text(encoding="utf-8")
    listed = [line for line in text.partition("## The faults")[2].splitlines() if line.startswith("| ")][1:]
    assert listed == [f"| {m.name} | `{m.file}` | {', '.join(f'`{t}`' for t in m.tests)} |" for m in table.MUTATIONS]


def test_a_name_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "mutate", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--list" in done.stderr
