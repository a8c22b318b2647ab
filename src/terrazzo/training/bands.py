"""The bands that a run learns from: found in its images, and measured once over those of the training split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from terrazzo.data import Dataset
from terrazzo.data.bands import BandStatistics, rule_for
from terrazzo.data.pixel_counts import in_threads
from terrazzo.data.sources.source import Image
from terrazzo.errors import ConfigError, DatasetError, ImageError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.read import ReadOptions
from terrazzo.notes import note
from terrazzo.preprocess import Preprocess
from terrazzo.text import shown_path
from terrazzo.training.augment import Step
from terrazzo.training.augment.gray import RandomGray
from terrazzo.training.augment.photometric import PhotometricDistortion
from terrazzo.training.sections import DataSection

__all__ = [
    "band_rule",
    "bands_to_choose",
    "filled_pair",
    "measured",
    "read_by",
    "refuse_other_bands",
    "steps_for_bands",
]


def band_rule(section: DataSection, train: Dataset) -> BandRule | None:
    """Return how the bands of a recipe are read; None for photos, 8-bit RGB.

    Where the preprocessing knows these bands already, as in a run that is resumed or that starts from weights for the
    same bands, their scale is kept. Else the kind of numbers is that of the first training image, and `measured` is yet
    to find the scale.

    Raises:
        ImageError: the first image cannot be read, or lacks a band.
    """
    known = section.preprocess.bands
    if section.bands is None or not len(train):
        return known
    rule = rule_for(train.samples[0].image, section.bands, section.nodata)
    if known is None or known.ranges is None or known.chosen != rule.chosen:
        return rule
    return known if section.nodata in (None, known.nodata) else rule


def bands_to_choose(error: ImageError) -> ImageError:
    """Return the error for images whose bands nobody has chosen, with what training can do about it."""
    return ImageError(error.message, fix="say which bands to learn from, as in --bands 1,2,3,4", code=error.code)


def read_by(split: Dataset, rule: BandRule | None) -> Dataset:
    """Return a split whose images are read by a rule."""
    return split if rule is None else replace(split, reading=ReadOptions(rule=rule))


def measured(rule: BandRule, train: Dataset, preprocess: Preprocess) -> Preprocess:
    """Return the preprocessing with the range, mean and standard deviation of each band of the training images.

    Raises:
        ImageError: an image cannot be read, lacks a band, or stores another kind of numbers.
        DatasetError: a band has no measurement at all (code "dataset-bands").
    """
    statistics = BandStatistics(len(rule.chosen))
    for image in in_threads(lambda sample: sample.image.with_reading(ReadOptions(rule=rule)).read(), train.samples):
        statistics.add(image)  # type: ignore[arg-type]
    if not statistics.count.all():
        empty = rule.chosen[int(np.argmin(statistics.count))]
        raise DatasetError(
            f"{shown_path(train.root)}: band {empty} has no value in any image of {train.split}",
            fix="leave it out of --bands, or correct --nodata",
            code="dataset-bands",
        )
    flat = [band for band, std in zip(rule.chosen, statistics.std, strict=True) if not std]
    if flat:
        note(f"{shown_path(train.root)}: band {', '.join(map(str, flat))} has one value in all images of {train.split}")
    ranges = statistics.usual_ranges(rule.dtype or "")
    low, high = np.array(ranges).T
    factor = 255 / (high - low)
    mean = _listed((statistics.mean - low) * factor)
    std = _listed(np.where(statistics.std > 0, statistics.std * factor, 1.0))
    return replace(preprocess, mean=mean, std=std, bands=replace(rule, ranges=ranges))


def refuse_other_bands(preprocess: Preprocess, asked: int | None, what: str) -> int:
    """Return the number of bands that a network reads, and refuse a model that is described with another.

    Args:
        preprocess: says which bands images are read with.
        asked: the bands in the model's own description, if it has one; 3 gives way.
        what: the model, for messages.

    Raises:
        ConfigError: code "recipe-bands".
    """
    bands = preprocess.in_channels
    if asked not in (None, 3, bands):
        is_rgb = preprocess.bands is None
        raise ConfigError(
            f"{what} takes {asked} bands, and images are read with "
            f"{'red, green and blue' if is_rgb else preprocess.bands}",
            fix="say which bands to read, as in --bands 1,2,3,4" if is_rgb else f"choose {asked} bands",
            code="recipe-bands",
        )
    return bands


def steps_for_bands(steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], list[str]]:
    """Return the augmentations that apply to any bands, and lines on what is left out."""
    kept = tuple(step for step in steps if not isinstance(step, RandomGray))
    said = []
    if len(kept) < len(steps):
        said.append("augment   gray is left out: it needs red, green and blue")
    if any(isinstance(step, PhotometricDistortion) for step in kept):
        said.append("augment   photometric changes brightness and contrast alone: hue needs red, green and blue")
    return kept, said


def filled_pair(dataset: Dataset, preprocess: Preprocess, index: int) -> tuple[Image, NDArray[np.integer]]:
    """Read a pair whose image has its gaps filled, as augmentations need it."""
    image, mask = dataset.read(index)
    return preprocess.filled(image), mask


def _listed(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.9g}") for value in values)
