"""Each row of the table of engines is true, and a new engine is one file and one row."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from small_files import logits_of, write_onnx_file

from tables import with_rows, with_table
from terrazzo.engines.auto import Workload, auto_engine, engine_for_file
from terrazzo.engines.engine import ENGINES, EngineRecord
from terrazzo.errors import ConfigError
from terrazzo.inference.predict import make_predictor
from terrazzo.preprocess import Preprocess
from terrazzo.profiling.benchmark import benchmark
from terrazzo.weights.exported import FORMATS

REPOSITORY = Path(__file__).parents[2]

NUMPY_ENGINE = """
import numpy as np
from terrazzo.engines.onnx_file import describe_onnx

class NumpyEngine:
    def __init__(self, path, options, device, trust):
        self.description = describe_onnx(path)

    def __call__(self, images_B3HW):
        B, _, H, W = images_B3HW.shape
        return np.zeros((B, self.description.labels.num_classes, -(-H // 4), -(-W // 4)), np.float32)

open_file = NumpyEngine
"""


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_a_row_is_true(engine: EngineRecord) -> None:
    assert ENGINES[engine.name] is engine
    assert (engine.file_module is not None) == bool(engine.formats)
    assert engine.file_module is None or callable(import_module(engine.file_module).open_file)
    assert engine.model_module is None or callable(import_module(engine.model_module).open_model)
    assert set(engine.formats) <= set(FORMATS)
    assert not engine.runs_conversions or "onnx" in engine.formats  # what models are converted to
    assert {"auto", "fp32"} <= set(engine.precisions) and "cpu" in engine.devices
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert engine.extra is None or any(need.startswith(engine.package) for need in extras[engine.extra])


def test_every_exported_file_has_an_engine() -> None:
    assert {name for engine in ENGINES.values() for name in engine.formats} == set(FORMATS)
    assert {suffix: engine_for_file(Path(f"a{suffix}"), None).name for suffix in FORMATS.values()} == {
        ".onnx": "onnxruntime",
        ".xml": "openvino",
        ".pt2": "torch",
    }


def test_reading_the_table_imports_no_engine() -> None:
    program = "import sys, terrazzo.engines.auto, terrazzo.cli.predict\n"
    program += "assert not {'torch', 'onnxruntime', 'openvino'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_new_engine_is_one_file_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy_engine.py").write_text(NUMPY_ENGINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    row = EngineRecord("numpy", "numpy", ("onnx",), "numpy_engine", best_for=("one size",))
    table = with_rows(monkeypatch, ENGINES, {"numpy": row})
    path = write_onnx_file(tmp_path)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 48), dtype=np.float32)
    assert not make_predictor(path, engine="numpy").engine(images).any()
    np.testing.assert_allclose(make_predictor(path).engine(images), logits_of(images), atol=1e-5)  # the first row's
    for options, code in (({"device": "cuda"}, "engine-device"), ({"precision": "bf16"}, "engine-precision")):
        with pytest.raises(ConfigError, match="numpy") as caught:
            make_predictor("segformer_b0.camvid", engine="numpy", **options)
        assert caught.value.code == code
    with pytest.raises(ConfigError) as caught:
        make_predictor("segformer_b0.camvid", engine="nunpy")
    assert "numpy" in caught.value.fix
    with pytest.raises(ConfigError) as caught:
        benchmark(engines="nunpy")
    assert "numpy" in caught.value.fix
    many = Workload(500, (480, 640), one_size=True)
    assert auto_engine(many, Preprocess()).name == "openvino"
    with_table(monkeypatch, table, {name: one for name, one in table.items() if name != "openvino"})
    assert auto_engine(many, Preprocess()).name == "numpy"


def test_the_manual_lists_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    monkeypatch.delitem(sys.modules, "engine_table", raising=False)
    from engine_table import as_markdown  # type: ignore[import-not-found]

    rows = dict(zip(ENGINES, as_markdown().splitlines()[2:], strict=True))
    assert rows["openvino"] == (
        "| `openvino` | exported `.xml` and `.onnx` files; weights by converting them | cpu | auto, fp32, bf16 | "
        "the extra `export` |"
    )
    assert "```{engine-table}" in (REPOSITORY / "docs" / "engines.md").read_text(encoding="utf-8")
