"""The engines' speeds that are kept for `auto`."""

from __future__ import annotations

from pathlib import Path

import pytest

from terrazzo.engines import measured
from terrazzo.engines.auto import Workload, auto_engine
from terrazzo.engines.cache import cached
from terrazzo.engines.measured import fastest_engine, keep_speeds, kept_speeds
from terrazzo.preprocess import Preprocess

SPEEDS = {
    (512, 512): {"torch": 0.2, "onnxruntime": 0.15, "openvino": 0.1},
    (1024, 2048): {"torch": 2.0, "onnxruntime": 1.5, "openvino": 2.5},
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))


def of_size(height: int, width: int) -> Workload:
    return Workload(500, (height, width), one_size=True)


def test_auto_takes_what_was_fastest_at_the_nearest_size() -> None:
    assert [auto_engine(of_size(*size), Preprocess(), 3).name for size in SPEEDS] == ["openvino", "openvino"]
    keep_speeds(3, SPEEDS)
    assert kept_speeds(3) == SPEEDS
    for size, name in (((300, 400), "openvino"), ((512, 1024), "openvino"), ((1024, 1024), "onnxruntime")):
        assert auto_engine(of_size(*size), Preprocess(), 3).name == name
    assert auto_engine(of_size(2048, 4096), Preprocess(), 3).name == "onnxruntime"
    assert auto_engine(Workload(500, (2048, 4096)), Preprocess(), 3).name == "torch"  # sizes differ
    assert auto_engine(of_size(2048, 4096), Preprocess(), 2).name == "openvino"  # not measured with two threads


def test_a_later_measurement_replaces_the_earlier_one() -> None:
    keep_speeds(1, SPEEDS)
    keep_speeds(1, {(512, 512): {"torch": 0.2, "openvino": 0.3}})
    assert fastest_engine(1, 2.0) == "torch"


def test_it_is_for_one_processor_and_these_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_speeds(1, SPEEDS)
    with monkeypatch.context() as patch:
        patch.setattr(measured, "processor_name", lambda: "another")
        assert kept_speeds(1) is None
    with monkeypatch.context() as patch:
        patch.setattr(measured, "package_version", lambda _package: "0.1")
        assert kept_speeds(1) is None
    assert kept_speeds(1) == SPEEDS


def test_engines_that_are_gone_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_speeds(1, SPEEDS)
    monkeypatch.setattr("terrazzo.engines.engine.find_spec", lambda name: None if name == "openvino" else True)
    assert fastest_engine(1, 0.3) == "onnxruntime"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"size": [1], "seconds": {}}]'])
def test_a_file_of_another_kind_counts_as_none(content: bytes) -> None:
    path = keep_speeds(1, SPEEDS)
    monkey = measured.keep(measured._key(1), measured.SUFFIX, content)
    path.unlink()
    assert cached(measured._key(1), measured.SUFFIX) == monkey
    assert fastest_engine(1, 1.0) is None
