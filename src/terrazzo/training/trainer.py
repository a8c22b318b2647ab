"""A run of segmentation: what is learnt in a step, and what is validated and kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.data import Dataset
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.errors import ConfigError
from terrazzo.evaluation.confusion import Metrics
from terrazzo.models import Segmenter
from terrazzo.training.acceleration import compiled, uses_bf16
from terrazzo.training.augment import Augmentation
from terrazzo.training.bands import filled_pair, steps_for_bands
from terrazzo.training.consistency import Consistency, view_loader
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.failures import told_of_divergence
from terrazzo.training.log import RunLog
from terrazzo.training.loop import Loop
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.optim import create_optimizer
from terrazzo.training.plan import Plan
from terrazzo.training.recipe import Recipe
from terrazzo.training.record import training_record
from terrazzo.training.rng import seed_everything
from terrazzo.training.run_folder import MODEL_FOLDER
from terrazzo.training.sharding import is_sharded, shard, whole_tree
from terrazzo.training.start import start_network
from terrazzo.training.state import TrainState
from terrazzo.training.stopping import StopSignals
from terrazzo.training.teacher import Teacher
from terrazzo.training.validation import validate
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import StartingWeights

__all__ = ["Trainer"]


class Trainer(Loop):
    """One run of segmentation, from its first step or from its newest checkpoint to its best model.

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
        unlabelled: photos without masks, where the recipe has a section for them.
        teacher: what is distilled, where the recipe has a section for it.

    Attributes:
        state: everything that a checkpoint holds.
        model: what is trained; `wrapped` is the same for several ranks, or compiled.
        unsharded: a network with whole tensors: `model` itself, unless the ranks share it out.

    Raises:
        CheckpointError: `initial` is another architecture's, or for other classes.
        ConfigError: the ranks cannot share a batch evenly.
    """

    model: Segmenter

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
        unlabelled: Dataset | None = None,
        teacher: TrainedModel | None = None,
    ) -> None:
        self.recipe, self.schedule = recipe, recipe.optimizer
        self.val, self.output, self.ranks = val, output, ranks
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
        self.frozen = self.start.frozen
        ranks.share_weights(self.model)
        self.average = None
        if recipe.run.ema_decay is not None:
            self.average = WeightAverage(self.model.without_auxiliary(), recipe.run.ema_decay)
        sharded = recipe.run.fsdp and ranks.world_size > 1
        self.unsharded = copy.deepcopy(self.model) if sharded else self.model
        self.wrapped = ranks.wrap(self.model, recipe.run.sync_batchnorm, sharded)
        if self.average is not None and sharded:
            shard(self.average.module)
        if recipe.run.compile:
            self.wrapped = compiled(self.wrapped, device)
        self.optimizer = create_optimizer(self.model, recipe.optimizer)
        pixels_K = torch.from_numpy(pixels_NK.sum(axis=0, dtype=np.int64))
        self.loss = CombinedLoss(recipe.loss, pixels_K, self.labels.ignore_index, device, self.labels.names)
        self.bf16 = uses_bf16(recipe.run.precision, device)
        self.unlabelled, self.consistency, self.teacher = None, None, None
        if unlabelled is not None and recipe.unlabelled is not None:
            self.unlabelled = view_loader(recipe, unlabelled, workers, ranks)
            self.consistency = Consistency(recipe.unlabelled, self.labels.ignore_index, recipe.run.seed, ranks)
        if teacher is not None and recipe.teacher is not None:
            self.teacher = Teacher(teacher, recipe.teacher, self.model, self.labels, preprocess, device)

        self.log = RunLog(output, ranks.is_main)
        taught = () if self.teacher is None else self.teacher.notes
        for text in (*left_out, *self.start.notes, *taught):
            self.log.say(text)
        plan = Plan(recipe, self.labels, self.total_steps)
        counts = {} if unlabelled is None else {"unlabelled_photos": len(unlabelled)}
        taught_by = {} if self.teacher is None else {"teacher": self.teacher.origin}
        origin = {**self.start.origin, **taught_by, "train_photos": len(train), **counts}
        self.state = TrainState(plan, self.model, self.average, self.optimizer, self.log, ranks, origin)
        self.signals = StopSignals(ranks.is_main)

    @property
    def batch_size(self) -> int:
        return self.recipe.run.batch_size

    def _begin(self) -> None:
        if self.state.step == 0 and self.start.is_whole:
            self.state.origin["start_mIoU"] = round(self.validate().mIoU, 2)
            self.log.say(f"before the first step: mIoU {self.state.origin['start_mIoU']:.2f}")

    def _may_end(self) -> bool:
        stale, patience = self.state.stale_validations, self.recipe.run.patience
        if patience is None or stale <= patience:
            return False
        self.log.say(f"no better mIoU in {stale} validations: stopping early")
        return True

    def _end_epoch(self, epoch: int, started: float, before: float) -> None:
        state, last = self.state, epoch + 1 == self.epochs
        metrics = self.validate() if last or (epoch + 1) % self.recipe.run.validate_every == 0 else None
        state.seconds = before + time.monotonic() - started
        best = metrics is not None and state.is_best_yet(metrics.mIoU)
        if metrics is not None and best and self.ranks.is_main:
            self._keep_model(metrics)
        if self.consistency is not None and self.consistency.section.weight:
            self.log.say(self.consistency.told())
        with self.signals.writing:
            self.log.epoch(epoch + 1, self.epochs, state.step, self._lr(), metrics, state.seconds, best)

    def _gradients(self, batch: Batch) -> Tensor:
        """Add a batch's gradients to those that are there, part by part, and return its loss."""
        device, parts = self.ranks.device, self.recipe.run.accumulate
        labels = batch.labels.to(device, non_blocking=True)
        unlabelled = [None] * parts if batch.unlabelled is None else batch.unlabelled.parts(parts)
        total = torch.zeros((), device=device)
        for number, (images, part, others) in enumerate(
            zip(batch.images.chunk(parts), labels.chunk(parts), unlabelled, strict=True), start=1
        ):
            # Ranks average their gradients once, with the last part.
            if others is not None:
                with self.ranks.apart(self.wrapped):
                    loss = self._loss_without_labels(others, number) / parts
                    loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            with self.ranks.apart(self.wrapped) if number < parts else nullcontext():
                loss = self._loss(images.to(device, non_blocking=True), part, labels if parts > 1 else None)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, images: Tensor, labels: Tensor, whole: Tensor | None) -> Tensor:
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16):
            logits, *auxiliary = self.wrapped(images, auxiliary=True)
        loss = self.loss(logits, labels, whole)
        for its_logits in auxiliary:
            loss = loss + self.recipe.model.auxiliary_weight * self.loss(its_logits, labels, whole)
        if self.teacher is not None:
            loss = loss + self.teacher.loss(images, logits, self.bf16) / self.recipe.run.accumulate
        return loss

    def _loss_without_labels(self, batch: Batch, part: int) -> Tensor:
        """Return the loss of photos without labels: of pseudo-labels, and of what the teacher says."""
        assert self.consistency is not None
        views = self.consistency.views(batch, self.average, self.state.step, part, self.bf16)
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.wrapped(views.strong)
        loss = self.consistency.loss(logits, views)
        if self.teacher is not None:
            loss = loss + self.teacher.loss(views.strong, logits, self.bf16)
        return loss

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

        self._gather()
        with told_of_divergence(self.state.step):
            val = self.val if count is None else replace(self.val, samples=self.val.samples[:count])
            return validate(self.shipped_network(), val, self.recipe, self.ranks, pause)

    def shipped_network(self) -> Segmenter:
        """Return the network that is validated and kept: the weight average, if there is one; no auxiliary heads."""
        network = self.model if self.average is None else self.average.module
        assert isinstance(network, Segmenter)
        return self.unsharded.without_auxiliary() if is_sharded(network) else network.without_auxiliary()

    def _gather(self) -> None:
        """Put what the ranks have shared out together in one network, which is validated and kept."""
        network = self.model if self.average is None else self.average.module
        if is_sharded(network):
            self.unsharded.without_auxiliary().load_state_dict(
                {key: value for key, value in whole_tree(network.state_dict()).items() if "auxiliary." not in key}
            )

    def batches(self, count: int | None = None) -> Generator[Batch, None, None]:
        labelled = super().batches(count)
        if self.unlabelled is None:
            return labelled
        left = self.total_steps - self.state.step if count is None else count
        return _side_by_side(labelled, self.unlabelled.batches(0, self.state.step, left, self._stops_alone))

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


def _side_by_side(
    labelled: Generator[Batch, None, None], unlabelled: Generator[Batch, None, None]
) -> Generator[Batch, None, None]:
    with closing(labelled), closing(unlabelled):
        for batch, others in zip(labelled, unlabelled, strict=False):
            yield replace(batch, unlabelled=others)
