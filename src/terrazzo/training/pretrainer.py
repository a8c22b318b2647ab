"""A run of self-supervised pretraining: the training loop with masked image modelling in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from terrazzo.data import Dataset
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.models import ModelSpec, Segmenter, build, find_spec
from terrazzo.models.encoders import SIZES
from terrazzo.training.acceleration import uses_bf16
from terrazzo.training.augment import Augmentation
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.flip import RandomFlip
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.distributed import Ranks
from terrazzo.training.log import RunLog
from terrazzo.training.loop import Loop
from terrazzo.training.masked_images import HidingAugmentation, MaskedImageModel
from terrazzo.training.optim import create_optimizer
from terrazzo.training.plan import Plan
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.record import pretraining_record
from terrazzo.training.rng import seed_everything
from terrazzo.training.run_folder import MODEL_FOLDER
from terrazzo.training.state import TrainState
from terrazzo.training.stopping import StopSignals
from terrazzo.weights.encoder_files import save_encoder

__all__ = ["Pretrainer", "encoder_spec"]


def encoder_spec(recipe: PretrainRecipe) -> ModelSpec:
    """Return a network that has the encoder of a recipe, for windows of its size.

    Raises:
        ConfigError: there is no such encoder or model.
    """
    spec = find_spec("all_mlp", recipe.model) if recipe.model in SIZES else find_spec(recipe.model, None)
    return spec.adapted(2, image_size=recipe.crop)


class Pretrainer(Loop):
    """One run of pretraining, whose result is an encoder.

    Args:
        recipe: what to learn and how.
        photos: to learn from.
        output: the run's folder.
        ranks: this process among those of the run.
        workers: loader processes.

    Raises:
        ConfigError: the ranks cannot share a batch evenly, or there is no such encoder.
    """

    model: MaskedImageModel

    def __init__(self, recipe: PretrainRecipe, photos: Dataset, output: Path, ranks: Ranks, workers: int) -> None:
        self.recipe, self.schedule = recipe, recipe.optimizer
        self.output, self.ranks, self.average = output, ranks, None
        counts = np.ones((1, photos.labels.num_classes), np.uint32)
        steps = RandomResize(ratio_range=recipe.scale), RandomCrop(size=recipe.crop, cat_max_ratio=1.0), RandomFlip()
        augment = Augmentation(steps, photos.read, counts, photos.labels.ignore_index)
        hiding = HidingAugmentation(augment, recipe.crop, recipe.mask_patch, recipe.mask_ratio)
        self.loader = TrainLoader(
            photos, hiding, recipe.preprocess, recipe.crop, recipe.batch_size, recipe.seed, workers,
            ranks.rank, ranks.world_size,
        )  # fmt: skip
        self.epochs = recipe.epochs
        self.total_steps = recipe.epochs * self.loader.batches_per_epoch
        seed_everything(recipe.seed + ranks.rank)
        self.spec = encoder_spec(recipe)
        self.model = MaskedImageModel(build(self.spec).encoder)
        self.model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ranks.share_weights(self.model)
        self.wrapped = ranks.wrap(self.model, sync_batchnorm=True)
        self.optimizer = create_optimizer(cast(Segmenter, self.model), recipe.optimizer)
        self.bf16 = uses_bf16(recipe.precision, ranks.device)
        self.log = RunLog(output, ranks.is_main)
        plan = Plan(recipe, None, self.total_steps)
        self.state = TrainState(plan, self.model, None, self.optimizer, self.log, ranks, {"train_photos": len(photos)})
        self.signals = StopSignals(ranks.is_main)

    @property
    def batch_size(self) -> int:
        return self.recipe.batch_size

    def _begin(self) -> None:
        self.log.say("loss is the mean distance of hidden pixels, in standard deviations of each colour")

    def _gradients(self, batch: Batch) -> Tensor:
        loss, _ = self.fill_in(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def fill_in(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and the pixels that the network would put everywhere."""
        device = self.ranks.device
        images, masks = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.labels))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            result: tuple[Tensor, Tensor] = self.wrapped(images, masks)
        return result

    def _end_epoch(self, epoch: int, started: float, before: float) -> None:
        state = self.state
        state.seconds = before + time.monotonic() - started
        with self.signals.writing:
            if self.ranks.is_main:
                save_encoder(
                    self.output / MODEL_FOLDER, self.model.encoder, self.spec, self.recipe.preprocess, self.record()
                )
            self.log.epoch(epoch + 1, self.epochs, state.step, self._lr(), None, state.seconds, False)

    def record(self) -> dict[str, Any]:
        """Return what the encoder's config.json says about this run."""
        state = self.state
        photos = {"data": self.loader.dataset.root.resolve().name, "photos": len(self.loader.dataset)}
        return pretraining_record(photos, self.recipe, state.step, state.seconds, self.ranks.device)
