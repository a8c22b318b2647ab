"""TrainState: everything that a checkpoint holds, so that a run goes on from it bit for bit.

This is the one file that knows the keys of a checkpoint; `terrazzo.training.checkpoint` writes them to the disk and
reads them back. `state_dict` and `load_state_dict` are those of torch.distributed.checkpoint's Stateful: all ranks call
them together. Where the ranks share a model out among them, it is here that its parts are gathered.

The order of the images and their augmentation follow from the recipe's seed and from `epoch` and `position`, the
learning rate from `step`, so nothing else of the loaders and the schedule is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch
from torch import nn

from terrazzo.errors import TerrazzoError, TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import list_names, said_by, show
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.log import RunLog
from terrazzo.training.plan import Plan, refuse_other_plan
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.recipe import Recipe
from terrazzo.training.rng import generator_states, set_generators
from terrazzo.training.sharding import spread, spread_optimizer, whole_tree

__all__ = ["TrainState"]

FORMAT = 2

KEYS: Mapping[str, tuple[type, ...]] = {
    "format": (int,),
    "recipe": (dict,),
    "labels": (dict, NoneType),
    "total_steps": (int, NoneType),
    "origin": (dict, NoneType),
    "step": (int,),
    "seconds": (int, float),
    "best_mIoU": (int, float),
    "stale_validations": (int,),
    "bad_steps": (int,),
    "model": (dict,),
    "average": (dict, NoneType),
    "average_updates": (int,),
    "optimizer": (dict,),
    "rng": (list,),
    "log": (list,),
    "losses": (list,),
}
"""What a checkpoint holds; None stands for what earlier versions did not note, or what the recipe leaves out."""


class TrainState:
    """The state of one run, on one rank.

    Args:
        plan: what the run is started with; the checkpoints of another plan are refused.
        model: what is trained.
        average: its moving average, if the recipe has one.
        optimizer: the optimiser of its parameters.
        log: holds a row for each finished epoch and the losses of the unfinished one.
        ranks: this process among those of the run.
        origin: licence and origin of what the run started from.

    Attributes:
        step: steps done.
        seconds: time that they took, with the validations.
        best_mIoU: of the best validation; -1 before the first.
        stale_validations: validations since the best one.
        bad_steps: steps without a finite gradient since the last one that had one.
        is_whole: model, average and optimiser are those of one step; a state that is not must not be saved.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        average: WeightAverage | None,
        optimizer: torch.optim.Optimizer,
        log: RunLog,
        ranks: Ranks,
        origin: Mapping[str, Any],
    ) -> None:
        self.plan, self.ranks, self.log = plan, ranks, log
        self.model, self.average, self.optimizer = model, average, optimizer
        self.origin = dict(origin)
        self.step = 0
        self.seconds = 0.0
        self.best_mIoU = -1.0
        self.stale_validations = 0
        self.bad_steps = 0
        self.is_whole = True
        self._loaded_generators: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """Finished epochs, with their validations."""
        return len(self.log.rows)

    @property
    def position(self) -> int:
        """Batches of the unfinished epoch that were learnt from: where its loader goes on."""
        return self.step - (self.log.rows[-1]["step"] if self.log.rows else 0)

    def is_best_yet(self, mIoU: float) -> bool:
        """Note a validation, and tell whether it was better than all before it."""
        is_best = mIoU > self.best_mIoU
        self.best_mIoU = mIoU if is_best else self.best_mIoU
        self.stale_validations = 0 if is_best else self.stale_validations + 1
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values, all generators of all ranks included."""
        device, average = self.ranks.device, self.average
        mine = generator_states(device) if self._loaded_generators is None else self._loaded_generators
        return {
            "format": FORMAT,
            "recipe": self.plan.recipe.to_dict(),
            "labels": None if self.plan.labels is None else self.plan.labels.to_dict(),
            "total_steps": self.plan.total_steps,
            "origin": dict(self.origin),
            "step": self.step,
            "seconds": self.seconds,
            "best_mIoU": self.best_mIoU,
            "stale_validations": self.stale_validations,
            "bad_steps": self.bad_steps,
            "model": whole_tree(self.model.state_dict()),
            "average": None if average is None else whole_tree(average.module.state_dict()),
            "average_updates": 0 if average is None else average.updates,
            "optimizer": whole_tree(self.optimizer.state_dict()),
            "rng": self.ranks.gather(mine),
            "log": list(self.log.rows),
            "losses": list(self.log.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int | None:
        """Go back to a state; of the generators, see `restore_generators`.

        Returns:
            The number of steps that its run was planned for, as far as that is known.

        Raises:
            TrainingError: it is of another plan (code "training-resume"), or not a state of this run's network and
                optimiser ("training-checkpoint").
        """
        where = f"the checkpoint in {self.log.output}"
        state = _checked(_of_this_format(state, self.ranks.device), where)
        before = _plan(state, where, type(self.plan.recipe))
        refuse_other_plan(before, self.plan, self.log.output)
        try:
            self.model.load_state_dict(spread(self.model, state["model"]))
            if self.average is not None:
                self.average.module.load_state_dict(spread(self.average.module, state["average"]))
                self.average.updates = state["average_updates"]
            self.optimizer.load_state_dict(spread_optimizer(self.optimizer, state["optimizer"]))
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_ours(f"{where} does not fit the network: {said_by(error, 200)}") from error
        if self.ranks.rank < len(state["rng"]):  # a rank that was not there before keeps its fresh generators
            self._loaded_generators = state["rng"][self.ranks.rank]
        if state["origin"] is not None:
            self.origin = dict(state["origin"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_mIoU, self.stale_validations = state["best_mIoU"], state["stale_validations"]
        self.bad_steps = state["bad_steps"]
        self.log.restore(state["log"], state["losses"])
        return before.total_steps

    def restore_generators(self) -> None:
        """Set this rank's generators as they were in the state that was loaded last; once.

        This is not part of `load_state_dict`, because what runs between it and the next step draws numbers too.
        """
        if self._loaded_generators is None:
            return
        try:
            set_generators(self._loaded_generators, self.ranks.device)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            where = f"the checkpoint in {self.log.output}"
            raise _not_ours(f"{where} has no states of random generators: {said_by(error, 200)}") from error
        self._loaded_generators = None


def _of_this_format(state: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    """Return a state of version 0.1.0 in the form of this one.

    It had the generators of PyTorch alone, those of all ranks in one tensor; the first ones lacked some values.
    """
    if "format" in state or "torch_rng" not in state:
        return state
    kept = {key: value for key, value in state.items() if key not in ("torch_rng", "cuda_rng")}
    cpu = state["torch_rng"].view(-1, torch.get_rng_state().numel())
    gpu = state["cuda_rng"]
    rng = [
        # Clones, because PyTorch reads the wrong bytes of a view.
        {"python": None, "numpy": None, "torch": row.clone(), "cuda": None if gpu is None else gpu[rank].clone()}
        for rank, row in enumerate(cpu)
    ]
    return {"labels": None, "total_steps": None, "origin": None, "losses": [], **kept, "format": FORMAT, "rng": rng}


def _checked(state: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """See that a state has all keys and no others, and values of their types."""
    if state.get("format", FORMAT) != FORMAT:
        raise TrainingError(
            f"{where} has format {show(state['format'])}, and this version reads {FORMAT}",
            fix="resume with the version of terrazzo that wrote it",
            code="training-checkpoint",
        )
    if missing := [key for key in KEYS if key not in state]:
        raise _not_ours(f"{where} lacks {', '.join(missing)}")
    if unknown := [key for key in state if key not in KEYS]:
        raise _not_ours(f"{where} has unknown keys {list_names(map(str, unknown))}")
    if wrong := [key for key, types in KEYS.items() if not isinstance(state[key], types)]:
        raise _not_ours(f"{where}: {wrong[0]} is {show(state[wrong[0]])}")
    rows = [row for row in state["log"] if not isinstance(row, dict) or not isinstance(row.get("step"), int)]
    if rows or not all(isinstance(generators, dict) for generators in state["rng"]):
        raise _not_ours(f"{where} has {'a row without a step in its log' if rows else 'no states of generators'}")
    return state


def _plan(state: Mapping[str, Any], where: str, kind: type[Recipe] | type[PretrainRecipe]) -> Plan:
    """Return what the run of a state was started with."""
    try:
        recipe = kind.from_dict(state["recipe"], f"the recipe in {where}")
        labels = None if state["labels"] is None else LabelSpec.from_dict(state["labels"])
    except TerrazzoError as error:
        raise _not_ours(f"{where}: {error.message}") from error
    return Plan(recipe, labels, state["total_steps"])


def _not_ours(message: str) -> TrainingError:
    return TrainingError(message, fix="train into a new folder", code="training-checkpoint")
