"""Whole runs that are told to stop, or are killed, from outside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import finish, start, tiny_recipe, wait_for

from terrazzo.training import trainer as trainer_module
from terrazzo.training.checkpoint import has_checkpoint, load_checkpoint
from terrazzo.training.train import train

LONG = {"epochs": 1000, "validate_every": 1000}


def long_run(data: Path, output: Path, workers: int) -> None:
    """Train until told to stop, and note each step on the disk."""
    learn = trainer_module.Trainer.train_step

    def noted(self: trainer_module.Trainer, batch: object) -> float:
        loss = learn(self, batch)  # type: ignore[arg-type]
        (output / "steps.new").write_text(str(self.state.step))
        (output / "steps.new").replace(output / "steps")
        return loss

    trainer_module.Trainer.train_step = noted  # type: ignore[method-assign, assignment]
    train(data, output, recipe=tiny_recipe(**LONG), workers=workers, device="cpu")


def steps_done(output: Path) -> int:
    text = (output / "steps").read_text() if (output / "steps").exists() else ""
    return int(text or 0)


@pytest.mark.parametrize(
    ("to_group", "workers"),
    [
        (True, 2),
        pytest.param(True, 0, marks=pytest.mark.slow),
        pytest.param(False, 0, marks=pytest.mark.slow),
        pytest.param(False, 2, marks=pytest.mark.slow),
    ],
)
def test_sigterm_ends_with_a_checkpoint_within_a_step_and_status_143(
    data: Path, tmp_path: Path, to_group: bool, workers: int
) -> None:
    (process,) = start(long_run, data, tmp_path, workers)
    assert process.pid is not None
    wait_for(lambda: steps_done(tmp_path) >= 1)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGTERM)
    steps = steps_done(tmp_path)
    assert finish([process]) == [143]
    state, warnings = load_checkpoint(tmp_path / "checkpoints")
    assert warnings == [] and state["step"] == steps_done(tmp_path)
    # The step under way when the signal came, and those that were done before it was seen.
    assert steps <= state["step"] <= steps + 3


@pytest.mark.slow
def test_a_killed_run_leaves_its_lock_and_resumes(data: Path, tmp_path: Path) -> None:
    """Its loader processes may live on for seconds; they must not keep the folder."""
    (process,) = start(long_run, data, tmp_path, 1)
    assert process.pid is not None
    wait_for(lambda: has_checkpoint(tmp_path / "checkpoints"))
    os.kill(process.pid, signal.SIGKILL)
    assert finish([process]) == [-signal.SIGKILL]
    done = load_checkpoint(tmp_path / "checkpoints")[0]["step"]
    (process,) = start(resumed_run, data, tmp_path)
    wait_for(lambda: load_checkpoint(tmp_path / "checkpoints")[0]["step"] > done)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [143]


def resumed_run(data: Path, output: Path) -> None:
    train(data, output, resume=True, workers=0, device="cpu")


@pytest.mark.slow
def test_killed_at_any_moment_a_run_resumes_to_the_same_end(data: Path, tmp_path: Path) -> None:
    """Kill a run over and over, whatever it is doing, until it has come to its end; compare with an unbroken one."""
    recipe = tiny_recipe(epochs=6)
    unbroken = train(data, tmp_path / "unbroken", recipe=recipe, workers=0, device="cpu")
    assert unbroken is not None
    (process,) = start(killed_run, data, tmp_path / "broken")
    assert finish([process]) == [-signal.SIGKILL]
    wait, kills = torch.Generator().manual_seed(0), 0
    while True:
        (process,) = start(short_run, data, tmp_path / "broken")
        process.join(0.5 + 3 * torch.rand(1, generator=wait).item() + 0.2 * kills)
        if process.exitcode is not None:
            assert finish([process]) == [0]
            break
        process.kill()
        finish([process])
        kills += 1
    files = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert files[0] == files[1]


def killed_run(data: Path, output: Path) -> None:
    learn = trainer_module.Trainer.train_step

    def deadly(self: trainer_module.Trainer, batch: object) -> float:
        if self.state.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(self, batch)  # type: ignore[arg-type]

    trainer_module.Trainer.train_step = deadly  # type: ignore[method-assign, assignment]
    short_run(data, output)


def short_run(data: Path, output: Path) -> None:
    resume = has_checkpoint(output / "checkpoints")
    recipe = None if resume else tiny_recipe(epochs=6)
    train(data, output, recipe=recipe, resume=resume, workers=0, device="cpu")


def test_a_signal_before_the_first_step_ends_at_once(data: Path, tmp_path: Path) -> None:
    (process,) = start(slow_to_begin, data, tmp_path)
    assert process.pid is not None
    wait_for((tmp_path / "begun").exists)
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [-signal.SIGTERM]
    assert not has_checkpoint(tmp_path / "checkpoints")


def slow_to_begin(data: Path, output: Path) -> None:
    (output / "begun").touch()
    time.sleep(10_000)
    train(data, output, recipe=tiny_recipe(), workers=0, device="cpu")
