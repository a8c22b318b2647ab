"""The training loop."""

from __future__ import annotations

import dataclasses
import fnmatch
import random
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from terrazzo.data import Dataset, open_dataset
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.data.transforms import (
    Compose,
    PhotometricDistortion,
    RandomBlur,
    RandomCrop,
    RandomFlip,
    RandomGamma,
    RandomGray,
    RandomResize,
    RandomRotate,
    Transform,
)
from terrazzo.errors import TrainingError
from terrazzo.evaluation.confusion import Metrics
from terrazzo.evaluation.evaluator import score
from terrazzo.inference.engines.torch import TorchEngine
from terrazzo.inference.predictor import Predictor
from terrazzo.labels import LabelSpec
from terrazzo.models import create_model
from terrazzo.models.segmenter import Segmenter
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.log import RunLog
from terrazzo.training.losses import class_weights_from_counts, upsampled_cross_entropy
from terrazzo.training.optim import learning_rate_factor, parameter_groups, set_learning_rate
from terrazzo.training.recipe import Recipe
from terrazzo.training.run_folder import CHECKPOINT_FOLDER, MODEL_FOLDER
from terrazzo.weights.files import TrainedModel, save_folder

__all__ = ["Trainer", "open_splits"]

MOST_BAD_STEPS = 20
"""Steps without a finite gradient, one after another, that end a run."""


def open_splits(recipe: Recipe, data: Path) -> tuple[Dataset, Dataset]:
    """Open what a recipe learns from and what it validates on.

    Raises:
        DatasetError: a split cannot be opened.
        TrainingError: the holdout patterns match no photo, or all of them.
    """
    labels = LabelSpec.bundled(recipe.labels) if recipe.labels else None
    train = open_dataset(data, recipe.train_split, labels)
    if not recipe.holdout:
        return train, open_dataset(data, recipe.val_split, train.labels)
    held = [any(fnmatch.fnmatch(sample.name, pattern) for pattern in recipe.holdout) for sample in train.samples]
    if all(held) or not any(held):
        raise TrainingError(
            f"holdout {', '.join(recipe.holdout)} matches {sum(held)} of the {len(held)} photos in {recipe.train_split}",
            fix="give patterns of photo names that match some photos and leave some",
            code="training-holdout",
        )
    learnt = tuple(sample for sample, out in zip(train.samples, held, strict=True) if not out)
    unseen = tuple(sample for sample, out in zip(train.samples, held, strict=True) if out)
    return dataclasses.replace(train, samples=learnt), dataclasses.replace(train, samples=unseen, split="holdout")


