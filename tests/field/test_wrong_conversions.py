"""A converted model that computes something else than its network is never used, whoever asked for the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import terrazzo
from terrazzo.engines import parity
from terrazzo.engines.cache import cache_folder
from terrazzo.engines.conversion_cache import convert_once, is_checked, kept_conversions
from terrazzo.engines.engine import ENGINES
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.graphs.builder import Graph
from terrazzo.inference import predict
from terrazzo.inference.predict import make_predictor
from terrazzo.notes import TerrazzoWarning
from terrazzo.weights.files import TrainedModel, save_folder
from tiny_models import tiny_model

CONVERTING = [name for name in ENGINES if ENGINES[name].runs_conversions]
IMAGE = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(predict, "gpu_at_hand", lambda: False)


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return tiny_model("segformer_b0")


@pytest.fixture(scope="module")
def folder(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(path, trained)
    return path


@pytest.fixture
def wrong_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs in which each linear layer is 1% too large."""
    right = Graph.linear

    def linear(self: Graph, x_TI: str, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> str:
        return right(self, x_TI, 1.01 * weight_OI, bias_O)

    monkeypatch.setattr(Graph, "linear", linear)


@pytest.mark.parametrize("engine", CONVERTING)
@pytest.mark.usefixtures("wrong_graph")
def test_an_engine_that_is_asked_for_refuses_it(engine: str, folder: Path, trained: TrainedModel) -> None:
    for model in (folder, trained):
        with pytest.raises(CheckpointError, match=f"converted for {engine} does not compute what") as caught:
            make_predictor(model, engine=engine)
        assert caught.value.code == "conversion-parity" and "--engine torch" in caught.value.fix
    assert not list(cache_folder().glob("*.onnx"))


@pytest.mark.usefixtures("wrong_graph")
def test_auto_says_so_and_lets_pytorch_run_it(folder: Path) -> None:
    expected = terrazzo.predict(IMAGE, folder, engine="torch").mask
    with pytest.warns(TerrazzoWarning, match="does not compute what .* PyTorch runs it instead"):
        mask = terrazzo.predict(IMAGE, folder).mask
    assert np.array_equal(mask, expected)
    assert not kept_conversions(folder)


@pytest.mark.parametrize("engine", CONVERTING)
def test_it_is_compared_once_for_each_engine(
    engine: str, folder: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = convert_once(folder, trained, ENGINES[engine])
    others = [ENGINES[name] for name in CONVERTING if name != engine]
    assert is_checked(kept, ENGINES[engine]) and not any(is_checked(kept, other) for other in others)
    monkeypatch.setattr(parity, "check_parity", lambda *_args, **_options: pytest.fail("compared again"))
    assert convert_once(folder, trained, ENGINES[engine]) == kept
    make_predictor(folder, engine=engine)
    monkeypatch.undo()


def test_a_kept_one_that_another_engine_computes_wrongly_is_not_used_with_that(
    folder: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = convert_once(folder, trained, ENGINES["openvino"])

    def wrong(self: Any, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        return right(self, images_B3HW)[:, :, ::-1]

    right: Callable[..., NDArray[np.float32]] = OnnxRuntimeEngine.__call__
    monkeypatch.setattr(OnnxRuntimeEngine, "__call__", wrong)
    with pytest.raises(CheckpointError, match="converted for onnxruntime"):
        make_predictor(folder, engine="onnxruntime")
    with pytest.warns(TerrazzoWarning, match="PyTorch runs it instead"):
        make_predictor(folder)
    make_predictor(folder, engine="openvino")
    assert kept_conversions(folder) == {"openvino": kept}


def test_too_little_memory_for_the_comparison_is_no_verdict_on_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(parity, "_compare", fails)
    with pytest.raises(ConfigError, match="not enough memory") as caught:
        make_predictor(folder, engine="onnxruntime")
    assert caught.value.code == "engine-memory"
    make_predictor(folder)  # without a word, as PyTorch may have enough


def test_a_network_in_training_and_in_half_precision_is_compared_and_left_as_it_was(trained: TrainedModel) -> None:
    network = copy.deepcopy(trained.network).bfloat16().train()
    convert_once("x", replace(trained, network=network), ENGINES["onnxruntime"])
    assert network.training and network.decoder.training
    assert next(network.parameters()).dtype == torch.bfloat16


def test_an_exported_file_that_another_engine_computes_wrongly_is_said_so(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from terrazzo.engines.openvino import OpenVINOEngine

    terrazzo.export(trained, tmp_path / "right.onnx")  # tests run with warnings as errors: nothing is said
    right = OpenVINOEngine.__call__
    monkeypatch.setattr(OpenVINOEngine, "__call__", lambda self, images: 1.01 * right(self, images))
    with pytest.warns(TerrazzoWarning, match=r"run .*a\.onnx with --engine onnxruntime: openvino 2") as said:
        terrazzo.export(trained, tmp_path / "a.onnx")
    assert len(said) == 1 and (tmp_path / "a.onnx").is_file()
