"""Pixels of each class in a split; counting them also checks every mask before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.classes import doubts
from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.mask_evidence import NEAREST_FIX, Look, MaskEvidence, look_at
from terrazzo.data.masks import Stored, count_stored, read_mask
from terrazzo.errors import DatasetError
from terrazzo.notes import note
from terrazzo.text import first_few, shown_path

__all__ = ["count_pixels", "in_threads"]

THREADS = 4
CHUNK = 256  # pairs handed to the threads at once
SHOWN_FILES = 10  # in the message of one error

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_pixels(dataset: Dataset) -> NDArray[np.uint32]:
    """Count the (N, K) pixels of each class in each photo of a split, and check its masks.

    Raises:
        DatasetError: some masks cannot be used; the message lists files, values and counts.
    """
    K, ignore = dataset.labels.num_classes, dataset.labels.ignore_index
    pixels_NK = np.zeros((len(dataset), K), dtype=np.uint32)
    totals, errors = np.zeros(ignore + 1, dtype=np.int64), []
    evidence = MaskEvidence()

    def count(sample: Sample) -> tuple[Look, NDArray[np.int64] | DatasetError]:
        look = Look()
        try:
            stored = sample.mask.read()
            if stored.values.ndim == 2:
                look = look_at(stored, count_stored(stored.values))
            return look, np.bincount(read_mask(sample.mask, dataset.labels, stored).ravel(), minlength=ignore + 1)
        except DatasetError as error:
            return look, error

    for place, (look, counts) in enumerate(in_threads(count, dataset.samples)):
        evidence.add(dataset.samples[place].mask, look)
        if isinstance(counts, DatasetError):
            errors.append(counts)
        else:
            totals += counts
            pixels_NK[place] = counts[:K]
    _refuse_doubtful(dataset, evidence, totals)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = first_few((error.message for error in errors), SHOWN_FILES, "; ")
        raise DatasetError(
            f"{len(errors)} masks of {dataset.split} cannot be used: {shown}",
            fix=f"{errors[0].fix}; `terrazzo check-data {shown_path(dataset.root)}` lists them all",
            code=errors[0].code,
        )
    return pixels_NK


def _refuse_doubtful(dataset: Dataset, evidence: MaskEvidence, totals: NDArray[np.int64]) -> None:
    """Refuse numbers that are something else than the names say; tell what may be."""
    labels, where = dataset.labels, f"{shown_path(dataset.root)}: {dataset.split}: "
    pixels: dict[Stored, int] = {k: int(totals[k]) for k in np.flatnonzero(totals).tolist()}
    soft = 0
    for problem in (*doubts(labels, pixels, evidence.values), *evidence.problems(labels)):
        if problem.severity == "error":
            told = str(problem) if problem.file is not None else f"{where}{problem.message}"
            raise DatasetError(told, fix=problem.fix, code=problem.code)
        if problem.file is None:
            note(f"{where}{problem.message}; {problem.fix}")
        soft += problem.code == "mask-soft"
    if soft:
        note(f"{where}{soft} of {evidence.masks} masks have borders that run through classes in between; {NEAREST_FIX}")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield results in order, with a bounded number of items under way."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(items), CHUNK):
            yield from pool.map(work, items[start : start + CHUNK])
