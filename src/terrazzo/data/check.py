"""Looking a whole data set over before training: counts, sizes, classes, and everything that is wrong with it.

Every photo and every mask is read once, in a few threads, and only numbers are kept. A broken file never ends the
check: it becomes one more problem. Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.classes import LABELS_FILE, guess_labels, known_labels
from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.detect import find_layout
from terrazzo.data.layout import Layout
from terrazzo.data.masks import Stored, read_mask
from terrazzo.data.pair_check import PairFacts, examine
from terrazzo.data.problems import Problem, Severity
from terrazzo.errors import DatasetError, LabelError
from terrazzo.images import ReadOptions
from terrazzo.labels import LabelSpec
from terrazzo.text import list_names, shown_path

__all__ = ["ClassCount", "DatasetCheck", "Sizes", "SplitCheck", "check_dataset", "count_pixels"]

THREADS = 4
CHUNK = 256  # pairs handed to the threads at once
MOST_VALUES = 256  # stored values listed where they are no classes
SHOWN_FILES = 10  # in the message of one error

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ClassCount:
    """How much of a split one class fills: pixels, and photos with at least one pixel of it."""

    name: str
    pixels: int
    photos: int


@dataclass(frozen=True)
class Sizes:
    """The (height, width) of photos, ordered by area, and how many different ones there are."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    distinct: int


