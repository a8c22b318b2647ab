"""The cache folder: where it is, what makes an entry whole, and two processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from terrazzo.engines.cache import cache_folder, cached, keep
from terrazzo.errors import OutputError

KEY = {"model": "abc", "threads": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_found_by_all_of_its_key(folder: Path) -> None:
    assert cached(KEY, ".onnx") is None
    assert not folder.exists()  # looking makes nothing
    path = keep(KEY, ".onnx", b"content")
    assert path.parent == folder and path.suffix == ".onnx"
    assert cached({"threads": 2, "model": "abc"}, ".onnx") == path
    for other in ({**KEY, "threads": 3}, {"model": "abc"}):
        assert cached(other, ".onnx") is None
    assert cached(KEY, ".blob") is None


@pytest.mark.parametrize("content", [b"", b"conten", b"Content"])
def test_a_damaged_entry_is_none_and_is_removed(content: bytes, folder: Path) -> None:
    path = keep(KEY, ".onnx", b"content")
    path.write_bytes(content)
    assert cached(KEY, ".onnx") is None
    assert list(folder.iterdir()) == []
    assert keep(KEY, ".onnx", b"content") == path
    assert cached(KEY, ".onnx") == path


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_an_entry_that_others_could_have_written_does_not_count(mode: int, folder: Path) -> None:
    path = keep(KEY, ".blob", b"content")
    path.chmod(mode)
    assert cached(KEY, ".blob") is None
    assert keep(KEY, ".blob", b"content") == path
    assert cached(KEY, ".blob") == path and path.stat().st_mode & 0o022 == 0


def test_an_entry_of_another_user_does_not_count(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = keep(KEY, ".blob", b"content")
    os.chown(path, 1234, 1234)
    assert cached(KEY, ".blob") is None


def test_of_two_entries_the_whole_one_counts(folder: Path) -> None:
    """Two processes may have made different bytes of the same model."""
    paths = sorted([keep(KEY, ".onnx", b"one"), keep(KEY, ".onnx", b"two")])
    assert len(set(paths)) == 2
    assert cached(KEY, ".onnx") == paths[0]
    paths[0].write_bytes(b"broken")
    assert cached(KEY, ".onnx") == paths[1]


def test_two_processes_at_once_leave_whole_entries_and_nothing_else(folder: Path) -> None:
    program = (
        "import sys\n"
        "from terrazzo.engines.cache import cached, keep\n"
        "for n in range(60):\n"
        "    key = {'model': n % 3}\n"
        "    content = bytes([n % 3]) * 100_000\n"
        "    keep(key, '.onnx', content)\n"
        "    path = cached(key, '.onnx')\n"
        "    assert path is not None and path.read_bytes() == content\n"
        "assert 'torch' not in sys.modules\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list(folder.iterdir())) == 3
    for n in range(3):
        path = cached({"model": n}, ".onnx")
        assert path is not None and path.read_bytes() == bytes([n]) * 100_000


def test_it_lies_where_the_system_keeps_such_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TERRAZZO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/terrazzo")
    for value in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "terrazzo"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "terrazzo"


def test_a_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    folder.write_text("a file")
    assert cached(KEY, ".onnx") is None
    with pytest.raises(OutputError):
        keep(KEY, ".onnx", b"content")
