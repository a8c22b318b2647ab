"""The package's front door: every public name is there, comes when it is asked for, and costs nothing before."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import terrazzo

SOURCE = ast.parse(Path(terrazzo.__file__).read_text(encoding="utf-8"))

TORCH_FREE = [
    "terrazzo.cli.main",
    "terrazzo.config",
    "terrazzo.data",
    "terrazzo.engines.cache",
    "terrazzo.engines.onnxruntime",
    "terrazzo.engines.openvino",
    "terrazzo.evaluation.boundary",
    "terrazzo.evaluation.confusion",
    "terrazzo.evaluation.evaluator",
    "terrazzo.evaluation.report",
    "terrazzo.interpret.figures",
    "terrazzo.interpret.points",
    "terrazzo.imaging.read",
    "terrazzo.inference.overlay",
    "terrazzo.inference.upsample.argmax",
    "terrazzo.inference.predict",
    "terrazzo.inference.predictor",
    "terrazzo.inference.result",
    "terrazzo.labels.spec",
    "terrazzo.preprocess",
    "terrazzo.weights.catalog",
    "terrazzo.weights.exported",
]


@pytest.mark.parametrize("name", terrazzo.__all__)
def test_every_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    value = getattr(terrazzo, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_names_are_listed_once_and_in_order() -> None:
    assert terrazzo.__all__ == sorted(set(terrazzo.__all__))
    assert dir(terrazzo) == sorted([*terrazzo.__all__, "__version__"])


def test_type_checkers_see_the_same_names_in_the_same_places() -> None:
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    imported = {name.name: line.module for line in lines for name in line.names}
    assert imported == terrazzo._HOMES
    assert sorted(imported) == terrazzo.__all__


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        terrazzo.segment  # noqa: B018


def test_importing_costs_nothing() -> None:
    """Neither the package nor the modules that promise to do without torch import it."""
    program = (
        "import sys, terrazzo\n"
        "loaded = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "assert not loaded & {'torch', 'numpy', 'cv2', 'PIL', 'matplotlib', 'yaml', 'rich', 'cyclopts'}, loaded\n"
        "from importlib import import_module\n"
        f"for name in {TORCH_FREE}:\n"
        "    import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
