"""OpenVINO in a child process, where it goes once memory has run out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from engines.small_files import noise, write_openvino_file

pytest.importorskip("openvino")

from terrazzo.engines import openvino, openvino_process, openvino_worker
from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.openvino import OpenVINOEngine


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenVINOEngine]:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    engine = OpenVINOEngine(write_openvino_file(tmp_path), EngineOptions(threads=1))
    yield engine
    engine.release_memory()


def test_once_memory_ran_out_nothing_runs_in_this_process_and_the_numbers_stay(
    engine: OpenVINOEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(2, 37, 50)
    before = engine(images)
    engine.release_memory()
    monkeypatch.setattr(openvino._Compiled, "run", lambda *_: pytest.fail("OpenVINO ran here again"))
    assert_array_equal(engine(images), before)

    child = engine._apart._child  # type: ignore[union-attr]
    assert child is not None
    child.kill()  # as the system does where memory is short, and as a segmentation fault would
    with pytest.raises(MemoryError):
        engine(images)
    assert_array_equal(engine(images), before)
    again = engine._apart._child  # type: ignore[union-attr]
    assert again is not None and again.pid != child.pid
    engine.release_memory()
    assert again.returncode is not None and engine._apart._child is None  # type: ignore[union-attr]


def test_a_process_that_cannot_start_is_too_little_memory(
    engine: OpenVINOEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    engine.release_memory()
    monkeypatch.setattr(openvino_process.subprocess, "Popen", refused)
    with pytest.raises(MemoryError):
        engine(noise(1, 32, 32))


@pytest.mark.parametrize(
    ("error", "kind"), [(MemoryError("none left"), "memory"), (RuntimeError("no such layer"), "fault")]
)
def test_the_process_says_what_failed(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str) -> None:
    class Failing:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
            raise error

    monkeypatch.setattr(openvino_worker, "OpenVINOEngine", Failing)
    answers = io.BytesIO()
    request = json.dumps([1, 3, 2, 2]).encode() + b"\n" + bytes(48)
    openvino_worker.serve("m.xml", {}, io.BytesIO(request), answers)
    assert kind in json.loads(answers.getvalue())
