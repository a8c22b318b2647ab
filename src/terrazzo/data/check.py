"""Check of a whole data set before training: counts, sizes, classes, and everything that is wrong with it.

Every photo and every mask is read once, in a few threads, and only numbers are kept. A broken file never ends the
check: it becomes one more problem. Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from terrazzo.arguments import checked
from terrazzo.data.bands import BandStatistics, rule_for
from terrazzo.data.check_result import BandCheck, ClassCount, DatasetCheck, Sizes, SplitCheck
from terrazzo.data.classes import LABELS_FILE, doubts, guess_labels, known_labels
from terrazzo.data.dataset import Sample
from terrazzo.data.detect import find_layout
from terrazzo.data.folders import USUAL_SPLITS
from terrazzo.data.layout import Layout
from terrazzo.data.mask_evidence import MaskEvidence
from terrazzo.data.masks import Stored
from terrazzo.data.pair_check import PairFacts, examine
from terrazzo.data.pixel_counts import in_threads
from terrazzo.data.problems import Problem, Severity
from terrazzo.data.rules import DataRules, with_rules
from terrazzo.errors import DatasetError, ImageError, LabelError, TerrazzoError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import list_names, show, shown_path

__all__ = ["check_dataset"]

MOST_VALUES = 256  # stored values listed where they are not classes


@checked
def check_dataset(
    root: str | Path,
    labels: LabelSpec | None = None,
    strict: bool = False,
    *,
    rules: DataRules | None = None,
    reading: ReadOptions | None = None,
    bands: Sequence[int | str] | None = None,
    nodata: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetCheck:
    """Read every pair of every split of a data set, and report what is there and what is wrong.

    Args:
        root: the data set's folder; see `terrazzo.data.find_layout`.
        labels: the classes; by default ``labels.yaml``, else those of a known data set, else as many numbered classes
            as the masks show.
        strict: count it as an error that two splits share a photo.
        rules: how to read what the data set leaves open, as a recipe says it.
        reading: how photos are read, where their files leave that open.
        bands: the bands that a network is to read, by number from 1 or by name; by default photos, 8-bit RGB.
        nodata: with `bands`, the number that stands for "no measurement", beside what the images' headers say.
        progress: called with (pairs read, pairs in all).

    Raises:
        DatasetError: the folder is not there, or has no layout that is known.
        ConfigError: there is nothing to which a rule applies.
        MissingExtraError: reading it needs an optional package.
    """
    layout = with_rules(find_layout(root), rules or DataRules())
    root, names = layout.root, layout.splits
    problems: list[Problem] = []
    labels, labels_from = _known_labels(layout, labels, problems)
    samples = {name: _listed(layout, name, problems) for name in names}
    rule = None if bands is None else _rule(samples, bands, nodata, problems)
    if rule is not None:
        reading = replace(reading or ReadOptions(), rule=rule)
    tallies = {name: _Tally() for name in names}
    evidence = MaskEvidence()
    first_seen: dict[bytes, tuple[str, str]] = {}
    done, total = 0, sum(map(len, samples.values()))
    for name in names:
        for facts in in_threads(partial(examine, labels=labels, reading=reading), samples[name]):
            tallies[name].add(facts)
            evidence.add(facts.sample.mask, facts.look)
            problems += facts.problems
            problems += _seen_before(facts, name, first_seen, "error" if strict else "warning")
            done += 1
            if progress is not None:
                progress(done, total)
    if labels_from == "guessed":
        labels = _guessed_labels(root, tallies, evidence, problems)
    problems += evidence.problems(labels)
    found = tuple(tally.split_check(name, len(samples[name]), labels, rule) for name, tally in tallies.items())
    problems += _missing_splits(names)
    problems += _empty_bands(found)
    if labels is not None:
        pixels = sum((tally.pixels for tally in tallies.values()), Counter[Stored]())
        problems += doubts(labels, pixels, evidence.values)
        problems += _absent_classes(found, is_read=not any(problem.severity == "error" for problem in problems))
    for name, tally in tallies.items():
        problems += tally.notes(name)
        if labels is not None and labels_from != "layout":
            problems += tally.unlabelled(name, labels)
    problems = list(dict.fromkeys(problems))  # what is wrong with a document is met by all that read it
    problems.sort(key=lambda found: (("error", "warning", "note").index(found.severity), found.file is not None))
    return DatasetCheck(root, layout.name, labels, labels_from, found, tuple(problems))


class _Tally:
    """Running sums over the pairs of one split."""

    def __init__(self) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.pixels: Counter[Stored] = Counter()
        self.images: Counter[Stored] = Counter()
        self.unexplained_pixels: Counter[Stored] = Counter()
        self.unexplained_images: Counter[Stored] = Counter()
        self.turned = self.palettes = 0
        self.stored: Counter[str] = Counter()
        self.statistics: BandStatistics | None = None

    def add(self, facts: PairFacts) -> None:
        if facts.size is not None:
            self.sizes[facts.size] += 1
        self.pixels.update(facts.counts)
        self.images.update(facts.counts.keys())
        self.unexplained_pixels.update(facts.unexplained)
        self.unexplained_images.update(facts.unexplained.keys())
        self.turned += facts.is_turned
        self.palettes += facts.has_palette
        if facts.stored:
            self.stored[facts.stored] += 1
        if self.statistics is None:
            self.statistics = facts.statistics
        elif facts.statistics is not None:
            self.statistics.merge(facts.statistics)

    def split_check(self, name: str, images: int, labels: LabelSpec | None, rule: BandRule | None) -> SplitCheck:
        if labels is None:
            frequent = self.pixels.most_common(MOST_VALUES)
            classes = tuple(ClassCount(_name(key), pixels, self.images[key]) for key, pixels in frequent)
            labelled, ignored = self.pixels.total(), 0
        else:
            classes = tuple(ClassCount(n, self.pixels[k], self.images[k]) for k, n in enumerate(labels.names))
            labelled, ignored = sum(count.pixels for count in classes), self.pixels[labels.ignore_index]
        unexplained = tuple(
            ClassCount(_name(key), pixels, self.unexplained_images[key])
            for key, pixels in self.unexplained_pixels.most_common(MOST_VALUES)
        )
        sizes, stored, bands = self._summary_of_sizes(), dict(self.stored.most_common()), self._bands(rule)
        return SplitCheck(name, images, sizes, classes, labelled, ignored, unexplained, stored, bands)

    def _bands(self, rule: BandRule | None) -> tuple[BandCheck, ...]:
        found = self.statistics
        if rule is None or found is None:
            return ()
        names = rule.names or ("",) * len(rule.chosen)
        lowest, highest = (np.where(found.count > 0, ends, 0.0) for ends in (found.lowest, found.highest))
        numbers = zip(lowest, highest, found.mean, found.std, found.gaps, strict=True)
        return tuple(
            BandCheck(band, name, *map(float, values))
            for band, name, values in zip(rule.chosen, names, numbers, strict=True)
        )

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

    def unlabelled(self, split: str, labels: LabelSpec) -> Iterator[Problem]:
        """Say how much the masks leave out by the value that means unlabelled unless `map:` says otherwise."""
        void = labels.ignore_index
        if labels.id_map is None and labels.colors is None and (pixels := self.pixels[void]):
            share = 100 * pixels / self.pixels.total()
            message = (
                f"{void} is read as unlabelled: {share:.2g}% of the pixels of {split}, in {self.images[void]} masks"
            )
            fix = f"nothing to do if it is; if {void} is a class, say so in `map:` of {LABELS_FILE}"
            yield Problem("note", "mask-unlabelled", None, message, fix)

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
        document = layout.root / LABELS_FILE
        problems.append(_of_named_file(error, document, layout.marker))
        return None, LABELS_FILE if error.message.startswith(shown_path(document)) else "layout"


def _of_named_file(error: TerrazzoError, *files: Path) -> Problem:
    """Record an error of the file among these that it names at its beginning, or else of the whole data set."""
    file = next((file for file in files if error.message.startswith(shown_path(file))), None)
    return Problem.from_error(error, file) if file else Problem("error", error.code, None, error.message, error.fix)


def _guessed_labels(
    root: Path, tallies: dict[str, _Tally], evidence: MaskEvidence, problems: list[Problem]
) -> LabelSpec | None:
    pixels = sum((tally.pixels for tally in tallies.values()), Counter[Stored]())
    if not any(isinstance(key, int) for key in pixels):
        return None  # every mask is in colour or cannot be read: each is a problem already
    try:
        return guess_labels(root, pixels, evidence)
    except DatasetError as error:
        problems.append(replace(Problem.from_error(error, root), file=None))
        return None


def _rule(
    samples: Mapping[str, Sequence[Sample]],
    bands: Sequence[int | str],
    nodata: float | None,
    problems: list[Problem],
) -> BandRule | None:
    """Return how the chosen bands are read, by the header of the first image."""
    first = next((listed[0].image for listed in samples.values() if listed), None)
    try:
        return None if first is None else rule_for(first, bands, nodata)
    except ImageError as error:
        problems.append(Problem.from_error(error, first.file if first is not None else Path()))
        return None


def _listed(layout: Layout, split: str, problems: list[Problem]) -> list[Sample]:
    try:
        samples, found = layout.pairs(split)
    except DatasetError as error:
        problems.append(_of_named_file(error, layout.root / split, layout.marker))
        return []
    problems += found
    return samples


def _seen_before(
    facts: PairFacts, split: str, first_seen: dict[bytes, tuple[str, str]], severity: Severity
) -> Iterator[Problem]:
    """Say so where another split has a photo of the same pixels."""
    if facts.fingerprint is not None:
        image = facts.sample.image
        other, twin = first_seen.setdefault(facts.fingerprint, (split, image.name))
        if other != split:
            message = f"{image.part}shows the same as {shown_path(twin)} in {other}"
            fix = "keep each photo in one split: scores on photos that were learnt from mean nothing"
            yield Problem(severity, "split-overlap", image.file, message, fix)


def _empty_bands(splits: Sequence[SplitCheck]) -> Iterator[Problem]:
    for split in splits:
        if empty := [str(band.band) for band in split.bands if band.gaps == 1]:
            message = f"band {', '.join(empty)} has no value in any image of {split.name}"
            severity: Severity = "error" if split.name == "train" else "warning"
            fix = "leave it out of --bands, or correct --nodata"
            yield Problem(severity, "dataset-bands", None, message, fix)


def _missing_splits(names: Sequence[str]) -> Iterator[Problem]:
    if len(names) == 1 and names[0] not in USUAL_SPLITS:
        message, fix = "nobody has split the photos into train and val", "add --val 0.1, here and to `terrazzo train`"
        yield Problem("error", "dataset-split", None, message, fix)
        return
    if "train" not in names:
        fix = "add it, or name the split to learn from with --train-split"
        yield Problem("error", "dataset-split", None, "there is no split 'train' to learn from", fix)
    if "val" not in names:
        fix = "split off a tenth of train with --val 0.1, or name another split with --val-split"
        yield Problem("error", "dataset-split", None, "there is no split 'val' to choose the best epoch by", fix)


def _absent_classes(splits: Sequence[SplitCheck], *, is_read: bool) -> Iterator[Problem]:
    """Say which classes a split lacks; that training has but one is certain only where every mask could be read."""
    absent = {split.name: [count.name for count in split.classes if not count.pixels] for split in splits}
    for split in splits:
        if split.ignored_pixels and not split.labelled_pixels:
            message = f"every pixel of every mask of {split.name} is ignored"
            yield Problem("error", "dataset-unlabelled", None, message, "correct the masks, or what their values mean")
        elif is_read and split.name == "train" and len(absent["train"]) == len(split.classes) - 1:
            there = next(count.name for count in split.classes if count.pixels)
            message = f"every labelled pixel of train is {show(there)}: there is nothing to tell apart"
            fix = f"add photos that show other classes, or correct what values mean in `map:` of {LABELS_FILE}"
            yield Problem("error", "dataset-classes", None, message, fix)
        elif (names := absent[split.name]) and split.labelled_pixels:
            what = "cannot be learnt" if split.name == "train" else "has no IoU there, and is left out of the mean"
            message = f"no pixel of {split.name} shows {list_names(names)}: what is not there {what}"
            fix = f"move photos that show them into {split.name}, or take the classes off the list"
            yield Problem("warning", "class-absent", None, message, fix)
