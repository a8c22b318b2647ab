"""Consistency training on photos without masks: the loss of pseudo-labels, and the views that they are made from.

The weight average labels a weakly augmented view of each photo, where it is sure; the network in training has to say
the same of a strongly augmented one (FixMatch, Sohn et al. 2020, arXiv 2001.07685). For segmentation the strong view
also has a rectangle of another photo put into it, pseudo-labels included (UniMatch, Yang et al. 2023, arXiv
2208.09910). The average is the teacher as in Mean Teacher (Tarvainen and Valpola 2017, arXiv 1703.01780).

Both views are cut from one window, so that only colours differ, and travel through the loader as one image of twice the
bands. Every draw depends on the seed and the step alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.data import Dataset
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.preprocess import Preprocess
from terrazzo.training.augment import Augmentation, Step
from terrazzo.training.augment.blur import RandomBlur
from terrazzo.training.augment.boxes import random_box
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.flip import RandomFlip
from terrazzo.training.augment.gray import RandomGray
from terrazzo.training.augment.photometric import PhotometricDistortion
from terrazzo.training.augment.quarter_turn import RandomQuarterTurn
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.bands import filled_pair, steps_for_bands
from terrazzo.training.distributed import Ranks
from terrazzo.training.ema import WeightAverage
from terrazzo.training.losses.cross_entropy import upsampled_cross_entropy
from terrazzo.training.losses.strips import upsampled_strips
from terrazzo.training.recipe import Recipe
from terrazzo.training.sections import UnlabelledSection

__all__ = ["Consistency", "TwoViews", "Views", "pseudo_labels", "view_loader"]

OWN_SEED = 1 << 31
"""Added to the recipe's seed, which is smaller: photos without masks have an order and draws of their own."""

STRONG: tuple[Step, ...] = (
    PhotometricDistortion(brightness=64.0, contrast=(0.4, 1.6), saturation=(0.4, 1.6), hue=36),
    RandomGray(p=0.2),
    RandomBlur(p=0.5, sigma=(0.3, 2.0)),
)
"""What a strong view has beyond the weak one: about what UniMatch has."""

BOX_AREA, BOX_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)  # UniMatch's


@dataclass(frozen=True)
class Views:
    """Photos without masks, as a step learns from them.

    Attributes:
        strong: (B, C, H, W), strongly augmented.
        labels: (B, H, W) pseudo-labels; the ignored value where the average is not sure, and where there is no photo.
        pixels: how many pixels of photos there are.
    """

    strong: Tensor
    labels: Tensor
    pixels: Tensor


class TwoViews:
    """An augmentation for a `TrainLoader`: the weak and the strong view of a photo, one behind the other.

    Args:
        weak: what both views go through.
        strong: what only the second goes through.
    """

    def __init__(self, weak: Augmentation, strong: tuple[Step, ...]) -> None:
        self.weak, self.strong = weak, strong

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[Image, Mask]:
        image, mask = self.weak(index, rng)
        changed = image

        def other(_: int) -> tuple[Image, Mask]:
            raise AssertionError("no strong step takes another photo")

        pixels_NK = self.weak.pixels_NK
        for step in self.strong:
            changed, _ = step(changed, mask, Context(rng, self.weak.ignore_index, pixels_NK[0], pixels_NK, other))
        both: Image = np.concatenate([image, changed], axis=2)
        return both, mask


def view_loader(recipe: Recipe, photos: Dataset, workers: int, ranks: Ranks) -> TrainLoader:
    """Return the loader of both views of photos without masks.

    Its masks are 0, and the ignored value where a window is larger than its photo.

    Args:
        recipe: whose resizing, turns, crop and flip the weak view has.
        photos: without masks, as `terrazzo.data.photos` lists them.
        workers: loader processes.
        ranks: this process among those of the run.
    """
    section, preprocess = recipe.unlabelled, recipe.data.preprocess
    assert section is not None
    geometric = [
        replace(step, cat_max_ratio=1.0, rare=0.0) if isinstance(step, RandomCrop) else step
        for step in recipe.augment
        if isinstance(step, RandomResize | RandomQuarterTurn | RandomCrop | RandomFlip)
    ]
    strong, read = STRONG, photos.read
    if preprocess.bands is not None:
        strong, _ = steps_for_bands(STRONG)

        def read(index: int) -> tuple[Image, NDArray[np.integer]]:
            return filled_pair(photos, preprocess, index)

    counts = np.ones((1, photos.labels.num_classes), np.uint32)  # no step that is taken looks at them
    weak = Augmentation(geometric, read, counts, photos.labels.ignore_index)
    return TrainLoader(
        photos,
        TwoViews(weak, strong),
        _TwoImages(preprocess),
        recipe.crop,
        recipe.run.batch_size * section.ratio,
        recipe.run.seed + OWN_SEED,
        workers,
        ranks.rank,
        ranks.world_size,
    )