@dataclass(frozen=True)
class SplitCheck:
    """One split in numbers.

    Attributes:
        name: such as ``train``.
        photos: pairs of photo and mask.
        sizes: of the photos that can be read; None if there are none.
        classes: one count per class; without usable labels one per stored value, the most frequent first.
        labelled_pixels: pixels that carry a label.
        ignored_pixels: pixels whose label is to be ignored.
        unexplained: what masks hold and the labels do not name, the most frequent first.
    """

    name: str
    photos: int
    sizes: Sizes | None
    classes: tuple[ClassCount, ...]
    labelled_pixels: int
    ignored_pixels: int
    unexplained: tuple[ClassCount, ...]


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_dataset` found.

    Attributes:
        root: the data set's folder.
        layout: what it was taken for, in words.
        labels: the classes, or None where they cannot be told.
        labels_from: where they come from: ``given``, ``labels.yaml``, ``layout`` or ``guessed``.
        splits: train, val and test first.
        problems: errors first, then warnings, then notes.
    """

    root: Path
    layout: str
    labels: LabelSpec | None
    labels_from: str
    splits: tuple[SplitCheck, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be put right before training."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is worth a look."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def relative(self, file: Path) -> str:
        """Write a file's path as seen from the root."""
        return shown_path(file.relative_to(self.root) if file.is_relative_to(self.root) else file)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; files are relative to the root."""
        return {
            "root": shown_path(self.root),
            "layout": self.layout,
            "ready": not self.errors,
            "labels": None if self.labels is None else self.labels.to_dict(),
            "labels_from": self.labels_from,
            "splits": [
                {
                    **vars(split),
                    "sizes": None if split.sizes is None else dict(vars(split.sizes)),
                    "classes": [dict(vars(count)) for count in split.classes],
                    "unexplained": [dict(vars(count)) for count in split.unexplained],
                }
                for split in self.splits
            ],
            "problems": [
                {**vars(problem), "file": None if problem.file is None else self.relative(problem.file)}
                for problem in self.problems
            ],
        }


def check_dataset(
    root: str | Path,
    labels: LabelSpec | None = None,
    strict: bool = False,
    *,
    reading: ReadOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetCheck:
    """Read every pair of every split of a data set, and report what is there and what is wrong.

    Args:
        root: the data set's folder; see `terrazzo.data.find_layout`.
        labels: the classes; by default ``labels.yaml``, else those of a known data set, else as many numbered classes
            as the masks show.
        strict: count it as an error that two splits share a photo.
        reading: how photos are read, where their files leave that open.
        progress: called with (pairs read, pairs in all).

    Raises:
        DatasetError: the folder is not there, or has no layout that is known.
        MissingExtraError: reading it needs an optional package.
    """
    layout = find_layout(root)
    root, names = layout.root, layout.splits
    problems: list[Problem] = []
    labels, labels_from = _known_labels(layout, labels, problems)
    samples = {name: _listed(layout, name, problems) for name in names}
    tallies = {name: _Tally() for name in names}
    first_seen: dict[bytes, tuple[str, str]] = {}
    done, total = 0, sum(map(len, samples.values()))
    for name in names:
        for facts in _in_threads(partial(examine, labels=labels, reading=reading), samples[name]):
            tallies[name].add(facts)
            problems += facts.problems
            problems += _seen_before(facts, name, first_seen, "error" if strict else "warning")
            done += 1
            if progress is not None:
                progress(done, total)
    if labels_from == "guessed":
        labels = _guessed_labels(root, tallies, problems)
    found = tuple(tally.split_check(name, len(samples[name]), labels) for name, tally in tallies.items())
    problems += _missing_splits(names)
    if labels is not None:
        problems += _absent_classes(found)
    for name, tally in tallies.items():
        problems += tally.notes(name)
    problems.sort(key=lambda problem: ("error", "warning", "note").index(problem.severity))
    return DatasetCheck(root, layout.name, labels, labels_from, found, tuple(problems))


def count_pixels(dataset: Dataset) -> NDArray[np.int64]:
    """Count the (K,) pixels of each class in a split, and so make sure of its masks before training starts.

    Raises:
        DatasetError: some masks cannot be used; the message lists files, values and counts.
    """
    K = dataset.labels.num_classes
    totals, errors = np.zeros(K, dtype=np.int64), []

    def count(sample: Sample) -> NDArray[np.int64] | DatasetError:
        try:
            return np.bincount(read_mask(sample.mask, dataset.labels).ravel(), minlength=K)[:K]
        except DatasetError as error:
            return error

    for counts in _in_threads(count, dataset.samples):
        if isinstance(counts, DatasetError):
            errors.append(counts)
        else:
            totals += counts
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = "; ".join(error.message for error in errors[:SHOWN_FILES])
        more = f"; and {len(errors) - SHOWN_FILES} more" if len(errors) > SHOWN_FILES else ""
        raise DatasetError(
            f"{len(errors)} masks of {dataset.split} cannot be used: {shown}{more}",
            fix=f"{errors[0].fix}; `terrazzo check-data {shown_path(dataset.root)}` lists them all",
            code=errors[0].code,
        )
    return totals


class _Tally:
    """Running sums over the pairs of one split."""

    def __init__(self) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.pixels: Counter[Stored] = Counter()
        self.photos: Counter[Stored] = Counter()
        self.unexplained_pixels: Counter[Stored] = Counter()
        self.unexplained_photos: Counter[Stored] = Counter()
        self.turned = self.palettes = 0

    def add(self, facts: PairFacts) -> None:
        if facts.size is not None:
            self.sizes[facts.size] += 1
        self.pixels.update(facts.counts)
        self.photos.update(facts.counts.keys())
        self.unexplained_pixels.update(facts.unexplained)
        self.unexplained_photos.update(facts.unexplained.keys())
        self.turned += facts.is_turned
        self.palettes += facts.has_palette

    def split_check(self, name: str, photos: int, labels: LabelSpec | None) -> SplitCheck:
        if labels is None:
            frequent = self.pixels.most_common(MOST_VALUES)
            classes = tuple(ClassCount(_name(key), pixels, self.photos[key]) for key, pixels in frequent)
            labelled, ignored = self.pixels.total(), 0
        else:
            classes = tuple(ClassCount(n, self.pixels[k], self.photos[k]) for k, n in enumerate(labels.names))
            labelled, ignored = sum(count.pixels for count in classes), self.pixels[labels.ignore_index]
        unexplained = tuple(
            ClassCount(_name(key), pixels, self.unexplained_photos[key])
            for key, pixels in self.unexplained_pixels.most_common(MOST_VALUES)
        )
        return SplitCheck(name, photos, self._summary_of_sizes(), classes, labelled, ignored, unexplained)

    def notes(self, split: str) -> Iterator[Problem]:
        """Say how files were read that can be read in two ways."""
        if self.palettes:
            message = (
                f"palette images among the masks of {split}: {self.palettes}; their indices count, not their colours"
            )
            yield Problem("note", "mask-palette", None, message, "nothing to do if the indices are the classes")
        if self.turned:
            message = f"photos of {split} turned by EXIF orientation: {self.turned}; they are read as viewers show them"
            yield Problem("note", "photo-turned", None, message, "make sure that their masks were drawn on that view")

    def _summary_of_sizes(self) -> Sizes | None:
        if not self.sizes:
            return None
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        middle, passed = (self.sizes.total() + 1) // 2, 0
        for median in ordered:
            passed += self.sizes[median]
            if passed >= middle:
                break
        return Sizes(ordered[0], median, ordered[-1], len(ordered))


def _name(key: Stored) -> str:
    return f"colour {key}" if isinstance(key, tuple) else f"value {key}"


def _known_labels(layout: Layout, given: LabelSpec | None, problems: list[Problem]) -> tuple[LabelSpec | None, str]:
    """Return the labels that stand before any mask is read, and where they come from."""
    try:
        return known_labels(layout, given)
    except (LabelError, DatasetError) as error:
        by_file = error.message.startswith(shown_path(layout.root / LABELS_FILE))
        file = layout.root / LABELS_FILE if by_file else layout.marker
        problems.append(Problem.from_error(error, file))
        return None, LABELS_FILE if by_file else "layout"


def _guessed_labels(root: Path, tallies: dict[str, _Tally], problems: list[Problem]) -> LabelSpec | None:
    values = {key for tally in tallies.values() for key in tally.pixels if isinstance(key, int)}
    if not values:
        return None  # every mask is in colour or cannot be read: each is a problem already
    try:
        return guess_labels(root, values)
    except DatasetError as error:
        problems.append(replace(Problem.from_error(error, root), file=None))
        return None


def _listed(layout: Layout, split: str, problems: list[Problem]) -> list[Sample]:
    try:
        samples, found = layout.pairs(split)
    except DatasetError as error:
        file = next((f for f in (layout.root / split, layout.marker) if error.message.startswith(shown_path(f))), None)
        problems.append(replace(Problem.from_error(error, file or layout.root), file=file))
        return []
    problems += found
    return samples


def _seen_before(
    facts: PairFacts, split: str, first_seen: dict[bytes, tuple[str, str]], severity: Severity
) -> Iterator[Problem]:
    """Say so where another split has a photo of the same pixels."""
    if facts.fingerprint is not None:
        photo = facts.sample.image
        other, twin = first_seen.setdefault(facts.fingerprint, (split, photo.name))
        if other != split:
            message = f"{photo.part}shows the same as {shown_path(twin)} in {other}"
            fix = "keep each photo in one split: scores on photos that were learnt from mean nothing"
            yield Problem(severity, "split-overlap", photo.file, message, fix)


def _missing_splits(names: Sequence[str]) -> Iterator[Problem]:
    if "train" not in names:
        fix = "add it, or name the split to learn from in a recipe"
        yield Problem("error", "dataset-split", None, "there is no split 'train' to learn from", fix)
    if "val" not in names:
        fix = "move some pairs there, a tenth of all, or train with --holdout"
        yield Problem("error", "dataset-split", None, "there is no split 'val' to choose the best epoch by", fix)


def _absent_classes(splits: Sequence[SplitCheck]) -> Iterator[Problem]:
    absent = {split.name: [count.name for count in split.classes if not count.pixels] for split in splits}
    for split in splits:
        if split.ignored_pixels and not split.labelled_pixels:
            message = f"every pixel of every mask of {split.name} is ignored"
            yield Problem("error", "dataset-unlabelled", None, message, "correct the masks, or what their values mean")
        elif (names := absent[split.name]) and split.labelled_pixels:
            what = "cannot be learnt" if split.name == "train" else "has no IoU there, and is left out of the mean"
            message = f"no pixel of {split.name} shows {list_names(names)}: what is not there {what}"
            fix = f"move photos that show them into {split.name}, or take the classes off the list"
            yield Problem("warning", "class-absent", None, message, fix)


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield results in order, with a bounded number of items under way."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(items), CHUNK):
            yield from pool.map(work, items[start : start + CHUNK])
