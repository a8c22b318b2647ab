"""Training in containers and on slow disks: a run ends with an error or a checkpoint, and never stands still."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from augmenting import over
from tiny_runs import finish, start, tiny_recipe, wait_for

from terrazzo.data import loaders as loaders_module
from terrazzo.data import open_dataset
from terrazzo.data.loaders import TrainLoader, shared_bytes
from terrazzo.errors import TrainingError
from terrazzo.preprocess import Preprocess
from terrazzo.training import preflight
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.stopping import StopSignals
from terrazzo.training.train import train
from terrazzo.training.trainer import Trainer

STEPS_DONE = "steps"


def loader(data: Path, augment: Any = None, **options: Any) -> TrainLoader:
    train = open_dataset(data, "train")
    steps = over(train, [] if augment is None else [augment])
    return TrainLoader(train, steps, Preprocess(), (48, 64), 2, 0, 1, **options)


def slow(seconds: float) -> Any:
    def wait(image: Any, mask: Any, _: Any) -> Any:
        time.sleep(seconds)
        return image, mask

    return wait


# -- shared memory ----------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_into_shared_memory_is_an_error_with_the_way_out(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(_: torch.Tensor) -> None:  # the worker, a fork of this process, meets it
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(TrainingError, match="shared memory") as caught:
        list(loader(data).batches(0))
    assert caught.value.code == "training-shared-memory"
    assert "--shm-size" in caught.value.fix and "--workers 0" in caught.value.fix
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_open_files_are_named_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: torch.Tensor) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refused)
    with pytest.raises(TrainingError, match="too many files") as caught:
        list(loader(data).batches(0))
    assert caught.value.code == "training-open-files" and "ulimit -n" in caught.value.fix


def test_the_workers_are_as_many_as_shared_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(crop=(512, 512), batch_size=8)
    batch = 8 * 512 * 512 * (3 * 4 + 8)
    assert shared_bytes(2, 8, (512, 512)) == 5 * batch and shared_bytes(0, 8, (512, 512)) == 0
    cases = {0: 0, 3 * batch - 1: 0, 3 * batch: 1, 9 * batch: 4, 100 * batch: 4}
    for free, workers in cases.items():
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        count, lines = preflight.fitting_workers(4, recipe, 1, asked_for=False)
        assert count == workers and bool(lines) == (workers < 4)
        count, lines = preflight.fitting_workers(4, recipe, 1, asked_for=True)
        assert count == 4 and bool(lines) == (workers < 4)


def test_a_full_temporary_folder_is_an_error_before_the_workers_start(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaders_module, "get_temp_dir", full)
    with pytest.raises(TrainingError, match=r"temporary folder.*No space left") as caught:
        list(loader(data).batches(0))
    assert caught.value.code == "training-temporary-folder" and "--workers 0" in caught.value.fix


@pytest.mark.slow
def test_in_a_container_with_a_small_dev_shm_the_command_says_so_and_ends(data: Path, tmp_path: Path) -> None:
    """The real thing, where this process may mount a file system of its own."""
    may_mount = shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    if may_mount != 0:
        pytest.skip("may not mount a file system of its own")
    command = f"""
mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 77
exec {sys.executable} -m terrazzo train --data {data} --output {tmp_path / "run"} \
    --steps 1 --batch-size 2 --crop 64 64 --workers 1"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, env=environment)
    if done.returncode == 77:
        pytest.skip("may not mount a file system of its own")
    assert done.returncode == 2, done.stderr
    assert "error[training-shared-memory]" in done.stderr and "Traceback" not in done.stderr
    assert "/dev/shm has" in done.stderr  # the plan said so before


# -- waiting for a batch ----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders_module, "LOOK_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_slow_batch_is_waited_for_and_the_same(data: Path) -> None:
    quick, late = (list(loader(data, slow(seconds)).batches(0)) for seconds in (0, 0.25))
    assert len(quick) == len(late) == 2
    for one, other in zip(quick, late, strict=True):
        assert torch.equal(one.images, other.images) and one.indices == other.indices


