"""The training loop."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from terrazzo.data import Dataset
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.errors import ConfigError, TrainingError
from terrazzo.evaluation.confusion import Metrics
from terrazzo.models import Segmenter
from terrazzo.training.acceleration import compiled, uses_bf16
from terrazzo.training.augment import Augmentation
from terrazzo.training.bands import filled_pair, steps_for_bands
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.failures import (
    put_back,
    refuse_divergence,
    saved_on_failure,
    told_of_divergence,
    told_of_failures,
    undone_on_failure,
)
from terrazzo.training.log import RunLog
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.optim import create_optimizer, follow_schedule
from terrazzo.training.plan import Plan
from terrazzo.training.recipe import Recipe
from terrazzo.training.record import training_record
from terrazzo.training.rng import seed_everything
from terrazzo.training.run_folder import CHECKPOINT_FOLDER, MODEL_FOLDER
from terrazzo.training.start import start_network
from terrazzo.training.state import TrainState
from terrazzo.training.stopping import StopSignals
from terrazzo.training.validation import validate
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import StartingWeights

__all__ = ["Trainer"]


class Trainer:
    """One run, from its first step or from its newest checkpoint to its best model.

    Args:
        recipe: what to learn and how.
        train: photos to learn from.
        val: photos that choose the best epoch.
        pixels_NK: of each class in each training mask; see `labelled_pixels`.
        output: the run's folder.
        ranks: this process among those of the run.
        workers: loader processes.
        initial: weights to start from.
        reset_head: start with a random classifier where theirs is for other classes.

    Attributes:
        state: everything that a checkpoint holds.
        model: what is trained; `wrapped` is the same for several ranks, or compiled.

    Raises:
        CheckpointError: `initial` is another architecture's, or for other classes.
        ConfigError: the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Dataset,
        val: Dataset,
        pixels_NK: NDArray[np.integer],
        output: Path,
        ranks: Ranks,
        workers: int,
        initial: StartingWeights | None = None,
        reset_head: bool = False,
    ) -> None:
        self.recipe, self.val, self.output, self.ranks = recipe, val, output, ranks
        self.labels, device = train.labels, ranks.device
        preprocess, steps, read, left_out = recipe.data.preprocess, recipe.augment, train.read, list[str]()
        if preprocess.bands is not None:
            steps, left_out = steps_for_bands(steps)
            read = partial(filled_pair, train, preprocess)
        augment = Augmentation(steps, read, pixels_NK, self.labels.ignore_index)
        self.loader = TrainLoader(
            train, augment, preprocess, recipe.crop, recipe.run.batch_size, recipe.run.seed, workers,
            ranks.rank, ranks.world_size,
        )  # fmt: skip
        if recipe.run.batch_size % (ranks.world_size * recipe.run.accumulate):
            raise ConfigError(
                f"a batch of {recipe.run.batch_size} photos cannot be computed in {recipe.run.accumulate} equal parts"
                f"{f' on each of {ranks.world_size} processes' if ranks.world_size > 1 else ''}",
                fix="give an --accumulate that divides the --batch-size",
                code="config-batch-size",
            )
        per_epoch = self.loader.batches_per_epoch
        self.total_steps = recipe.run.steps if recipe.run.steps is not None else (recipe.run.epochs or 0) * per_epoch
        self.epochs = -(-self.total_steps // per_epoch)

        seed_everything(recipe.run.seed + ranks.rank)
        self.model, self.start = start_network(recipe, self.labels, device, initial, reset_head)
        self.wrapped = ranks.wrap(self.model, recipe.run.sync_batchnorm)
        if recipe.run.compile:
            self.wrapped = compiled(self.wrapped, device)
        self.average: WeightAverage | None = None
        if recipe.run.ema_decay is not None:
            self.average = WeightAverage(self.model.without_auxiliary(), recipe.run.ema_decay)
        self.optimizer = create_optimizer(self.model, recipe.optimizer)
        pixels_K = torch.from_numpy(pixels_NK.sum(axis=0, dtype=np.int64))
        self.loss = CombinedLoss(recipe.loss, pixels_K, self.labels.ignore_index, device, self.labels.names)
        self.bf16 = uses_bf16(recipe.run.precision, device)

        self.log = RunLog(output, ranks.is_main)
        for text in (*left_out, *self.start.notes):
            self.log.say(text)
        plan = Plan(recipe, self.labels, self.total_steps)
        origin = {**self.start.origin, "train_photos": len(train)}
        self.state = TrainState(plan, self.model, self.average, self.optimizer, self.log, ranks, origin)
        self._saved_step = 0
        self.signals = StopSignals(ranks.is_main)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, to the early stop, or to a signal.

        Raises:
            TerrazzoError: a pair cannot be read, the loader workers fail, memory runs out, or the run diverges (too
                many steps in a row without a finite gradient, or logits that are not finite). Where there is one
                process, what was learnt until then is saved first.
            SystemExit: 128 + the signal's number, after a checkpoint, when the process was told to stop.
        """
        run, state, log = self.recipe.run, self.state, self.log
        progress = log.progress(self.total_steps, state.step)
        saved = saved_on_failure(self._save_the_last_step)
        with self.signals.noted(), progress, saved, closing(self._batches()) as batches:
            state.restore_generators()
            if state.step == 0 and self.start.is_whole:
                state.origin["start_mIoU"] = round(self.validate().mIoU, 2)
                log.say(f"before the first step: mIoU {state.origin['start_mIoU']:.2f}")
            for epoch in range(state.epoch, self.epochs):
                if run.patience is not None and state.stale_validations > run.patience:
                    log.say(f"no better mIoU in {state.stale_validations} validations: stopping early")
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
                last = epoch + 1 == self.epochs
                metrics = self.validate() if last or (epoch + 1) % run.validate_every == 0 else None
                state.seconds = before + time.monotonic() - started
                best = metrics is not None and state.is_best_yet(metrics.mIoU)
                if metrics is not None and best and self.ranks.is_main:
                    self._keep_model(metrics)
                with self.signals.writing:
                    log.epoch(epoch + 1, self.epochs, state.step, self._lr(), metrics, state.seconds, best)
                self.save()
                if self.ranks.any(self.signals.number > 0):
                    self._stop()

    def train_step(self, batch: Batch) -> float:
        """Learn from one batch and return its loss; a batch without finite gradients changes nothing."""
        state, schedule, device = self.state, self.recipe.optimizer, self.ranks.device
        follow_schedule(self.optimizer, schedule, state.step, self.total_steps)
        self.wrapped.train()
        for module in self.start.frozen:
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
        if torch.isfinite(norm):
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

    def _gradients(self, batch: Batch) -> Tensor:
        """Add a batch's gradients to those that are there, part by part, and return its loss."""
        device, parts = self.ranks.device, self.recipe.run.accumulate
        labels = batch.labels.to(device, non_blocking=True)
        total = torch.zeros((), device=device)
        for number, (images, part) in enumerate(
            zip(batch.images.chunk(parts), labels.chunk(parts), strict=True), start=1
        ):
            whole = labels if parts > 1 else None
            # Ranks average their gradients once, with the last part.
            alone = number < parts and isinstance(self.wrapped, DistributedDataParallel)
            wrapped: Any = self.wrapped
            with wrapped.no_sync() if alone else nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                    logits, *auxiliary = self.wrapped(images.to(device, non_blocking=True), auxiliary=True)
                loss = self.loss(logits, part, whole)
                for logits in auxiliary:
                    loss = loss + self.recipe.model.auxiliary_weight * self.loss(logits, part, whole)
                del logits, auxiliary, images
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def validate(self, count: int | None = None) -> Metrics:
        """Score what would be kept now on the validation photos.

        Args:
            count: take only the first so many.

        Raises:
            TrainingError: the network's logits are not finite (code "training-diverged").
            SystemExit: as `run`; the validation is then repeated after resuming.
        """

        def pause(done: int) -> None:
            self.log.validating(done, len(self.val))
            if self.ranks.any(self.signals.number > 0):
                self._save_and_stop()

        with told_of_divergence(self.state.step):
            val = self.val if count is None else replace(self.val, samples=self.val.samples[:count])
            return validate(self.shipped_network(), val, self.recipe, self.ranks, pause)

    def shipped_network(self) -> Segmenter:
        """Return the network that is validated and kept: the weight average, if there is one; no auxiliary heads."""
        network = self.model if self.average is None else self.average.module
        assert isinstance(network, Segmenter)
        return network.without_auxiliary()

    def _batches(self) -> Generator[Batch, None, None]:
        """Yield the batches that are left of the run."""
        state = self.state
        left = self.total_steps - state.step
        return self.loader.batches(state.epoch, state.position, left, self._stops_alone)

    def _note_step(self, loss: float) -> bool:
        """Log a step with the mean loss of the ranks, and tell whether any of them was told to stop."""
        ranks = self.ranks
        shared = ranks.sum(torch.tensor([loss / ranks.world_size, float(self.signals.number > 0)], dtype=torch.float64))
        mean_loss, told_to_stop = shared.tolist()
        self.log.step(self.state.step, mean_loss, self._lr(), self.recipe.run.batch_size)
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
        now = len(self.loader.dataset)
        planned = self.state.load_state_dict(saved)
        if (before := self.state.origin.get("train_photos", now)) != now:  # earlier versions did not note it
            raise TrainingError(
                f"{self.output} has learnt from {before} photos, and the data set has {now} now",
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

    def record(self) -> dict[str, Any]:
        """Return what the model's config.json says about this run."""
        state, train, device = self.state, self.loader.dataset, self.ranks.device
        return training_record(state.origin, self.recipe, train, self.val, state.seconds, device)

    def trained_model(self, record: dict[str, Any]) -> TrainedModel:
        """Return the present weights as something that can be saved and used."""
        network, preprocess = self.shipped_network(), self.recipe.data.preprocess
        name = network.spec.title if network.spec else self.recipe.model.name
        return TrainedModel(name, network, self.labels, preprocess, record, self.output.name)

    def _keep_model(self, metrics: Metrics) -> None:
        model = self.trained_model({"step": self.state.step, "val_mIoU": round(metrics.mIoU, 2), **self.record()})
        with self.signals.writing:
            save_folder(self.output / MODEL_FOLDER, model, keep_others=True)

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
