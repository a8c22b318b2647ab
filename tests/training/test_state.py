"""A run's state: taken out and put back it goes on bit for bit, and what is no such state is refused by its keys."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flat_recipes import flat
from tiny_runs import ALONE, finish, make_data, start, tiny_trainer

import terrazzo
from terrazzo.errors import TrainingError
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.distributed import Ranks, joined_ranks
from terrazzo.training.rng import generator_states, set_generators
from terrazzo.training.state import KEYS
from terrazzo.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "tiles", train=8)


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a run after its first step."""
    trainer = tiny_trainer(data, tmp_path_factory.mktemp("begun"))
    list(islice(steps(trainer), 1))
    return copy.deepcopy(trainer.state.state_dict())


def steps(trainer: Trainer) -> Iterator[tuple[float, ...]]:
    """Take the steps that are left of the first epoch, as `run` does; yield each one's loss and draws."""
    trainer.state.restore_generators()
    for batch in trainer.loader.batches(0, trainer.state.position):
        loss = float(trainer.train_step(batch))
        trainer._note_steps()
        # Dropout and drop path draw from PyTorch's generator; an encoder from elsewhere may draw from these.
        yield loss, random.random(), float(np.random.random())


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


# -- there and back ---------------------------------------------------------------------------------------------------


def there_and_back(data: Path, output: Path, ranks: Ranks) -> None:
    """Take a step and the state, then three steps; put the state into a new run, and see that it takes the same three.

    It goes through a file, so that its values are those that a file can hold.
    """
    first = tiny_trainer(data, output, ranks, seed=3)
    unbroken = steps(first)
    next(unbroken)
    taken = copy.deepcopy(first.state.state_dict())
    if ranks.is_main:
        save_checkpoint(output / "state", taken)
    ranks.wait()
    later, end = list(unbroken), first.state.state_dict()
    assert len(later) == 3 and not equal(taken["model"], end["model"])

    second = tiny_trainer(data, output, ranks, seed=3)
    kept, _ = load_checkpoint(output / "state")
    assert equal(kept, taken) or not ranks.is_main
    second.state.load_state_dict(kept)
    assert (second.state.step, second.state.epoch, second.state.position) == (1, 0, 1)
    assert equal(second.state.state_dict(), kept)  # before anything has drawn a number
    assert list(steps(second)) == later
    again = second.state.state_dict()
    # On CPUs the other ranks have BatchNorm statistics of their own, which are not kept.
    assert equal(again, end) or not ranks.is_main


def test_a_state_put_back_takes_the_same_next_steps(data: Path, tmp_path: Path) -> None:
    there_and_back(data, tmp_path, ALONE)


def there_and_back_on_a_rank(data: Path, output: Path) -> None:
    with joined_ranks("cpu") as ranks:
        there_and_back(data, output, ranks)
        (output / f"rank {ranks.rank}").touch()
        ranks.wait()


def test_two_ranks_put_back_take_the_same_next_steps_with_generators_of_their_own(data: Path, tmp_path: Path) -> None:
    assert finish(start(there_and_back_on_a_rank, data, tmp_path, ranks=2)) == [0, 0]
    assert (tmp_path / "rank 0").exists() and (tmp_path / "rank 1").exists()
    first, second = load_checkpoint(tmp_path / "state")[0]["rng"]
    assert not equal(first["torch"], second["torch"]) and first["python"] != second["python"]


def test_a_rank_that_was_not_there_keeps_its_own_generators(data: Path, tmp_path: Path, begun: dict[str, Any]) -> None:
    late = tiny_trainer(data, tmp_path)
    late.state.load_state_dict({**begun, "rng": []})
    before = generator_states(CPU)
    late.state.restore_generators()
    assert equal(generator_states(CPU), before) and late.state.step == 1


def test_all_generators_of_a_process_go_back() -> None:
    states = generator_states(CPU)
    drawn = random.random(), np.random.random(), torch.rand(1).item(), random.gauss(0, 1), np.random.randn()
    set_generators(states, CPU)
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item(), random.gauss(0, 1), np.random.randn())
    later = generator_states(CPU)
    set_generators({**states, "python": None, "numpy": None}, CPU)
    assert equal(generator_states(CPU), {**later, "torch": states["torch"]})


