"""Ranks that share a network out (FSDP2) learn what one process learns, and any number of ranks goes on from any other.

BatchNorm and dropout would differ between ranks on the CPU; the one is frozen, the other off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ALONE, finish, make_data, start, tiny_trainer

from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.distributed import Ranks, joined_ranks
from terrazzo.training.sharding import is_sharded
from terrazzo.training.trainer import Trainer

SAME: dict[str, Any] = {
    "drop_path": 0.0,
    "normalize_by": "all",
    "class_weight_power": 0.0,
    "ema_decay": 0.5,
    "epochs": 3,
    "run.fsdp": True,
}
SGD: dict[str, Any] = {"optimizer.name": "sgd", "lr": 0.02}
"""Whose steps follow gradients in proportion: AdamW takes full steps along gradients that are rounding alone."""


def still(trainer: Trainer) -> None:
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
            module.eval()
            module.training = False


def some_steps(data: Path, output: Path, ranks: Ranks, count: int, resume: bool) -> tuple[list[float], float]:
    """Learn from so many batches, save, and return their losses and the mIoU."""
    trainer = tiny_trainer(data, output, ranks, **SAME, **SGD)
    assert is_sharded(trainer.model) == (ranks.world_size > 1)
    still(trainer)
    if resume:
        trainer.resume()
    losses = []
    for batch in trainer.batches(count):
        shared = ranks.gather(float(trainer.train_step(batch)))
        losses.append(sum(shared) / len(shared))
    mIoU = trainer.validate().mIoU
    trainer.save()
    return losses, mIoU


def put_back(data: Path, output: Path, ranks: Ranks) -> None:
    """Take a step of AdamW, and see that the state of it is the same after it went into another trainer."""
    first, second = (tiny_trainer(data, output, ranks, **SAME) for _ in range(2))
    first.train_step(next(first.batches(1)))
    state = first.state.state_dict()
    second.state.load_state_dict(state)
    again = second.state.state_dict()
    for part in ("model", "average"):
        assert all(torch.equal(again[part][name], value) for name, value in state[part].items())
    moments = [[one["exp_avg_sq"] for one in part["optimizer"]["state"].values()] for part in (state, again)]
    assert all(map(torch.equal, *moments)) and sum(float(moment.sum()) for moment in moments[0]) > 0
    assert [moment.shape for moment in moments[0]] == [
        p.shape for g in first.optimizer.param_groups for p in g["params"]
    ]


def shared_steps(data: Path, output: Path, told: Path, count: int, resume: bool) -> None:
    with joined_ranks("cpu") as ranks:
        if not resume:
            put_back(data, output, ranks)
        result = some_steps(data, output, ranks, count, resume)
        if ranks.is_main:
            torch.save(result, told)


@pytest.mark.slow
def test_two_ranks_then_one_then_two_learn_what_one_does(tmp_path: Path) -> None:
    data = make_data(tmp_path / "more", train=4)
    told = tmp_path / "told.pt"
    first = start(shared_steps, data, tmp_path / "mixed", told, 2, False, ranks=2)
    losses, mIoU = some_steps(data, tmp_path / "alone", ALONE, 6, False)
    assert finish(first) == [0, 0]
    mixed, _ = torch.load(told)
    part, _ = some_steps(data, tmp_path / "mixed", ALONE, 2, True)
    mixed += part
    assert finish(start(shared_steps, data, tmp_path / "mixed", told, 2, True, ranks=2)) == [0, 0]
    part, mixed_mIoU = torch.load(told)
    mixed += part
    assert len(mixed) == 6 and mixed == pytest.approx(losses, rel=1e-4)
    assert mixed_mIoU == pytest.approx(mIoU, abs=1)
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("mixed", "alone")]
    for part in ("model", "average"):
        for name, value in states[1][part].items():
            torch.testing.assert_close(states[0][part][name], value, rtol=1e-3, atol=1e-5, msg=f"{part} {name}")
