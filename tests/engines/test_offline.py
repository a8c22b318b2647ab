"""ONNX Runtime reports nothing to its makers, and leaves no identifier in the user's folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from terrazzo.engines.offline import SWITCHES, imported_silently


def test_nothing_is_written_and_the_environment_stays(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    script = """
import os
from terrazzo.engines.offline import imported_silently
before = dict(os.environ)
ort = imported_silently("onnxruntime")
assert ort.get_available_providers() and imported_silently("onnxruntime.quantization").quantize_static
assert dict(os.environ) == before
"""
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(tmp_path))
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-B", "-c", script], env=environment | places, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_who_wants_reports_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setitem(SWITCHES, "json", ("A_SWITCH", "1"))
    monkeypatch.setattr("terrazzo.engines.offline.import_module", lambda name: seen.append(os.environ.get("A_SWITCH")))
    imported_silently("json.decoder")
    monkeypatch.setenv("A_SWITCH", "0")
    imported_silently("json")
    assert seen == ["1", "0"] and os.environ["A_SWITCH"] == "0"
    assert SWITCHES["nncf"] == ("NNCF_CI", "1")


def test_what_is_not_installed_is_an_import_error() -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ImportError):
        patch.setitem(sys.modules, "onnxruntime", None)
        imported_silently("onnxruntime")