def test_told_to_stop_before_the_first_batch_of_a_resumed_run_its_state_stays(
    data: Path, tmp_path: Path, begun: dict[str, Any]
) -> None:
    """What came before may have drawn numbers, and the run that is resumed next must not notice."""
    save_checkpoint(tmp_path / "checkpoints", begun)
    trainer = tiny_trainer(data, tmp_path)
    trainer.resume()
    torch.rand(3)
    trainer.save()
    assert equal(load_checkpoint(tmp_path / "checkpoints")[0], begun)


def test_a_state_of_version_0_1_0_is_read(data: Path, tmp_path: Path, begun: dict[str, Any]) -> None:
    """It had a flat recipe, no format, PyTorch's generators alone; the first ones lacked what is left out here."""
    left_out = ("format", "rng", "labels", "total_steps", "origin", "losses")
    old = {key: value for key, value in begun.items() if key not in left_out}
    trainer = tiny_trainer(data, tmp_path)
    generators = torch.stack([begun["rng"][0]["torch"]] * 2)
    old |= {"recipe": flat(trainer.recipe), "torch_rng": generators, "cuda_rng": None}
    trainer.state.load_state_dict(old)
    now = trainer.state.state_dict()
    assert all(equal(now[key], begun[key]) for key in begun.keys() - {"rng", "losses"}) and now["losses"] == []
    trainer.state.restore_generators()
    assert torch.equal(torch.get_rng_state(), begun["rng"][0]["torch"])


# -- what is no state -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusing(data: Path) -> Callable[[dict[str, Any]], TrainingError]:
    trainer = tiny_trainer(data, data.parent / "refused")

    def refused(state: dict[str, Any]) -> TrainingError:
        with pytest.raises(TrainingError) as caught:
            trainer.state.load_state_dict(state)
            trainer.state.restore_generators()
        return caught.value

    return refused


Refusing = Callable[[dict[str, Any]], TrainingError]


def test_a_missing_or_unknown_key_is_named(refusing: Refusing, begun: dict[str, Any]) -> None:
    for key in KEYS:
        error = refusing({name: value for name, value in begun.items() if name != key})
        assert error.code == "training-checkpoint" and error.message.endswith(f"/refused lacks {key}")
    error = refusing({**begun, "schedule\x1b[2J": 1})
    assert error.code == "training-checkpoint"
    assert error.message.endswith("/refused has unknown keys 'schedule\\x1b[2J'")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 3, "has format 3, and this version reads 2"),
        ("step", "4", "step is '4'"),
        ("model", None, "model is None"),
        ("model", {}, "does not fit the network: .*Missing key"),
        ("optimizer", {"state": {}, "param_groups": []}, "does not fit the network: .*parameter group"),
        ("optimizer", {}, "does not fit the network: 'param_groups'"),
        ("average", None, "does not fit the network"),
        ("rng", [{}], "no states of random generators: 'python'"),
        ("rng", [1], "no states of generators"),
        ("log", [{"epoch": 1}], "a row without a step"),
        ("recipe", {"model": 1}, "lacks"),
        ("labels", {"names": 1}, "names"),
    ],
)
def test_a_value_that_does_not_fit_is_named(
    refusing: Refusing, begun: dict[str, Any], key: str, value: Any, message: str
) -> None:
    error = refusing({**begun, key: value})
    assert error.code == "training-checkpoint" and re.search(message, error.message), error.message


def test_only_the_state_names_the_keys_of_a_checkpoint() -> None:
    """Elsewhere a state is passed on whole: no key that nothing else has, and nothing taken out of what was loaded."""
    package = Path(terrazzo.__file__).parent
    shared = {"format", "recipe", "labels", "origin", "step", "seconds", "model", "average", "optimizer", "log"}
    own, loading = set(KEYS) - shared, []
    for path in package.rglob("*.py"):
        text = path.read_text()
        if path == package / "training" / "state.py":
            assert own <= set(re.findall(r'"(\w+)"', text))
            continue
        assert not own & set(re.findall(r'"(\w+)"', text)), path
        for name in re.findall(r"(\w+), \w+ = load_checkpoint\(", text):
            assert f"load_state_dict({name})" in text and not re.search(rf"\b{name}(\[|\.)", text), path
            loading.append(path.name)
    assert loading == ["loop.py"]
