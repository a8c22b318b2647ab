"""Images a second that training's loaders give by themselves, without a network: what a fast device can be fed.

    python benchmarks/loader.py --data CAMVID
    python benchmarks/loader.py --data CAMVID --workers 0,1,2 --crop 512

The recipe is the one that `terrazzo train --data ...` makes. Batches are taken as fast as they come, after a first
epoch in which the loader processes start.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from measure import header, publish, table
from terrazzo.data.loaders import Batch, TrainLoader
from terrazzo.training.augment import Augmentation
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.decoded import decoded_where_they_fit
from terrazzo.training.train import recipe_for

MODEL = "segformer_b0"
EPOCHS = 3  # timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    options = parser.parse_args()
    recipe, _ = recipe_for(options.data, MODEL, {})
    recipe = recipe.changed({"run.batch_size": options.batch_size, "crop": (options.crop, options.crop)})
    from_files, _ = open_splits(recipe.data, options.data)
    (decoded, _), _ = decoded_where_they_fit((from_files, from_files))
    pixels_NK = labelled_pixels(from_files)
    rows = []
    for name, split in (("decoded from files in every epoch", from_files), ("kept decoded in memory", decoded)):
        augment = Augmentation(recipe.augment, split.read, pixels_NK, split.labels.ignore_index)
        for workers in map(int, options.workers.split(",")):
            loader = TrainLoader(
                split, augment, recipe.data.preprocess, recipe.crop, recipe.run.batch_size, recipe.run.seed, workers
            )
            count = loader.batches_per_epoch
            with closing(loader.batches(0, 0, (EPOCHS + 1) * count)) as batches:
                seconds = drained(batches, count, EPOCHS * count)
            rows.append([name, workers, f"{EPOCHS * count * options.batch_size / seconds:.1f}"])
    timing = f"Wall time, windows of {options.crop} x {options.crop} in batches of {options.batch_size}."
    command = "python benchmarks/loader.py --data CAMVID --write"
    text = header(f"The loaders alone, {len(from_files)} photos", command, timing=timing) + "\n"
    publish("loader", text + table(["photos", "loader processes", "images a second"], rows), options.write)


def drained(batches: Iterator[Batch], before: int, count: int) -> float:
    """Return the seconds that some batches take, after others that are not counted."""
    for _ in islice(batches, before):
        pass
    started = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