@pytest.mark.usefixtures("impatient")
def test_a_batch_that_never_comes_is_an_error(data: Path) -> None:
    with pytest.raises(TrainingError, match="no batch for 0 seconds") as caught:
        list(loader(data, slow(10_000), stalled_seconds=0.3).batches(0))
    assert caught.value.code == "training-loader-stalled" and "--workers 0" in caught.value.fix


@pytest.mark.usefixtures("impatient")
def test_being_told_to_stop_ends_the_wait(data: Path) -> None:
    asked: list[int] = []

    def told_to_stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    assert list(loader(data, slow(10_000)).batches(0, told_to_stop=told_to_stop)) == [] and len(asked) == 3


def stuck_run(data: Path, output: Path) -> None:
    """Train; the loader worker's third photo never comes."""
    read = loaders_module._Samples.__getitem__

    def stuck(self: Any, place: tuple[int, int]) -> Any:
        if place[1] >= 4:
            time.sleep(10_000)
        return read(self, place)

    def noted(self: Trainer, batch: Any) -> float:
        loss = learn(self, batch)
        if self.state.step == 4:
            (output / "stuck").touch()
        return loss

    learn = Trainer.train_step
    Trainer.train_step = noted  # type: ignore[method-assign]
    loaders_module._Samples.__getitem__ = stuck  # type: ignore[method-assign]
    train(data, output, recipe=tiny_recipe(epochs=3, batch_size=1), workers=1, device="cpu")


def test_sigterm_while_a_batch_is_waited_for_saves_and_ends(data: Path, tmp_path: Path) -> None:
    (process,) = start(stuck_run, data, tmp_path)
    assert process.pid is not None
    wait_for((tmp_path / "stuck").exists)
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [143]
    state, _ = load_checkpoint(tmp_path / "checkpoints")
    assert state["step"] == 4


# -- a second signal --------------------------------------------------------------------------------------------------


def deaf(output: Path, gap: float) -> None:
    """Wait in one call that no signal ends, as a collective operation does, and be told twice to stop."""
    from terrazzo.training import stopping

    stopping.FORWARDED_SECONDS = gap
    lock = __import__("threading").Lock()
    lock.acquire()
    with StopSignals(speaks=True).noted():
        (output / "waiting").touch()
        while True:
            lock.acquire(timeout=10_000)


def test_a_second_signal_ends_a_process_that_cannot_look_up(tmp_path: Path) -> None:
    (process,) = start(deaf, tmp_path, 0.2)
    assert process.pid is not None
    wait_for((tmp_path / "waiting").exists)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.4)
    assert process.is_alive()
    tell_until_it_ends(process, signal.SIGINT)
    assert finish([process]) == [130]


def tell_until_it_ends(process: BaseProcess, number: int) -> None:
    """Signal again and again: those that are noticed soon after the first one are one with it."""
    assert process.pid is not None
    while process.is_alive():
        os.kill(process.pid, number)
        time.sleep(0.05)


def test_signals_that_come_together_are_one(tmp_path: Path) -> None:
    (process,) = start(deaf, tmp_path, 10_000.0)
    assert process.pid is not None
    wait_for((tmp_path / "waiting").exists)
    for _ in range(3):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.05)
    time.sleep(0.3)
    assert process.is_alive()
    process.kill()
    assert finish([process]) == [-signal.SIGKILL]


def test_a_second_signal_waits_for_the_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    (process,) = start(writing, tmp_path)
    assert process.pid is not None
    wait_for((tmp_path / "writing").exists)
    for _ in range(4):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.1)
        assert process.is_alive()
    (tmp_path / "enough").touch()
    tell_until_it_ends(process, signal.SIGTERM)
    assert finish([process]) == [143]
    assert (tmp_path / "written").exists()


def writing(output: Path) -> None:
    from terrazzo.training import stopping

    stopping.FORWARDED_SECONDS = 0.1
    signals = StopSignals(speaks=False)
    with signals.noted():
        with signals.writing:
            (output / "writing").touch()
            wait_for((output / "enough").exists)
            (output / "written").touch()
        time.sleep(10_000)
