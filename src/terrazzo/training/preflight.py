"""What would end a run later, found before its first step: files that cannot be read, too little /dev/shm or disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from terrazzo.data import Dataset
from terrazzo.data.loaders import shared_bytes
from terrazzo.data.pixel_counts import in_threads
from terrazzo.errors import DatasetError, ImageError, TerrazzoError
from terrazzo.models.segmenter import Segmenter
from terrazzo.notes import note
from terrazzo.text import shown_path
from terrazzo.training.bands import bands_to_choose
from terrazzo.training.distributed import ranks_here
from terrazzo.training.memory_plan import in_words
from terrazzo.training.optim import optimizer_states
from terrazzo.training.recipe import Recipe

__all__ = ["disk_lines", "fitting_workers", "refuse", "refuse_unreadable", "usual_workers"]

SHARED_MEMORY = Path("/dev/shm")
MOST_WORKERS = 8
SHOWN = 5  # files named in one error

PICTURES = 10_000_000
"""Bytes for a run's plots, sheets, tables and logs."""


def refuse_unreadable(splits: Sequence[Dataset], *, decode: bool) -> None:
    """Read the header of every photo, or every photo and mask in full; and the first photo of each split in any case.

    What may have been meant otherwise in that one, such as 12 bits in a 16-bit file, is told as a note.

    Args:
        splits: what the run is going to read.
        decode: in full, which also finds damage behind the header, and takes as long as one epoch's reading.

    Raises:
        TerrazzoError: that of the one file that cannot be used; or a DatasetError that names the first few of several.
    """
    failures: list[TerrazzoError] = []
    for split in splits:
        _look_at_first(split)
    for split in splits:
        found = in_threads(partial(_failure, split.read if decode else partial(_header, split)), range(len(split)))
        failures += [error for error in found if error is not None]
    refuse(failures)


def refuse(failures: Sequence[TerrazzoError]) -> None:
    """Raise the error of a file that cannot be used, or one that names the first few of several."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        shown = "; ".join(error.message for error in failures[:SHOWN])
        more = f"; and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        raise DatasetError(
            f"{len(failures)} photos or masks cannot be used: {shown}{more}",
            fix="replace these files, or take them out of the data set; `terrazzo check-data` lists them all",
            code="dataset-unreadable",
        )


def usual_workers() -> int:
    """Loader processes where none are asked for: one for each core of this process but one, from 1 to 8."""
    cores = len(os.sched_getaffinity(0)) // ranks_here()
    return min(max(cores - 1, 1), MOST_WORKERS)


def fitting_workers(workers: int, recipe: Recipe, world_size: int, *, asked_for: bool) -> tuple[int, list[str]]:
    """Fit the number of loader processes into the shared memory that they hand batches over in.

    Containers often have 64 MB of it, less than one batch.

    Args:
        workers: how many there should be.
        recipe: says how large a batch is.
        world_size: processes that share it.
        asked_for: whether the user named the number, which is then kept.

    Returns:
        The number to use, and lines that say why it is another, or that the one asked for may not fit.
    """
    free = _free_bytes(SHARED_MEMORY)
    batch = recipe.run.batch_size // world_size

    def needed(count: int) -> int:
        channels = recipe.data.preprocess.in_channels
        bytes_here = shared_bytes(count, batch, recipe.crop, channels)
        if recipe.unlabelled is not None:  # photos without masks come in two views, from as many processes again
            bytes_here += shared_bytes(count, batch * recipe.unlabelled.ratio, recipe.crop, 2 * channels)
        return bytes_here * ranks_here()

    if free is None or needed(workers) <= free:
        return workers, []
    space = f"{SHARED_MEMORY} has {in_words(free)} free, and {workers} loader processes take up to"
    if asked_for:
        way_out = "use fewer --workers, or give a container more, as in `docker run --shm-size=2g`"
        return workers, [f"warning   {space} {in_words(needed(workers))}: {way_out}"]
    fitting = max(count for count in range(workers) if needed(count) <= free)
    instead = "photos are loaded in the training process" if fitting == 0 else f"{fitting} of them are used"
    way_out = "a container gets more with `docker run --shm-size=2g`"
    return fitting, [f"warning   {space} {in_words(needed(workers))}: {instead}; {way_out}"]


def disk_lines(model: Segmenter, recipe: Recipe, output: Path) -> list[str]:
    """Say how much disk a run takes and how much is free, and warn where that is not enough."""
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    checkpoint = weights * (1 + optimizer_states(recipe.optimizer) + (recipe.run.ema_decay is not None))
    # Two generations of checkpoints and one model stay, and the next of each is written beside them.
    needed = 3 * checkpoint + 2 * weights + PICTURES
    free = _free_bytes(output)
    if free is None:
        return [f"disk      about {in_words(needed)}"]
    line = f"disk      about {in_words(needed)} in {shown_path(output)}, {in_words(free)} free"
    return [line] if needed <= free else [line, "warning   that is not enough: free some, or choose another --output"]


def _look_at_first(split: Dataset) -> None:
    image = split.samples[0].image.with_reading(split.reading)
    try:
        _, remarks = image.read_with_remarks()
    except ImageError as error:
        if error.code == "image-bands":
            raise bands_to_choose(error) from error
        return  # the others are told together with it
    for remark in remarks:
        note(f"{split.split}, {image.name}: {remark}; training takes photos as they are: convert them, or use --bands")


def _header(split: Dataset, index: int) -> None:
    _ = split.samples[index].image.with_reading(split.reading).size


def _failure(read: Callable[[int], object], index: int) -> TerrazzoError | None:
    try:
        read(index)
    except TerrazzoError as error:
        return error
    return None


def _free_bytes(place: Path) -> int | None:
    """Free space of the file system that a path lies, or will lie, on; None where that cannot be told."""
    try:
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        return shutil.disk_usage(there).free
    except (OSError, StopIteration):
        return None
