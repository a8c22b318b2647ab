"""The training loop."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from terrazzo.data import Dataset
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import TerrazzoError, TrainingError
from terrazzo.evaluation.confusion import ConfusionMatrix, Metrics
from terrazzo.evaluation.evaluator import score
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import find_protocol
from terrazzo.models import ModelSpec, Segmenter
from terrazzo.training.augment import Augmentation
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.data import refuse_other_labels
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.log import RunLog
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.optim import create_optimizer, learning_rate_factor, set_learning_rate
from terrazzo.training.recipe import Recipe
from terrazzo.training.record import training_record
from terrazzo.training.run_folder import CHECKPOINT_FOLDER, MODEL_FOLDER
from terrazzo.training.start import Start, encoder_origin, start_from
from terrazzo.training.steps import compiled, multiplies_bf16, told_of_divergence, told_of_failures, undone_on_failure
from terrazzo.training.stopping import StopSignals
from terrazzo.weights.backbones import brings_weights
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import StartingWeights

__all__ = ["Trainer"]

MOST_BAD_STEPS = 20
"""Steps without a finite gradient, one after another, that end a run."""

VALIDATION_BATCH = 4
"""Photos that a rank scores between two looks at whether it was told to stop."""


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
        spec: what to train, where the recipe's model has no name; its number of classes is the data set's.

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
        spec: ModelSpec | None = None,
    ) -> None:
        self.recipe, self.val, self.output, self.ranks = recipe, val, output, ranks
        self.labels = train.labels
        augment = Augmentation(recipe.augment, train.read, pixels_NK, self.labels.ignore_index)
        self.loader = TrainLoader(
            train, augment, recipe.data.preprocess, recipe.crop, recipe.run.batch_size, recipe.run.seed, workers,
            ranks.rank, ranks.world_size,
        )  # fmt: skip
        per_epoch = self.loader.batches_per_epoch
        self.total_steps = recipe.run.steps if recipe.run.steps is not None else (recipe.run.epochs or 0) * per_epoch
        self.epochs = -(-self.total_steps // per_epoch)
        seed_everything(recipe.run.seed + ranks.rank)
        self.model = create_model(
            spec or recipe.model.name,
            self.labels.num_classes,
            recipe.model.drop_path,
            recipe.crop,
            None if spec else recipe.model.encoder,
        )
        if not recipe.model.auxiliary_weight:
            self.model.drop_auxiliary()
        self.start: Start | None = None
        self.origin: dict[str, Any] = {}
        if initial is not None:
            self.start = start_from(self.model, initial, recipe, reset_head, self.labels.names)
            self.origin = dict(initial.origin)
        elif recipe.model.weights is None and recipe.model.encoder is not None and brings_weights(recipe.model.encoder):
            self.origin = encoder_origin(recipe.model.encoder)
        self.model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.run.checkpointing:
            encoder: Any = self.model.encoder
            encoder.recompute_blocks()
        self.wrapped = ranks.wrap(self.model, recipe.run.sync_batchnorm)
        if recipe.run.compile:
            self.wrapped = compiled(self.wrapped, ranks.device)
        self.average: WeightAverage | None = None
        if recipe.run.ema_decay is not None:
            self.average = WeightAverage(self.model.without_auxiliary(), recipe.run.ema_decay)
        self.optimizer = create_optimizer(self.model, recipe.optimizer)
        precision = recipe.run.precision
        self.bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16(ranks.device))
        pixels_K = torch.from_numpy(pixels_NK.sum(axis=0, dtype=np.int64))
        self.loss = CombinedLoss(recipe.loss, pixels_K, self.labels.ignore_index, ranks.device)
        self.step = 0
        self.seconds = 0.0
        self.best_mIoU = -1.0
        self.stale_validations = 0
        self.bad_steps = 0
        self.log = RunLog(output, ranks.is_main)
        for text in () if self.start is None else self.start.notes:
            self.log.say(text)
        self._resumed_rng: dict[str, Any] | None = None
        self.signals = StopSignals(ranks.is_main)
        self._saved_step = 0
        self._is_whole = True  # weights, average and optimiser are those of one step

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, to the early stop, or to a signal.

        Raises:
            TerrazzoError: a pair cannot be read, the loader workers fail, memory runs out, or the run diverges (too
                many steps in a row without a finite gradient, or logits that are not finite). Where there is one
                process, what was learnt until then is saved first.
            SystemExit: 128 + the signal's number, after a checkpoint, when the process was told to stop.
        """
        run, per_epoch = self.recipe.run, self.loader.batches_per_epoch
        with self.signals.noted(), self.log.progress(self.total_steps, self.step), self._saved_on_failure():
            if self.step == 0 and self.start is not None and self.start.is_whole:
                self.origin["start_mIoU"] = round(self.validate().mIoU, 2)
                self.log.say(f"before the first step: mIoU {self.origin['start_mIoU']:.2f}")
            for epoch in range(len(self.log.rows), self.epochs):
                if run.patience is not None and self.stale_validations > run.patience:
                    self.log.say(f"no better mIoU in {self.stale_validations} validations: stopping early")
                    break
                self.log.begin_epoch()
                started, before = time.monotonic(), self.seconds
                for batch in self._batches(epoch, start=self.step - epoch * per_epoch):
                    loss = self.train_step(batch)
                    self.seconds = before + time.monotonic() - started
                    if self._note_step(loss):
                        self.save()
                        self._stop()
                if self._stops_alone():  # which ends the wait for a batch too
                    self.save()
                    self._stop()
                last = epoch + 1 == self.epochs
                metrics = self.validate() if last or (epoch + 1) % run.validate_every == 0 else None
                self.seconds = before + time.monotonic() - started
                best = metrics is not None and self._keep_if_best(metrics)
                self.log.epoch(epoch + 1, self.epochs, self.step, self._lr(), metrics, self.seconds, best)
                self.save()
                if self.ranks.any(self.signals.number > 0):
                    self._stop()

    def train_step(self, batch: Batch) -> float:
        """Learn from one batch and return its loss; a batch without finite gradients changes nothing."""
        schedule = self.recipe.optimizer
        factor = learning_rate_factor(
            self.step, self.total_steps, power=schedule.power,
            warmup_steps=schedule.warmup_steps, warmup_ratio=schedule.warmup_ratio,
        )  # fmt: skip
        set_learning_rate(self.optimizer, factor, schedule.min_lr)
        self.wrapped.train()
        device = self.ranks.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad()  # before the forward pass, which needs the memory
        with undone_on_failure(self.model, statistics, device), told_of_failures(self.step + 1, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                logits, *auxiliary = self.wrapped(images, auxiliary=True)
            loss = self.loss(logits, labels)
            for logits in auxiliary:
                loss = loss + self.recipe.model.auxiliary_weight * self.loss(logits, labels)
            del logits, auxiliary, images
            loss.backward()  # type: ignore[no-untyped-call]
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if schedule.clip_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), schedule.clip_norm, norm)
        self.step += 1
        # Gradients are averaged over ranks, so every rank sees the same norm and decides alike.
        if torch.isfinite(norm):
            self.bad_steps = 0
            self._is_whole = False
            with told_of_failures(self.step, device):  # its first step takes memory for every parameter
                self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
            self._is_whole = True
        else:
            for buffer, value in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(value)
            self._note_bad_step(batch)
        return float(loss.detach())

    def validate(self) -> Metrics:
        """Score the averaged weights on the validation photos, each rank a share of them.

        Raises:
            TrainingError: the network's logits are not finite (code "training-diverged").
            SystemExit: as `run`; the validation is then repeated after resuming.
        """
        network, ranks = self.shipped_network(), self.ranks
        ranks.share_buffers(network)
        protocol = find_protocol(self.recipe.run.protocol)
        predictor = Predictor(
            TorchEngine(network, ranks.device), self.recipe.data.preprocess, self.labels, protocol=protocol
        )
        total = ConfusionMatrix(self.labels.num_classes, self.labels.ignore_index)
        group = VALIDATION_BATCH * ranks.world_size
        for first in range(0, len(self.val), group):
            share = range(first, min(first + group, len(self.val)))[ranks.rank :: ranks.world_size]
            self.log.validating(first, len(self.val))
            with told_of_divergence(self.step):
                total.merge(score(predictor, self.val, share, batch_size=VALIDATION_BATCH))
            if ranks.any(self.signals.number > 0):
                self.save()
                self._stop()
        total.counts[:] = ranks.sum(torch.from_numpy(total.counts)).cpu().numpy()
        return total.metrics()

    def shipped_network(self) -> Segmenter:
        """Return the network that is validated and kept: the weight average, if there is one; no auxiliary heads."""
        network = self.model if self.average is None else self.average.module
        assert isinstance(network, Segmenter)
        return network.without_auxiliary()

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the rest of an epoch; after resuming in the middle, with the generators where they were.

        Starting the loader draws a number, which an unbroken run does only where an epoch begins.
        """
        left = min(self.loader.batches_per_epoch - start, self.total_steps - self.step)
        if start == 0 or left == 0:
            self._restore_rng()
        if left:
            for batch in islice(self.loader.epoch(epoch, start, self._stops_alone), left):
                self._restore_rng()
                yield batch

    def _note_step(self, loss: float) -> bool:
        """Log a step with the mean loss of the ranks, and tell whether any of them was told to stop."""
        ranks = self.ranks
        shared = ranks.sum(torch.tensor([loss / ranks.world_size, float(self.signals.number > 0)], dtype=torch.float64))
        mean_loss, told_to_stop = shared.tolist()
        self.log.step(self.step, mean_loss, self._lr(), self.recipe.run.batch_size)
        return bool(told_to_stop)

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _note_bad_step(self, batch: Batch) -> None:
        self.bad_steps += 1
        mine = [self.loader.dataset.samples[index].image.name for index in batch.indices]
        names = ", ".join(name for share in self.ranks.gather(mine) for name in share)
        self.log.say(f"step {self.step}: loss or gradient is not finite, no step taken; photos: {names}")
        if self.bad_steps >= MOST_BAD_STEPS:
            raise TrainingError(
                f"{self.bad_steps} steps in a row had no finite gradient; the last one's photos: {names}",
                fix="lower the learning rate, or look at these photos and masks with `terrazzo check-data`",
                code="training-diverged",
            )

    # -- keeping ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint from which the run goes on bit for bit; all ranks take part."""
        on_gpu = self.ranks.device.type == "cuda"
        rng = self.ranks.gather((torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None))
        if not self.ranks.is_main:
            return
        state = {
            "recipe": self.recipe.to_dict(),
            "labels": self.labels.to_dict(),
            "origin": self.origin,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "best_mIoU": self.best_mIoU,
            "stale_validations": self.stale_validations,
            "bad_steps": self.bad_steps,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.stack([cpu for cpu, _ in rng]),
            "cuda_rng": torch.stack([gpu for _, gpu in rng if gpu is not None]) if on_gpu else None,
            "log": self.log.rows,
            "losses": self.log.losses,
        }
        with self.signals.writing:
            save_checkpoint(self.output / CHECKPOINT_FOLDER, state)
        self._saved_step = self.step

    def resume(self) -> None:
        """Go back to the newest checkpoint of the output folder.

        Raises:
            TrainingError: there is none that loads, or it belongs to another recipe.
        """
        state, warnings = load_checkpoint(self.output / CHECKPOINT_FOLDER)
        for warning in warnings:
            self.log.say(warning)
        before = Recipe.from_dict(state["recipe"], f"the recipe in {self.output / CHECKPOINT_FOLDER}")
        # Computing inner values again changes no result, and is the way out for a run that has run out of memory.
        if changed := [path for path in self.recipe.differences(before) if path != "run.checkpointing"]:
            if set(changed) <= {"run.epochs", "run.steps", "optimizer.warmup_steps"}:
                raise TrainingError(
                    f"{self.output} was planned for {state.get('total_steps', 'fewer')} steps, and its learning rate "
                    "has followed that plan",
                    fix=f"go on from it as a new run: terrazzo train --weights {self.output} --output ANOTHER-RUN, "
                    "with the --epochs or --steps to add",
                    code="training-resume",
                )
            raise TrainingError(
                f"{self.output} was trained with another {', '.join(changed)}",
                fix="resume with the options it was started with, or train into a new folder",
                code="training-resume",
            )
        if (steps := state.get("total_steps", self.total_steps)) != self.total_steps:
            raise TrainingError(
                f"{self.output} was to have {steps} steps, and has {self.total_steps} with these photos",
                fix="resume with the photos it was started with, or train into a new folder",
                code="training-resume",
            )
        refuse_other_labels(state.get("labels"), self.labels, self.output)
        self.origin = state.get("origin", self.origin)
        self.step = self._saved_step = state["step"]
        self.seconds = state["seconds"]
        self.best_mIoU, self.stale_validations = state["best_mIoU"], state["stale_validations"]
        self.bad_steps = state["bad_steps"]
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
            self.average.updates = state["average_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._resumed_rng = {"cpu": state["torch_rng"], "cuda": state["cuda_rng"]}
        self.log.restore(state["log"], state.get("losses", []))
        self.log.say(f"resumed at step {self.step} of {self.total_steps}")

    def record(self) -> dict[str, Any]:
        """Return what the model's config.json says about this run."""
        train, device = self.loader.dataset, self.ranks.device
        return training_record(self.origin, self.recipe, train, self.val, self.seconds, device)

    def trained_model(self, record: dict[str, Any]) -> TrainedModel:
        """Return the present weights as something that can be saved and used."""
        network, preprocess = self.shipped_network(), self.recipe.data.preprocess
        name = network.spec.title if network.spec else self.recipe.model.name
        return TrainedModel(name, network, self.labels, preprocess, record, self.output.name)

    def _keep_if_best(self, metrics: Metrics) -> bool:
        if not metrics.mIoU > self.best_mIoU:
            self.stale_validations += 1
            return False
        self.best_mIoU, self.stale_validations = metrics.mIoU, 0
        if self.ranks.is_main:
            record = {"step": self.step, "val_mIoU": round(metrics.mIoU, 2), **self.record()}
            with self.signals.writing:
                save_folder(self.output / MODEL_FOLDER, self.trained_model(record), keep_others=True)
        return True

    def _restore_rng(self) -> None:
        """Set this rank's generators as they were; a rank that was not there before keeps its fresh ones."""
        if self._resumed_rng is None:
            return
        for kind, get, put in (
            ("cpu", torch.get_rng_state, torch.set_rng_state),
            ("cuda", torch.cuda.get_rng_state, torch.cuda.set_rng_state),
        ):
            if self._resumed_rng[kind] is not None and kind in ("cpu", self.ranks.device.type):
                states = self._resumed_rng[kind].view(-1, get().numel())
                if self.ranks.rank < len(states):
                    put(states[self.ranks.rank].clone())  # of a view, PyTorch reads the wrong bytes
        self._resumed_rng = None

    # -- ends before the end ------------------------------------------------------------------------------------------

    def _stops_alone(self) -> bool:
        """Whether this process was told to stop, and has no other ranks to agree on it with."""
        return self.signals.number > 0 and self.ranks.world_size == 1

    def _stop(self) -> NoReturn:
        self.log.say(f"stopped at step {self.step} of {self.total_steps}; --resume goes on from there")
        raise SystemExit(128 + (self.signals.number or signal.SIGTERM))

    @contextmanager
    def _saved_on_failure(self) -> Iterator[None]:
        """Save the last finished step before an error ends the run, so that --resume loses nothing.

        Several ranks save together, and only one of them has failed: they go back to the last epoch. A diverged state
        is not worth keeping.
        """
        try:
            yield
        except Exception as error:
            is_diverged = isinstance(error, TerrazzoError) and error.code == "training-diverged"
            if self.ranks.world_size == 1 and self._is_whole and self.step > self._saved_step and not is_diverged:
                with suppress(TerrazzoError):  # such as a full disk, which may be the error itself
                    self.save()
                    self.log.say(f"saved step {self.step} of {self.total_steps}; --resume goes on from there")
            raise


# -- what a run begins with -------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seed the generators that weights, dropout and drop path draw from; the loaders carry their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
