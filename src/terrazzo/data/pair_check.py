"""Check of one pair of photo and mask: what it holds, and what is wrong with it. It runs in threads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from terrazzo.data.bands import BandStatistics
from terrazzo.data.classes import LABELS_FILE, undecoded_colors
from terrazzo.data.dataset import Sample, check_sizes
from terrazzo.data.mask_evidence import NEAREST_FIX, Look, is_soft, look_at
from terrazzo.data.masks import Stored, StoredMask, class_of_stored, count_stored
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError, ImageError, LabelError
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import LabelSpec
from terrazzo.labels.validation import list_counts

__all__ = ["PairFacts", "examine"]

MOST_UNEXPLAINED = 64  # values or colours kept of one mask, so that a photo in place of a mask does not fill the memory


@dataclass
class PairFacts:
    """What was found in one pair.

    Attributes:
        sample: the files.
        size: (height, width) of the photo, None if it cannot be read.
        fingerprint: equal for photos of equal pixels; None if it cannot be read.
        is_turned: the photo's EXIF data turn or mirror it.
        has_palette: the mask is a palette image.
        look: what the mask looks like as a picture.
        counts: pixels by class index or ignore index, or, without labels, by stored value.
        unexplained: pixels by stored value or colour that the labels do not name.
        problems: errors and warnings.
        stored: the image's bands and kind of numbers, such as ``4 of uint16``.
        statistics: of the bands that were chosen.
    """

    sample: Sample
    size: tuple[int, int] | None = None
    fingerprint: bytes | None = None
    is_turned: bool = False
    has_palette: bool = False
    look: Look = field(default_factory=Look)
    counts: dict[Stored, int] = field(default_factory=dict)
    unexplained: dict[Stored, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    stored: str = ""
    statistics: BandStatistics | None = None


def examine(sample: Sample, labels: LabelSpec | None, reading: ReadOptions | None = None) -> PairFacts:
    """Read a pair once; whatever is wrong with it is recorded."""
    facts = PairFacts(sample)
    _examine_image(facts, reading)
    _examine_mask(facts, labels)
    return facts


def _examine_image(facts: PairFacts, reading: ReadOptions | None) -> None:
    reading = reading or ReadOptions()
    image, rule = facts.sample.image.with_reading(reading), reading.rule
    try:
        bands = image.stored
        facts.stored = f"{bands.count} of {bands.dtype or 'other numbers'}"
        pixels, remarks = image.read_with_remarks()
        facts.is_turned = image.is_turned
    except ImageError as error:
        facts.problems.append(Problem.from_error(error, image.file))
        return
    if rule is not None:
        facts.statistics = BandStatistics(len(rule.chosen))
        facts.statistics.add(pixels)  # type: ignore[arg-type]
    for remark in remarks:
        fix = "look at the photo as it was read, and say how to read it if that is wrong"
        facts.problems.append(Problem("warning", "photo-reading", image.file, f"{image.part}{remark}", fix))
    height, width = facts.size = pixels.shape[:2]
    facts.fingerprint = hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=f"{height} {width}".encode()).digest()


def _examine_mask(facts: PairFacts, labels: LabelSpec | None) -> None:
    mask = facts.sample.mask
    try:
        stored = mask.read()
    except DatasetError as error:
        facts.problems.append(Problem.from_error(error, mask.file))
        return
    facts.has_palette = stored.has_palette
    try:
        if facts.size is not None:
            check_sizes(facts.sample, facts.size, stored.values.shape[:2])
    except DatasetError as error:
        facts.problems.append(Problem.from_error(error, mask.file))
    if stored.empty:
        message, fix = f"{mask.part}{stored.empty} objects fill no pixel of the photo", "remove them, or correct them"
        facts.problems.append(Problem("warning", "outline-empty", mask.file, message, fix))
    counts = count_stored(stored.values)
    facts.look = look_at(stored, counts)
    if labels is not None:
        _explain(facts, counts, labels, stored)
    elif stored.values.ndim == 3:
        problem = Problem.from_error(undecoded_colors(mask, counts), mask.file)
        if is_soft(stored.values):
            told = f"{problem.message}, with colours between others along borders"
            problem = replace(problem, message=told, fix=f"{NEAREST_FIX}; {problem.fix}")
        facts.problems.append(problem)
        facts.counts = _first(counts)
    else:
        facts.counts = counts
        _warn_if_unlabelled(facts, labelled=counts.keys() - {255})


def _explain(facts: PairFacts, counts: dict[Stored, int], labels: LabelSpec, stored_mask: StoredMask) -> None:
    mask = facts.sample.mask
    try:
        meaning = class_of_stored(counts, labels, is_gray_color=stored_mask.is_gray_color)
    except LabelError as error:
        facts.problems.append(Problem("error", "mask-values", mask.file, f"{mask.part}{error.message}", error.fix))
        return
    unexplained = {}
    for stored, pixels in counts.items():
        target = meaning[stored]
        if target is None:
            unexplained[stored] = pixels
        else:
            facts.counts[target] = facts.counts.get(target, 0) + pixels
    if unexplained:
        what, key = ("colours", "colors") if isinstance(next(iter(unexplained)), tuple) else ("values", "map")
        fix = f"correct the masks, add the missing names, or say what the {what} mean in `{key}:` of {LABELS_FILE}"
        message = f"{mask.part}holds {list_counts(unexplained)}"
        if facts.look.is_soft or (stored_mask.values.ndim == 3 and is_soft(stored_mask.values)):
            message += f", {what} between those of classes, along their borders"
            fix = NEAREST_FIX
        facts.problems.append(Problem("error", "mask-values", mask.file, message, fix))
        facts.unexplained = _first(unexplained)
    else:
        _warn_if_unlabelled(facts, labelled=facts.counts.keys() - {labels.ignore_index})


def _warn_if_unlabelled(facts: PairFacts, *, labelled: set[Stored]) -> None:
    if not labelled:
        mask, fix = facts.sample.mask, "label it, or take the pair away"
        message = f"{mask.part}no pixel has a label: nothing can be learnt from it"
        facts.problems.append(Problem("warning", "mask-all-ignored", mask.file, message, fix))


def _first(counts: dict[Stored, int]) -> dict[Stored, int]:
    return dict(list(counts.items())[:MOST_UNEXPLAINED])
