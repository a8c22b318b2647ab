"""Dry run: everything that is said and drawn before a run, and a few steps to know how long it will take."""

from __future__ import annotations

import math
import time
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.loaders import Batch
from terrazzo.imaging.png import encode_png
from terrazzo.labels.spec import LabelSpec
from terrazzo.ownership import set_aside, write_result
from terrazzo.preprocess import Preprocess
from terrazzo.training.recipe_text import recipe_text
from terrazzo.training.run_folder import BATCH_FILE
from terrazzo.training.trainer import Trainer

__all__ = ["batch_picture", "rehearse"]

STEPS = 3
"""Timed steps, after a first one that is slower."""

VALIDATED = 4
"""Photos of the timed validation."""

GAP = 8  # pixels between two windows
MOST_WINDOWS = 16


def rehearse(trainer: Trainer) -> None:
    """Print every setting, draw the first batch, and time a few steps; the only file is the picture of the batch."""
    recipe, log = trainer.recipe, trainer.log
    log.say(recipe_text(recipe).rstrip())
    batches = list(trainer.batches(min(STEPS + 1, trainer.loader.batches_per_epoch)))
    if trainer.ranks.is_main:
        picture = batch_picture(batches[0], recipe.data.preprocess, trainer.labels)
        path = trainer.output / BATCH_FILE
        set_aside([path], "train")
        write_result(path, encode_png(picture), "train")
        log.say(f"batch     drawn in {path}: each window above, its classes below")
    seconds = []
    for batch in islice(cycle(batches), STEPS + 1):
        started = time.monotonic()
        trainer.train_step(batch)
        seconds.append(time.monotonic() - started)
    step = float(np.median(seconds[1:]))
    started = time.monotonic()
    count = min(VALIDATED, len(trainer.val))
    trainer.validate(count)
    photo = (time.monotonic() - started) / count
    validations = math.ceil(trainer.epochs / recipe.run.validate_every)
    hours = (trainer.total_steps * step + validations * photo * len(trainer.val) / trainer.ranks.world_size) / 3600
    length = f"{hours:.1f} hours" if hours >= 1 else f"{max(hours * 60, 0.1):.1f} minutes"
    log.say(
        f"time      about {length}: {step:.2f} s a step, {photo:.2f} s a photo in each of {validations} validations"
    )
    log.say("nothing was trained: start the run with the same command without --dry-run")


def batch_picture(batch: Batch, preprocess: Preprocess, labels: LabelSpec) -> NDArray[np.uint8]:
    """Draw the windows of a batch as the network sees them, each above the colours of its classes.

    Args:
        batch: its first 16 windows are drawn.
        preprocess: whose normalisation is taken back.
        labels: for the colours.
    """
    windows = batch.images[:MOST_WINDOWS].permute(0, 2, 3, 1).numpy() * preprocess.std + preprocess.mean
    shown = [0, 1, 2] if windows.shape[-1] >= 3 else [0, 0, 0]  # of one or two bands the first, in grey
    images = np.clip(windows[..., shown] + 0.5, 0, 255).astype(np.uint8)
    count, height, width = images.shape[:3]
    columns = min(math.ceil(math.sqrt(2 * count)), count)
    rows = -(-count // columns)
    sheet = np.full((rows * 2 * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for place, (image, mask) in enumerate(zip(images, batch.labels.numpy(), strict=False)):
        top = GAP + place // columns * 2 * (height + GAP)
        left = GAP + place % columns * (width + GAP)
        colors: Any = labels.colorize(mask)
        sheet[top : top + height, left : left + width] = image
        sheet[top + height + GAP // 2 :][:height, left : left + width] = colors
    return sheet
