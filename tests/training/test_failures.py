"""A step that runs out of memory says so, and leaves what was saved."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from tiny_runs import finish, start, tiny_trainer
from torch import Tensor

from terrazzo.errors import TrainingError
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.failures import ran_out_of_memory, told_of_failures

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_told_with_the_way_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trainer = tiny_trainer(data, tmp_path)

    def greedy(*_: object) -> Tensor:
        raise error

    monkeypatch.setattr(trainer, "loss", greedy)
    with pytest.raises(TrainingError, match="this machine ran out of memory in step 1") as caught:
        trainer.run()
    assert caught.value.code == "training-memory" and "--checkpointing" in caught.value.fix


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), told_of_failures(1, CPU):
        raise RuntimeError("shapes do not match")
    assert not ran_out_of_memory(ValueError("can't allocate memory"))


def test_a_real_lack_of_memory_ends_in_one_error_and_leaves_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    """In a process that may have little more memory than it has, a step on windows of 1024 x 1024."""
    (process,) = start(starved, data, tmp_path)
    assert finish([process]) == [0]
    said = (tmp_path / "said").read_text()
    assert said == "training-memory: this machine ran out of memory in step 1"
    assert load_checkpoint(tmp_path / "run/checkpoints")[0]["step"] == 0


def starved(data: Path, output: Path) -> None:
    trainer = tiny_trainer(data, output / "run", crop=(1024, 1024), batch_size=5)
    trainer.save()
    batch = next(trainer.loader.batches(0))
    (address_space,) = [
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line
    ]
    resource.setrlimit(resource.RLIMIT_AS, (address_space * 1024 + 200_000_000,) * 2)
    try:
        trainer.train_step(batch)
    except TrainingError as error:
        (output / "said").write_text(f"{error.code}: {error.message}")
