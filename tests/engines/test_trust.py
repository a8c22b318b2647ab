"""The list of trusted files: what is on it is opened, and nobody else can write to it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from terrazzo.engines.trust import read_trusted, remember, trust_file
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.notes import TerrazzoWarning


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "config"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"content")
    return path


def test_a_file_is_asked_about_once_by_its_content(config: Path, model: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_trusted(model)
    assert caught.value.code == "model-untrusted"
    assert not list(config.iterdir())  # asking writes nothing
    assert read_trusted(model, trust=True) == b"content"
    other = model.rename(model.with_name("renamed.pt2"))
    assert read_trusted(other) == b"content"
    other.write_bytes(b"contents")
    with pytest.raises(CheckpointError, match="not exported on this machine"):
        read_trusted(other)


def test_the_list_is_the_users_alone(config: Path, model: Path) -> None:
    trust_file(model)
    trust_file(model)
    remember(b"more", "a\nb\x1b[31m.pt2")
    path = config / "terrazzo" / "trusted-files"
    sums = [hashlib.sha256(content).hexdigest() for content in (b"content", b"more")]
    assert path.read_text() == f"{sums[0]}  model.pt2\n{sums[1]}  a\\nb\\x1b[31m.pt2\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["trusted-files", ".", "..", "foreign"])
def test_a_list_that_others_can_write_to_is_not_believed(config: Path, model: Path, place: str) -> None:
    trust_file(model)
    folder = config / "terrazzo"
    if place == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(folder / "trusted-files", 1234, 1234)
    else:
        (folder / place).chmod(0o777)
    with pytest.raises(ConfigError, match="others can write to") as caught:
        read_trusted(model)
    assert caught.value.code == "trust-list"
    with pytest.warns(TerrazzoWarning, match=r"model\.pt2 could not be put on .* trusted files: others can write to"):
        assert read_trusted(model, trust=True) == b"content"


def test_a_link_in_place_of_the_list_is_not_written_through(config: Path, model: Path, tmp_path: Path) -> None:
    (config / "terrazzo").mkdir(mode=0o700)
    (config / "terrazzo" / "trusted-files").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(TerrazzoWarning, match="could not be put on the list"):
        trust_file(model)
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_home_nothing_is_remembered(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is no home
    with pytest.raises(ConfigError, match="no home folder"):
        read_trusted(model)
    with pytest.warns(TerrazzoWarning, match="no home folder"):
        assert read_trusted(model, trust=True) == b"content"
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2"}


def test_what_is_no_file_is_refused_at_once(config: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt2")
    for path, problem in [
        (tmp_path / "pipe.pt2", "it is a pipe"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path / "none.pt2", "No such file"),
    ]:
        for trust in (False, True):
            with pytest.raises(CheckpointError, match=problem) as caught:
                read_trusted(path, trust)
            assert caught.value.code == "checkpoint-missing"