class Trainer:
    """One run, from its first step or from its newest checkpoint to its best model.

    Args:
        recipe: what to learn and how.
        train: photos to learn from.
        val: photos that choose the best epoch.
        output: the run's folder.
        ranks: this process among those of the run.
        workers: loader processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Dataset,
        val: Dataset,
        output: Path,
        ranks: Ranks,
        workers: int,
    ) -> None:
        self.recipe, self.val, self.output, self.ranks = recipe, val, output, ranks
        self.labels = train.labels
        seed_everything(recipe.seed + ranks.rank)
        self.model = create_model(recipe.model, self.labels.num_classes, recipe.drop_path)
        self.model.to(ranks.device, memory_format=torch.channels_last)
        self.average = WeightAverage(self.model, recipe.ema_decay) if recipe.ema_decay is not None else None
        self.wrapped = ranks.wrap(self.model)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, recipe.lr, recipe.weight_decay, recipe.decoder_lr_factor), fused=True
        )
        self.loader = TrainLoader(
            train, augmentation(recipe, self.labels.ignore_index), recipe.preprocess, recipe.crop, recipe.batch_size,
            recipe.seed, workers, ranks.rank, ranks.world_size,
        )  # fmt: skip
        self.total_steps = recipe.epochs * self.loader.batches_per_epoch
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and multiplies_bf16(ranks.device))
        self.class_weights = (
            class_weights_from_counts(count_labels(train), recipe.class_weight_power).to(ranks.device)
            if recipe.class_weight_power
            else None
        )
        self.step = 0
        self.seconds = 0.0
        self.best_mIoU = -1.0
        self.stale_validations = 0
        self.bad_steps = 0
        self.log = RunLog(output)
        self._stop_signal = 0

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, to the early stop, or to a signal.

        Raises:
            TrainingError: too many steps in a row had no finite gradient.
            SystemExit: 128 + the signal's number, after a checkpoint, when the process was told to stop.
        """
        recipe, per_epoch = self.recipe, self.loader.batches_per_epoch
        with self._signals_noted(), self.log.progress(self.total_steps, self.step, enabled=self.ranks.is_main):
            for epoch in range(self.step // per_epoch, recipe.epochs):
                started = time.monotonic()
                for batch in self.loader.epoch(epoch, start=self.step - epoch * per_epoch):
                    loss = self.train_step(batch)
                    self.log.step(self.step, loss, self.optimizer.param_groups[0]["lr"], recipe.batch_size)
                    if self.ranks.any(self._stop_signal > 0):
                        self.seconds += time.monotonic() - started
                        self.save()
                        raise SystemExit(128 + (self._stop_signal or signal.SIGTERM))
                last = epoch + 1 == recipe.epochs
                metrics = self.validate() if last or (epoch + 1) % recipe.validate_every == 0 else None
                self.seconds += time.monotonic() - started
                if metrics is not None:
                    self._keep_if_best(metrics)
                self.log.epoch(epoch + 1, self.step, metrics, self.seconds)
                self.save()
                if recipe.patience is not None and self.stale_validations > recipe.patience:
                    self.log.say(f"no better mIoU in {self.stale_validations} validations: stopping early")
                    break

    def train_step(self, batch: Batch) -> float:
        """Learn from one batch and return its loss; a batch without finite gradients changes nothing."""
        recipe = self.recipe
        factor = learning_rate_factor(
            self.step, self.total_steps, power=recipe.power,
            warmup_steps=recipe.warmup_steps, warmup_ratio=recipe.warmup_ratio,
        )  # fmt: skip
        set_learning_rate(self.optimizer, factor, recipe.min_lr)
        self.wrapped.train()
        device = self.ranks.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.wrapped(images)
        loss = upsampled_cross_entropy(
            logits, labels, self.labels.ignore_index, self.class_weights, recipe.normalize_by
        )
        self.optimizer.zero_grad()
        loss.backward()
        limit = float("inf") if recipe.clip_norm is None else recipe.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.step += 1
        # Gradients are averaged over ranks, so every rank sees the same norm and decides alike.
        if torch.isfinite(norm):
            self.bad_steps = 0
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
        else:
            self._note_bad_step(batch)
        return float(loss.detach())

    def validate(self) -> Metrics:
        """Score the averaged weights on the validation photos, each rank a share of them."""
        engine = TorchEngine(self.shipped_network(), self.ranks.device)
        share = range(self.ranks.rank, len(self.val), self.ranks.world_size)
        confusion = score(Predictor(engine, self.recipe.preprocess, self.labels), self.val, share, batch_size=4)
        confusion.counts[:] = self.ranks.sum(torch.from_numpy(confusion.counts)).cpu().numpy()
        return confusion.metrics()

    def shipped_network(self) -> Segmenter:
        """Return the network that is validated and kept: the weight average, if there is one."""
        return self.model if self.average is None else self.average.module

    # -- keeping ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint from which the run goes on bit for bit."""
        if not self.ranks.is_main:
            return
        state = {
            "recipe": self.recipe.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best_mIoU": self.best_mIoU,
            "stale_validations": self.stale_validations,
            "bad_steps": self.bad_steps,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.ranks.device.type == "cuda" else None,
            "log": self.log.rows,
        }
        save_checkpoint(self.output / CHECKPOINT_FOLDER, state)

    def resume(self) -> None:
        """Go back to the newest checkpoint of the output folder.

        Raises:
            TrainingError: there is none that loads, or it belongs to another recipe.
        """
        state, warnings = load_checkpoint(self.output / CHECKPOINT_FOLDER)
        for warning in warnings:
            self.log.say(warning)
        mine = self.recipe.to_dict()
        if changed := [key for key in mine if state["recipe"].get(key) != mine[key]]:
            raise TrainingError(
                f"{self.output} was trained with another {', '.join(changed)}",
                fix="resume with the options it was started with, or train into a new folder",
                code="training-resume",
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_mIoU, self.stale_validations = state["best_mIoU"], state["stale_validations"]
        self.bad_steps = state["bad_steps"]
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
            self.average.updates = state["average_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] is not None and self.ranks.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.log.restore(state["log"])
        self.log.say(f"resumed at step {self.step} of {self.total_steps}")

    def trained_model(self, record: dict[str, Any]) -> TrainedModel:
        """Return the present weights as something that can be saved and used."""
        return TrainedModel(
            self.recipe.model, self.shipped_network(), self.labels, self.recipe.preprocess, record, self.output.name
        )

    def _keep_if_best(self, metrics: Metrics) -> None:
        if metrics.mIoU > self.best_mIoU:
            self.best_mIoU, self.stale_validations = metrics.mIoU, 0
            if self.ranks.is_main:
                record = {"step": self.step, "val_mIoU": round(metrics.mIoU, 2), "recipe": self.recipe.to_dict()}
                save_folder(self.output / MODEL_FOLDER, self.trained_model(record))
        else:
            self.stale_validations += 1

    def _note_bad_step(self, batch: Batch) -> None:
        self.bad_steps += 1
        names = ", ".join(self.loader.dataset.samples[index].image.name for index in batch.indices)
        self.log.say(f"step {self.step}: loss or gradient is not finite, no step taken; photos: {names}")
        if self.bad_steps >= MOST_BAD_STEPS:
            raise TrainingError(
                f"{self.bad_steps} steps in a row had no finite gradient; the last one's photos: {names}",
                fix="lower the learning rate, or look at these photos and masks with `terrazzo check-data`",
                code="training-diverged",
            )

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        """Turn SIGTERM and SIGINT into a flag that the loop reads after each step; a second one changes nothing."""

        def note(number: int, _: object) -> None:
            self._stop_signal = number

        old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


# -- what a run is made of --------------------------------------------------------------------------------------------


def augmentation(recipe: Recipe, ignore_index: int) -> Compose:
    """Return the papers' steps in the papers' order, and ours where the recipe asks for them."""
    steps: list[Transform] = []
    long_side, short_side = recipe.resize or (None, None)
    steps.append(RandomResize(long_side, short_side, recipe.ratio_range))
    if recipe.rotate:
        steps.append(RandomRotate(0.5, recipe.rotate, ignore_index))
    steps.append(RandomCrop(recipe.crop, recipe.cat_max_ratio, ignore_index))
    steps.append(RandomFlip(recipe.flip))
    steps.append(PhotometricDistortion(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue))
    if recipe.gamma:
        steps.append(RandomGamma(recipe.gamma))
    if recipe.gray:
        steps.append(RandomGray(recipe.gray))
    if recipe.blur:
        steps.append(RandomBlur(recipe.blur))
    return Compose(steps)


def multiplies_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies bf16 natively; elsewhere autocast is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def count_labels(dataset: Dataset, most: int = 2000) -> torch.Tensor:
    """Return (K,) pixels of each class, over at most `most` evenly spaced masks."""
    K = dataset.labels.num_classes
    indices: Sequence[int] = np.linspace(0, len(dataset) - 1, min(len(dataset), most)).round().astype(int).tolist()
    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(lambda index: np.bincount(dataset.read(index)[1].ravel(), minlength=K)[:K], indices)
        return torch.from_numpy(np.sum(list(counts), axis=0))


def seed_everything(seed: int) -> None:
    """Seed the generators that weights, dropout and drop path draw from; the loaders carry their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
