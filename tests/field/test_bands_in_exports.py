"""Networks for images of other than three bands: every format and engine takes as many, and agrees with PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import terrazzo
from terrazzo.engines.conversion_cache import convert_once
from terrazzo.engines.engine import ENGINES, EngineOptions
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import ConfigError
from tiny_models import tiny_model

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

BANDS = (1, 2, 4, 5, 12)


CASES = [
    *((".onnx", "logits", "segformer_b0", bands) for bands in BANDS),
    *((".xml", "mask", "segformer_b0", bands) for bands in BANDS),
    *(  # tracing takes ten seconds
        pytest.param(".pt2", "logits", "setr_naive_tiny", bands, marks=[] if bands == 4 else pytest.mark.slow)
        for bands in BANDS
    ),
]


@pytest.mark.parametrize(("suffix", "output_kind", "architecture", "bands"), CASES)
def test_an_exported_file_takes_as_many_bands_as_its_network(
    suffix: str, output_kind: str, architecture: str, bands: int, tmp_path: Path
) -> None:
    model = tiny_model(architecture, bands)
    written = terrazzo.export(model, tmp_path / f"model{suffix}", output_kind=output_kind)
    assert written.parity is not None and written.parity.passed
    engine = ENGINES["torch" if suffix == ".pt2" else "onnxruntime" if suffix == ".onnx" else "openvino"]
    run = engine.open_file(written.path, EngineOptions(1))
    images = np.random.default_rng(bands).standard_normal((2, bands, 67, 53), dtype=np.float32)
    logits = TorchEngine(model.network)(images)
    if output_kind == "logits":
        np.testing.assert_allclose(run(images), logits, atol=1e-5)
    for other in {1, 3, 4, bands + 1} - {bands}:
        with pytest.raises(ConfigError, match=f"takes {bands} channels?, and .* has {other}") as caught:
            run(np.zeros((1, other, 67, 53), np.float32))
        assert caught.value.code == "export-size"


@pytest.mark.parametrize("engine", [name for name, record in ENGINES.items() if record.runs_conversions])
def test_a_conversion_takes_as_many_bands_as_its_network(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path))
    model = tiny_model("setr_mla_tiny", 5)
    run = ENGINES[engine].open_file(convert_once(model, model, ENGINES[engine]), EngineOptions(1))
    images = np.random.default_rng(0).standard_normal((1, 5, 40, 71), dtype=np.float32)
    np.testing.assert_allclose(run(images), TorchEngine(model.network)(images), atol=1e-5)
