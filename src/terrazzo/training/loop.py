"""The training loop: epochs of steps, what a failing step leaves behind, checkpoints, and ends before the end.

What is learnt in a step, and what an epoch ends with, its subclasses say: `Trainer` for segmentation, `Pretrainer` for
an encoder alone.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.errors import TrainingError
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.failures import (
    put_back,
    refuse_divergence,
    saved_on_failure,
    told_of_failures,
    undone_on_failure,
)
from terrazzo.training.log import RunLog
from terrazzo.training.optim import follow_schedule, set_learning_rate
from terrazzo.training.run_folder import CHECKPOINT_FOLDER
from terrazzo.training.sections import OptimizerSection
from terrazzo.training.sharding import whole
from terrazzo.training.state import TrainState
from terrazzo.training.stopping import StopSignals

__all__ = ["Loop"]


PHOTOS = {
    "train_photos": "photos, and the data set has",
    "unlabelled_photos": "photos without masks, and the folder has",
}
"""What a run's record counts: a run that is resumed has to go on with the same."""


class Loop(ABC):
    """A run of steps that goes on bit for bit after a break.

    Attributes:
        output: the run's folder.
        ranks: this process among those of the run.
        loader: gives the batches.
        schedule: of the learning rate.
        total_steps: of the whole run.
        epochs: likewise.
        model: what is trained.
        average: its moving average, if there is one.
        optimizer: of the model's parameters.
        frozen: parts of the model that stay in evaluation mode.
        log: what the run says.
        state: everything that a checkpoint holds.
        signals: whether the run was told to stop.
        factor: on the learning rate at a step, in place of the schedule's; None for the schedule.
    """

    output: Path
    ranks: Ranks
    loader: TrainLoader
    schedule: OptimizerSection
    total_steps: int
    model: nn.Module
    wrapped: nn.Module
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    frozen: tuple[nn.Module, ...] = ()
    log: RunLog
    state: TrainState
    signals: StopSignals
    factor: Callable[[int], float] | None = None
    _saved_step = 0

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Images in a step, over all ranks."""

    @abstractmethod
    def _gradients(self, batch: Batch) -> Tensor:
        """Add a batch's gradients to those that are there, and return its loss."""

    @abstractmethod
    def _end_epoch(self, epoch: int, started: float, before: float) -> None:
        """Validate, log and keep what an epoch has learnt.

        Args:
            epoch: its number, from 0.
            started: when it began, on the monotonic clock.
            before: the run's seconds until then.
        """

    @abstractmethod
    def _begin(self) -> None:
        """Do what comes before the first step, once the generators are those of the checkpoint."""

    def _may_end(self) -> bool:
        """Tell whether there is nothing more to learn."""
        return False

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, to the early stop, or to a signal.

        Raises:
            TerrazzoError: a pair cannot be read, the loader workers fail, memory runs out, or the run diverges (too
                many steps in a row without a finite gradient, or logits that are not finite). Where there is one
                process, what was learnt until then is saved first.
            SystemExit: 128 + the signal's number, after a checkpoint, when the process was told to stop.
        """
        state, log = self.state, self.log
        progress = log.progress(self.total_steps, state.step)
        saved = saved_on_failure(self._save_the_last_step)
        with self.signals.noted(), progress, saved, closing(self.batches()) as batches:
            state.restore_generators()
            self._begin()
            for epoch in range(state.epoch, self.epochs):
                if self._may_end():
                    break
                log.begin_epoch()
                started, before = time.monotonic(), state.seconds
                for batch in islice(batches, self.loader.batches_per_epoch - state.position):
                    loss = self.train_step(batch)
                    state.seconds = before + time.monotonic() - started
                    if self._note_step(loss):
                        self._save_and_stop()
                if self._stops_alone():  # which ends the wait for a batch too
                    self._save_and_stop()
                self._end_epoch(epoch, started, before)
                self.save()
                if self.ranks.any(self.signals.number > 0):
                    self._stop()

    def train_step(self, batch: Batch) -> float:
        """Learn from one batch and return its loss; a batch without finite gradients changes nothing."""
        state, schedule, device = self.state, self.schedule, self.ranks.device
        if self.factor is None:
            follow_schedule(self.optimizer, schedule, state.step, self.total_steps)
        else:
            set_learning_rate(self.optimizer, self.factor(state.step), 0.0)
        self.wrapped.train()
        for module in self.frozen:
            module.eval()
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad()  # before the forward pass, which needs the memory
        with undone_on_failure(self.model, statistics, device), told_of_failures(state.step + 1, device):
            loss = self._gradients(batch)
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if schedule.clip_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), schedule.clip_norm, norm)
        state.step += 1
        # Gradients are averaged over ranks, so every rank sees the same norm and decides alike.
        if torch.isfinite(whole(norm)):
            state.bad_steps = 0
            state.is_whole = False
            with told_of_failures(state.step, device):  # its first step takes memory for every parameter
                self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
            state.is_whole = True
        else:
            put_back(self.model, statistics)
            self._note_bad_step(batch)
        return float(loss)

    def batches(self, count: int | None = None) -> Generator[Batch, None, None]:
        """Yield so many of the batches that are left of the run, by default all."""
        state = self.state
        left = self.total_steps - state.step if count is None else count
        return self.loader.batches(state.epoch, state.position, left, self._stops_alone)

    def _note_step(self, loss: float) -> bool:
        """Log a step with the mean loss of the ranks, and tell whether any of them was told to stop."""
        ranks = self.ranks
        shared = ranks.sum(torch.tensor([loss / ranks.world_size, float(self.signals.number > 0)], dtype=torch.float64))
        mean_loss, told_to_stop = shared.tolist()
        self.log.step(self.state.step, mean_loss, self._lr(), self.batch_size)
        return bool(told_to_stop)

    def _note_bad_step(self, batch: Batch) -> None:
        self.state.bad_steps += 1
        mine = [self.loader.dataset.samples[index].image.name for index in batch.indices]
        names = ", ".join(name for share in self.ranks.gather(mine) for name in share)
        self.log.say(f"step {self.state.step}: loss or gradient is not finite, no step taken; photos: {names}")
        refuse_divergence(self.state.bad_steps, names)

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    # -- keeping ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint from which the run goes on bit for bit; all ranks take part."""
        values = self.state.state_dict()
        if self.ranks.is_main:
            with self.signals.writing:
                save_checkpoint(self.output / CHECKPOINT_FOLDER, values)
        self._saved_step = self.state.step

    def resume(self) -> None:
        """Go back to the newest checkpoint of the output folder.

        Raises:
            TrainingError: there is none that loads, or it belongs to another recipe.
        """
        saved, warnings = load_checkpoint(self.output / CHECKPOINT_FOLDER)
        for warning in warnings:
            self.log.say(warning)
        now = dict(self.state.origin)
        planned = self.state.load_state_dict(saved)
        for key, what in PHOTOS.items():
            if key in now and (before := self.state.origin.get(key, now[key])) != now[key]:
                # Earlier versions did not note it.
                raise TrainingError(
                    f"{self.output} has learnt from {before} {what} {now[key]} now",
                    fix="resume with the photos it was started with, or start a new run from its model with --weights "
                    f"{self.output}",
                    code="training-resume",
                )
        state, self._saved_step = self.state, self.state.step
        self.log.say(f"resumed at step {state.step} of {self.total_steps}")
        if planned is not None and planned < self.total_steps:
            self.log.say(
                f"it was planned for {planned} steps; from here on the learning rate follows the longer plan, and may "
                "rise"
            )
            state.origin["planned_steps"] = [*state.origin.get("planned_steps", ()), planned]
            state.stale_validations = 0
            # A plan in steps may have cut its last pass short; the passes that are added are whole again.
            left = self.total_steps - state.step + state.position
            self.epochs = state.epoch + -(-left // self.loader.batches_per_epoch)

    # -- ends before the end ------------------------------------------------------------------------------------------

    def _stops_alone(self) -> bool:
        """Whether this process was told to stop, and has no other ranks to agree on it with."""
        return self.signals.number > 0 and self.ranks.world_size == 1

    def _save_and_stop(self) -> NoReturn:
        self.save()
        self._stop()

    def _stop(self) -> NoReturn:
        self.log.say(f"stopped at step {self.state.step} of {self.total_steps}; --resume goes on from there")
        raise SystemExit(128 + (self.signals.number or signal.SIGTERM))

    def _save_the_last_step(self) -> None:
        """Save the last finished step, when an error ends the run.

        Several ranks save together, and only one of them has failed: they go back to the last epoch.
        """
        if self.ranks.world_size == 1 and self.state.is_whole and self.state.step > self._saved_step:
            self.save()
            self.log.say(f"saved step {self.state.step} of {self.total_steps}; --resume goes on from there")