class _TwoImages:
    """The normalisation of two images, one behind the other."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def normalize(self, image_HWC: Image) -> NDArray[np.float32]:
        halves = np.split(image_HWC, 2, axis=2)
        return np.concatenate([self.preprocess.normalize(half) for half in halves], axis=2)


class Consistency:
    """The loss of photos without masks.

    Args:
        section: of the recipe.
        ignore_index: the label that does not count.
        seed: of the recipe.
        ranks: this process among those of the run.
    """

    def __init__(self, section: UnlabelledSection, ignore_index: int, seed: int, ranks: Ranks) -> None:
        self.section, self.ignore_index, self.seed, self.ranks = section, ignore_index, seed, ranks
        self._sure, self._pixels = 0.0, 0.0

    def views(self, batch: Batch, average: WeightAverage | None, step: int, part: int, bf16: bool) -> Views:
        """Return strong views and their pseudo-labels.

        Args:
            batch: of a `view_loader`.
            average: what labels; None where only a teacher does.
            step: of the run; with the part of the batch it decides where rectangles are.
            part: of the batch.
            bf16: whether the network runs under autocast.
        """
        device = self.ranks.device
        weak, strong = batch.images.to(device, non_blocking=True).chunk(2, dim=1)
        outside = batch.labels.to(device, non_blocking=True) == self.ignore_index
        labels = torch.full_like(outside, self.ignore_index, dtype=torch.int64)
        if self.section.weight and average is not None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = average.module(weak)
            labels = pseudo_labels(logits, outside, self.section.threshold, self.ignore_index)
        rng = np.random.default_rng((self.seed + OWN_SEED, step, self.ranks.rank, part))
        strong, labels, outside = self._mixed(
            strong.contiguous(memory_format=torch.channels_last), labels, outside, rng
        )
        return Views(strong, labels, (~outside).sum())

    def loss(self, logits_BKhw: Tensor, views: Views) -> Tensor:
        """Return the mean cross-entropy over the photos' pixels, of which those without a pseudo-label count 0."""
        sure = (views.labels != self.ignore_index).sum()
        self._sure, self._pixels = self._sure + float(sure), self._pixels + float(views.pixels)
        loss = upsampled_cross_entropy(logits_BKhw, views.labels, self.ignore_index)  # the mean over those that have
        return self.section.weight * loss * sure / views.pixels.clamp(min=1)

    def told(self) -> str:
        """Say how many pixels had a pseudo-label since this was last asked."""
        share = 100 * self._sure / max(self._pixels, 1)
        self._sure, self._pixels = 0.0, 0.0
        return f"pseudo-labels on {share:.0f}% of the pixels without masks"

    def _mixed(
        self, strong: Tensor, labels: Tensor, outside: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put a rectangle of each photo's neighbour in the batch into it (CutMix)."""
        tensors = strong.clone(), labels.clone(), outside.clone()
        for place in range(len(strong)):
            if rng.random() < self.section.cutmix:
                rows, columns = random_box(rng, strong.shape[2:], BOX_AREA, BOX_ASPECT)
                for mixed, plain in zip(tensors, (strong, labels, outside), strict=True):
                    mixed[place][..., rows, columns] = plain[place - 1][..., rows, columns]
        return tensors


def pseudo_labels(logits_BKhw: Tensor, outside_BHW: Tensor, threshold: float, ignore_index: int) -> Tensor:
    """Return the likeliest class of every pixel, (B, H, W) int64; the ignored value where it is not likely enough.

    Args:
        logits_BKhw: at the decoder's stride; they are enlarged bilinearly, strip by strip.
        outside_BHW: where there is no photo.
        threshold: a class counts that is at least so likely.
        ignore_index: for all others.
    """
    labels = torch.full_like(outside_BHW, ignore_index, dtype=torch.int64)
    with torch.no_grad():
        for rows, strip_BKrW in upsampled_strips(logits_BKhw.float(), labels):
            confidence, found = strip_BKrW.softmax(1).max(1)
            counts = (confidence >= threshold) & ~outside_BHW[:, rows]
            labels[:, rows] = torch.where(counts, found, ignore_index)
    return labels
