"""Checkpoints survive kills, full disks and damage: the newest complete one loads."""

from __future__ import annotations

import errno
import os
import pickle
import random
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import wait_for

from terrazzo.errors import OutputError, TrainingError
from terrazzo.training import checkpoint
from terrazzo.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint


def state(number: int) -> dict[str, Any]:
    return {"step": number, "model": {"weight": torch.full((2000,), float(number))}, "log": [{"epoch": 1, "loss": 0.5}]}


def is_whole(loaded: dict[str, Any]) -> bool:
    return bool((loaded["model"]["weight"] == loaded["step"]).all())


def test_two_generations_are_kept(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    for number in (1, 2, 3):
        save_checkpoint(tmp_path / "run", state(number))
    assert has_checkpoint(tmp_path / "run")
    loaded, warnings = load_checkpoint(tmp_path / "run")
    assert loaded["step"] == 3 and is_whole(loaded) and loaded["log"] == [{"epoch": 1, "loss": 0.5}]
    assert warnings == []
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["newest.pt", "previous.pt"]
    assert torch.load(tmp_path / "run/previous.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize("answer", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_keeps_two_generations_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, "link", refused)
    for number in (1, 2, 3):
        save_checkpoint(tmp_path, state(number))
    assert load_checkpoint(tmp_path)[0]["step"] == 3
    assert torch.load(tmp_path / "previous.pt", weights_only=True)["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newest.pt", "previous.pt"]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('the code in the pickle ran')",))


@pytest.mark.parametrize(
    "damage", ["cut short", "empty", "text", "flipped", "wiped", "pickle bomb", "archived bomb", "zip bomb"]
)
def test_a_damaged_newest_checkpoint_is_passed_over_and_said(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    newest = tmp_path / "newest.pt"
    whole = newest.read_bytes()
    middle = len(whole) // 2
    torch.save(Bomb(), tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "newest.pt") as stored, zipfile.ZipFile(tmp_path / "zip.pt", "w") as packed:
        for entry in stored.namelist():
            packed.writestr(entry, stored.read(entry), zipfile.ZIP_DEFLATED)
    newest.write_bytes(
        {
            "cut short": whole[:-200],
            "empty": b"",
            "text": b"<html>not found</html>",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "wiped": whole[:10] + bytes(200) + whole[210:],
            "pickle bomb": pickle.dumps(Bomb()),
            "archived bomb": (tmp_path / "bomb.pt").read_bytes(),
            "zip bomb": (tmp_path / "zip.pt").read_bytes(),
        }[damage]
    )
    loaded, warnings = load_checkpoint(tmp_path)
    assert loaded["step"] == 1 and is_whole(loaded)
    assert len(warnings) == 1 and "newest.pt is damaged" in warnings[0] and "\n" not in warnings[0]


def test_nothing_to_load_names_each_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no checkpoint that can be read"):
        load_checkpoint(tmp_path)
    (tmp_path / "newest.pt").write_bytes(b"")
    (tmp_path / "previous.pt").write_bytes(b"x")
    with pytest.raises(TrainingError, match=r"newest\.pt is damaged.*previous\.pt is damaged") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.code == "training-no-checkpoint"


@pytest.mark.parametrize("step", ["write", "flush"])
def test_a_full_disk_leaves_the_previous_checkpoint_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    save_checkpoint(tmp_path, state(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"write": (torch, "save"), "flush": (os, "fsync")}[step], full)
    with pytest.raises(OutputError, match="the disk is full") as caught:
        save_checkpoint(tmp_path, state(2))
    assert caught.value.code == "output-disk-full" and "newest.pt" in caught.value.message
    loaded, warnings = load_checkpoint(tmp_path)
    assert loaded["step"] == 1 and is_whole(loaded) and warnings == []
    assert not list(tmp_path.glob(".terrazzo-partial-*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_the_systems_error_comes_through_the_archive_writers() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint._write(state(1), Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


def save_forever(folder: Path, latest: int) -> None:
    try:
        while True:
            latest += 1
            save_checkpoint(folder, state(latest))
    finally:
        os._exit(1)  # this is a copy of the test's process, and must not go on with the tests


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks beside threads
@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_moment_of_saving_the_newest_complete_one_loads(tmp_path: Path, kills: int) -> None:
    save_checkpoint(tmp_path, state(0))
    wait, latest = random.Random(0), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            save_forever(tmp_path, latest)
        wait_for(lambda before=latest: load_checkpoint(tmp_path)[0]["step"] > before)
        time.sleep(wait.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded, warnings = load_checkpoint(tmp_path)
        assert is_whole(loaded) and warnings == []
        assert loaded["step"] > latest
        latest = loaded["step"]
