"""Several ranks: the same photos, the same gradients, one writer, and an end together.

Ranks here are processes that talk over gloo. BatchNorm takes its statistics from each rank's own share on the CPU, so
where gradients are compared, it is frozen, and dropout is off.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ALONE, TINY, finish, make_data, start, tiny_recipe, tiny_trainer

from terrazzo.data.loaders import Batch
from terrazzo.errors import ConfigError, TrainingError
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.distributed import Ranks, joined_ranks
from terrazzo.training.train import train
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model

SAME = {"drop_path": 0.0, "normalize_by": "all", "class_weight_power": 0.0, "ema_decay": None}
"""A recipe without what differs between ranks: random branches, and means over a share of the labelled pixels."""


def test_one_process_shares_with_nobody() -> None:
    values = torch.ones(2)
    assert ALONE.sum(values) is values and ALONE.gather("x") == ["x"] and ALONE.is_main
    assert ALONE.any(True) and not ALONE.any(False)
    ALONE.wait()


@pytest.mark.parametrize(
    ("device", "sync", "shared"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_batchnorm_is_shared_where_it_is_asked_for_and_can_be(
    monkeypatch: pytest.MonkeyPatch, device: str, sync: bool, shared: bool
) -> None:
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model: model)
    model = Ranks(1, 2, torch.device(device)).wrap(create_model(TINY["setr_mla_nano"], 2), sync)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 16
    assert {isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms} == {shared}


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="'gpu'"), joined_ranks("gpu"):
        pass


def test_a_batch_that_cannot_be_shared_evenly_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be shared evenly by 3 processes"):
        tiny_trainer(data, tmp_path, Ranks(1, 3, torch.device("cpu")), batch_size=4)


# -- two ranks against one --------------------------------------------------------------------------------------------


def two_steps(data: Path, output: Path, ranks: Ranks) -> dict[str, Any]:
    """Resume at step 1, learn from two batches and validate; tell what there is to compare."""
    trainer = tiny_trainer(data, output, ranks, **SAME)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
            module.eval()
            module.training = False
    trainer.resume()
    told: dict[str, Any] = {"losses": [], "photos": []}
    trainer.state.restore_generators()
    for batch in trainer.loader.batches(0, start=1):
        loss = torch.tensor([trainer.train_step(batch) / ranks.world_size], dtype=torch.float64)
        told["losses"].append(ranks.sum(loss).item())
        told["photos"].append(sum(zip(*ranks.gather(batch.indices), strict=True), ()))
        if len(told["losses"]) == 1:
            told["gradients"] = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}  # type: ignore[union-attr]
    metrics = trainer.validate()
    told["metrics"] = [metrics.mIoU, metrics.aAcc, *metrics.label_pixels.tolist(), int(metrics.predicted_pixels.sum())]
    return told


def shared_steps(data: Path, output: Path, folder: Path) -> None:
    with joined_ranks("cpu") as ranks:
        told = two_steps(data, output, ranks)
        if ranks.is_main:
            torch.save(told, folder / "told.pt")
        assert ranks.any(ranks.rank == 1) and ranks.gather(ranks.rank) == [0, 1]
        ranks.wait()


def test_two_ranks_go_on_from_one_and_do_what_one_does(data: Path, tmp_path: Path) -> None:
    """The same photos in the same order, gradients and losses equal to rounding, and one sum of the shares' scores."""
    data = make_data(tmp_path / "more", train=8)
    first = tiny_trainer(data, tmp_path / "run", batch_size=2, **SAME)
    first.train_step(next(first.loader.batches(0)))
    first.save()
    processes = start(shared_steps, data, tmp_path / "run", tmp_path, ranks=2)
    alone = two_steps(data, tmp_path / "run", ALONE)
    assert finish(processes) == [0, 0]
    shared = torch.load(tmp_path / "told.pt", weights_only=True)
    order = first.loader.order(0)
    assert alone["photos"] == shared["photos"] == [tuple(order[k : k + 2]) for k in (2, 4, 6)]
    assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    for name, gradient in alone["gradients"].items():
        torch.testing.assert_close(shared["gradients"][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert shared["metrics"][2:] == alone["metrics"][2:]
    assert shared["metrics"][:2] == pytest.approx(alone["metrics"][:2], abs=1)


# -- whole runs -------------------------------------------------------------------------------------------------------


def whole_run(data: Path, output: Path, resume: bool, stop: str) -> None:
    """Train on two ranks; the second one is told to stop, or dies, in its third step."""
    learn = Trainer.train_step

    def interrupted(self: Trainer, batch: Batch) -> float:
        if self.ranks.rank == 1 and self.state.step == 2 and stop:
            os.kill(os.getpid(), {"told": signal.SIGTERM, "killed": signal.SIGKILL}[stop])
        return learn(self, batch)

    Trainer.train_step = interrupted  # type: ignore[method-assign]
    run = train(data, output, recipe=tiny_recipe(), resume=resume, workers=0, device="cpu")
    assert (run is None) == (os.environ["RANK"] == "1")
    assert (output / "predictions.png").exists()


def test_ranks_end_together(data: Path, tmp_path: Path) -> None:
    assert finish(start(whole_run, data, tmp_path, False, "", ranks=2)) == [0, 0]
    assert len(load_checkpoint(tmp_path / "checkpoints")[0]["rng"]) == 2


@pytest.mark.slow
def test_two_ranks_told_to_stop_resume_bit_for_bit(data: Path, tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert finish(start(whole_run, data, unbroken, False, "", ranks=2)) == [0, 0]
    assert finish(start(whole_run, data, broken, False, "told", ranks=2)) == [143, 143]
    assert load_checkpoint(broken / "checkpoints")[0]["step"] == 3
    assert finish(start(whole_run, data, broken, True, "", ranks=2)) == [0, 0]
    states = [load_checkpoint(folder / "checkpoints")[0] for folder in (unbroken, broken)]
    for part in ("model", "average"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    for one, other in zip(states[0]["rng"], states[1]["rng"], strict=True):
        assert torch.equal(one["torch"], other["torch"])
    assert [row["mIoU"] for row in states[0]["log"]] == [row["mIoU"] for row in states[1]["log"]]


@pytest.mark.slow
def test_where_one_rank_dies_the_others_leave(data: Path, tmp_path: Path) -> None:
    codes = finish(start(whole_run, data, tmp_path, False, "killed", ranks=2))
    assert codes[1] == -signal.SIGKILL and codes[0] not in (None, 0)
    assert load_checkpoint(tmp_path / "checkpoints")[0]["step"] == 2


def test_a_taken_folder_is_refused_by_every_rank_alike(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path)
    trainer.save()
    with pytest.raises(TrainingError, match="holds an earlier run"):
        train(data, tmp_path, recipe=tiny_recipe(), workers=0, device="cpu")


@pytest.mark.slow
def test_torchrun_starts_the_ranks_again_and_they_resume(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import tiny_runs, test_distributed\n"
        "stop = '' if int(os.environ['TORCHELASTIC_RESTART_COUNT']) else 'killed'\n"
        f"data, output = pathlib.Path({str(data)!r}), pathlib.Path({str(tmp_path / 'run')!r})\n"
        "test_distributed.whole_run(data, output, False, stop)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run([*torchrun, script], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 2 of 4" in done.stderr
    assert json.loads((tmp_path / "run/report/report.json").read_text())["images"] == 3
