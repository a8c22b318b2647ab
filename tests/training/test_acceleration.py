"""Activation checkpointing and compiling change no result, and a compiler that is missing or fails is told."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from flat_recipes import flat
from tiny_runs import tiny_trainer
from torch import Tensor

from terrazzo.errors import TrainingError
from terrazzo.training.acceleration import compiled
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.failures import told_of_failures
from terrazzo.training.trainer import Trainer
from terrazzo.weights.files import load_folder

CPU = torch.device("cpu")


def stop_after(trainer: Trainer, step: int) -> None:
    """Tell the run to stop in the middle of a step, counted from 1."""
    learn = trainer.train_step

    def stopped(batch: object) -> float:
        if trainer.state.step + 1 == step:
            trainer.signals.number = signal.SIGTERM  # as its handler does; real signals are test_faults.py's
        return learn(batch)  # type: ignore[arg-type]

    trainer.train_step = stopped  # type: ignore[method-assign]


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor], exactly: bool = True) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        if exactly:
            assert torch.equal(value, other[key]), key
        else:
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5, msg=key)


# -- checkpointing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["segformer_tiny", "setr_naive_nano"])
def test_checkpointing_changes_no_bit_of_a_step(data: Path, tmp_path: Path, model: str) -> None:
    """With drop path and dropout, whose numbers the second pass has to draw again, and the first must not use up."""
    trainers = [tiny_trainer(data, tmp_path, model=model, checkpointing=flag) for flag in (False, True)]
    batches = list(trainers[0].loader.batches(0))
    results = []
    for trainer in trainers:
        torch.manual_seed(5)
        losses = [trainer.train_step(batch) for batch in batches]
        results.append((losses, torch.get_rng_state(), trainer.model.state_dict()))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
    assert_same_weights(results[0][2], results[1][2])


def test_a_run_may_go_on_with_checkpointing_to_the_same_end(data: Path, tmp_path: Path) -> None:
    """The way out for a run that has run out of memory."""
    whole = tiny_trainer(data, tmp_path / "whole")
    whole.run()
    first = tiny_trainer(data, tmp_path / "broken")
    stop_after(first, 2)
    with pytest.raises(SystemExit):
        first.run()
    second = tiny_trainer(data, tmp_path / "broken", checkpointing=True)
    second.resume()
    second.run()
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("whole", "broken")]
    assert_same_weights(states[0]["model"], states[1]["model"])


def test_checkpoints_of_before_these_fields_resume(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path)
    trainer.save()
    file = tmp_path / "checkpoints/newest.pt"
    state = torch.load(file, weights_only=True)
    state["recipe"] = flat(trainer.recipe)
    del state["recipe"]["checkpointing"], state["recipe"]["compile"]
    torch.save(state, file)
    tiny_trainer(data, tmp_path).resume()
    state["recipe"]["compile"] = True
    torch.save(state, file)
    with pytest.raises(TrainingError, match=r"another run\.compile"):
        tiny_trainer(data, tmp_path).resume()


# -- compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", ["", "no-such-compiler"])
def test_without_a_compiler_the_run_does_not_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(TrainingError, match=r"compile needs a C\+\+ compiler") as caught:
        tiny_trainer(data, tmp_path, compile=True)
    assert caught.value.code == "training-no-compiler" and "without --compile" in caught.value.fix


def test_without_triton_a_gpu_has_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="compile needs Triton"):
        compiled(torch.nn.Identity(), torch.device("cuda"))


def test_a_compiler_that_fails_is_told_in_plain_words() -> None:
    def no_code(graph: object, inputs: object) -> None:
        raise ValueError("cannot make code of this")

    def step() -> None:
        torch.compile(lambda x: x + 1, backend=no_code)(torch.ones(3))  # type: ignore[arg-type]

    with (
        pytest.raises(TrainingError, match=r"could not be compiled: .*cannot make code") as caught,
        told_of_failures(1, CPU),
    ):
        step()
    assert caught.value.code == "training-compile"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler uses what PyTorch deprecates
@pytest.mark.parametrize("model", ["segformer_tiny", "setr_naive_nano"])
def test_a_compiled_run_learns_the_same_keeps_plain_names_and_resumes(data: Path, tmp_path: Path, model: str) -> None:
    """Without dropout, for which a compiler draws numbers in its own way, the result is the same to rounding.

    By plain SGD, for AdamW makes whole steps of gradients that are nothing but rounding.
    """
    from torch import nn

    still = {"model": model, "drop_path": 0.0, "lr": 0.05, "optimizer": "sgd", "epochs": 1}

    def trainer(name: str, **changes: object) -> Trainer:
        made = tiny_trainer(data, tmp_path / name, **still, **changes)
        for module in made.model.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
        return made

    plain, whole, broken = trainer("plain"), trainer("whole", compile=True), trainer("broken", compile=True)
    plain.run()
    whole.run()
    states = {name: load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("plain", "whole")}
    assert_same_weights(states["plain"]["model"], states["whole"]["model"], exactly=False)
    kept = load_folder(tmp_path / "whole/model").network.state_dict()
    assert not any("_orig_mod" in key for key in [*kept, *states["whole"]["model"]])
    stop_after(broken, 1)
    with pytest.raises(SystemExit):
        broken.run()
    again = trainer("broken", compile=True)
    again.resume()
    again.run()
    assert_same_weights(load_checkpoint(tmp_path / "broken/checkpoints")[0]["model"], states["whole"]["model"])
