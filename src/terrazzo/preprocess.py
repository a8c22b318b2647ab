"""Preprocess: how an image becomes the network's input. It is stored with the weights.

Validation in training, prediction, evaluation, export and serving all use this one definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields, checked
from terrazzo.errors import ConfigError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.imaging.resize import (
    INTERPOLATIONS,
    Interpolation,
    Pixels,
    is_resized_in_strips,
    resize_image,
    resize_in_strips,
)
from terrazzo.text import list_names, show

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CHOICES: dict[str, tuple[object, ...]] = {
    "interpolation": INTERPOLATIONS,
    "antialias": (False, True),
    "rounding": ("nearest", "down"),
}


@dataclass(frozen=True)
class Preprocess:
    """The resize and the normalisation of images for one network.

    Attributes:
        short_side: length of the shorter side after a resize that keeps the aspect ratio; None keeps the size.
        long_side: with `short_side`, the largest length of the longer side; the smaller of the two factors is used.
        multiple_of: both sides are then rounded up to a multiple of this (32 in the papers' ADE20K protocol).
        mean: of each channel (R, G, B, or the bands of `bands`), on the 0-255 scale.
        std: of each channel, on the 0-255 scale.
        size: (height, width) that every image is resized to, whatever its aspect ratio, instead of the rules above.
        interpolation: the filter: "nearest", "bilinear", "bicubic", "lanczos", "area" or "hamming".
        antialias: the filter widens where the image shrinks, as Pillow's does; if False it is OpenCV's, which does not.
        rounding: of the sides that `short_side` gives: "nearest" as in mmsegmentation, or "down" as in transformers.
        bands: which bands the network reads and their scale; None for 8-bit RGB.

    The defaults of `interpolation`, `antialias` and `rounding` are what models did that were saved before these fields
    existed.
    """

    short_side: int | None = None
    long_side: int | None = None
    multiple_of: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = False
    rounding: Literal["nearest", "down"] = "nearest"
    bands: BandRule | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        sides = [self.multiple_of, *(side for side in (self.short_side, self.long_side) if side is not None)]
        if self.size is not None:
            if len(self.size) != 2 or self.short_side is not None or self.multiple_of != 1:
                given = ", ".join(map(show, self.size[:4]))
                raise ConfigError(
                    f"preprocess has the size {given}, which is not two numbers, or has another rule beside it",
                    fix="give size as (height, width), or the other rules",
                )
            sides += self.size
        wrong = [
            side for side in sides if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= 65536
        ]
        if wrong:
            raise ConfigError(
                f"preprocess sides {', '.join(map(show, wrong))} are not between 1 and 65536",
                fix="give whole pixel counts",
            )
        if self.long_side is not None and self.short_side is None:
            raise ConfigError("preprocess has a long_side without a short_side", fix="give both or neither")
        numbers, count = (*self.mean, *self.std), 3 if self.bands is None else len(self.bands.chosen)
        if {len(self.mean), len(self.std)} != {count} or not np.isfinite(numbers).all() or min(self.std) <= 0:
            each = "three" if self.bands is None else count
            raise ConfigError(
                f"preprocess mean {self.mean[:4]} and std {self.std[:4]} are not {each} finite numbers each",
                fix="give one mean and one positive std per channel, on the 0-255 scale",
            )
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices or isinstance(value, bool) != (name == "antialias"):
                raise ConfigError(f"preprocess has the {name} {show(value)}", fix=f"use {', '.join(map(str, choices))}")
        square = min(self.short_side or 1, self.long_side or 65536)
        self._refuse_large(*(self.size or (self._rounded_up(square), self._rounded_up(square))))

    @checked
    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that the network sees for an image of this size.

        Raises:
            ConfigError: these are more pixels than an image may have (code "preprocess-pixels"), or the image has none.
        """
        if min(height, width) < 1:
            raise ConfigError(f"a photo of {width} x {height} has no pixels", fix="give sides of at least 1")
        if self.size is not None:
            return self.size
        target = height, width
        if self.short_side is not None:
            scaled = self._scaled_down if self.rounding == "down" else self._scaled_to_nearest
            short, long = scaled(self.short_side, min(target), max(target))
            target = (short, long) if height <= width else (long, short)
        target = self._rounded_up(target[0]), self._rounded_up(target[1])
        if target != (height, width):
            self._refuse_large(*target, f"makes a {width} x {height} photo", 2 * height * width)
        return target

    def _scaled_to_nearest(self, short_side: int, short: int, long: int) -> tuple[int, int]:
        factor = short_side / short
        if self.long_side is not None:
            factor = min(factor, self.long_side / long)
        return max(int(short * factor + 0.5), 1), max(int(long * factor + 0.5), 1)

    def _scaled_down(self, short_side: int, short: int, long: int) -> tuple[int, int]:
        """Compute in transformers' order of operations: rounding in another one gives sizes that differ by one."""
        exact = float(short_side)
        if self.long_side is not None and long / short * short_side > self.long_side:
            exact = self.long_side * short / long
        new_short = max(round(exact), 1)
        return new_short, long if new_short == short else max(int(exact * long / short), 1)

    def _rounded_up(self, side: int) -> int:
        return -(-side // self.multiple_of) * self.multiple_of

    def _refuse_large(self, height: int, width: int, what: str = "makes every photo", allowed: int = 0) -> None:
        """Refuse more pixels than images may have, before memory is allocated for them."""
        if height * width > (limit := max(MAX_PIXELS, allowed)):
            raise ConfigError(
                f"preprocess {what} {width} x {height} pixels for the network, which are more than {limit:,}",
                fix="correct short_side, long_side, multiple_of and size under preprocess in the model's config.json",
                code="preprocess-pixels",
            )

    @property
    def in_channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    @checked
    def resize(self, image_HWC: Pixels) -> Pixels:
        """Return the image at `target_size`, gaps filled; the same array if neither changes it."""
        size = self.target_size(*image_HWC.shape[:2])
        return resize_image(self.filled(image_HWC), size, self.interpolation, self.antialias)

    def filled(self, image_HWC: Pixels) -> Pixels:
        """Return the image with each gap filled by its band's mean, which is 0 in the network's input."""
        if image_HWC.dtype != np.float32 or not (gaps_HWC := np.isnan(image_HWC)).any():
            return image_HWC
        return np.where(gaps_HWC, np.asarray(self.mean, np.float32), image_HWC)

    def as_rgb(self, image_HWC: Pixels) -> NDArray[np.uint8]:
        """Return a picture of an image that was read for this network, (H, W, 3)."""
        return image_HWC if self.bands is None else self.bands.as_rgb(image_HWC)  # type: ignore[return-value, arg-type]

    def is_resized_in_strips(self, height: int, width: int) -> bool:
        """Whether `resize_in_strips` works for an image of this size: OpenCV's filters need the whole image."""
        size = self.target_size(height, width)
        return is_resized_in_strips((height, width), size, self.interpolation, self.antialias)

    def resize_in_strips(self, read_rows: Callable[[int, int], Pixels], height: int, width: int) -> Pixels:
        """As `resize`, for an image of this size that is read in strips of rows."""

        def filled_rows(first: int, stop: int) -> Pixels:
            return self.filled(read_rows(first, stop))

        return resize_in_strips(filled_rows, (height, width), self.target_size(height, width), self.interpolation)

    @checked
    def normalize(self, image_HWC: Pixels) -> NDArray[np.float32]:
        """Return (value - mean) / std per channel, (H, W, C) float32; 0 in gaps."""
        C = self.in_channels
        if image_HWC.ndim != 3 or image_HWC.shape[2] != C:
            raise ConfigError(
                f"an image of the shape {image_HWC.shape} is not (H, W, {C})",
                fix="give an RGB image" if self.bands is None else f"read it with {self.bands}",
            )
        height, width, _ = image_HWC.shape
        scale = 1.0 / np.asarray(self.std, dtype=np.float32)
        offset = -np.asarray(self.mean, dtype=np.float32) * scale
        # Whole rows of numbers at a time: numpy takes five times as long over an innermost axis of three.
        x_HW: NDArray[np.float32] = np.multiply(image_HWC.reshape(height, C * width), np.tile(scale, width))
        x_HW += np.tile(offset, width)
        if image_HWC.dtype == np.float32:
            np.nan_to_num(x_HW, copy=False, nan=0.0)
        return x_HW.reshape(height, width, C)

    def __call__(self, image_HWC: Pixels) -> NDArray[np.float32]:
        """Return the network's input (C, H', W') as a channels-last view, for one image as it was read."""
        return self.normalize(self.resize(image_HWC)).transpose(2, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        The fields of resampling and of bands are left out where they have their defaults, so that older programs read
        the result and the hash of a protocol stays.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        resampling = {key: values.pop(key) for key in CHOICES}
        bands = values.pop("bands")
        if any(getattr(Preprocess, key) != resampling[key] for key in CHOICES):
            values |= resampling
        return values if bands is None else {**values, "bands": bands.to_dict()}

    @classmethod
    @checked
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Read `to_dict`'s output back.

        Raises:
            ConfigError: a key is unknown or a value is not usable.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping):
            raise ConfigError(f"preprocess is {show(values)}, not a mapping", fix=f"use {', '.join(sorted(known))}")
        if unknown := sorted(map(str, set(values) - known)):
            raise ConfigError(
                f"preprocess has unknown key(s) {list_names(unknown)}", fix=f"use {', '.join(sorted(known))}"
            )
        try:
            given: dict[str, Any] = dict(values)
            given |= {key: tuple(float(v) for v in values[key]) for key in ("mean", "std") if key in values}
            if values.get("size") is not None:
                given["size"] = tuple(values["size"])
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                "preprocess mean, std or size is not a list of numbers", fix="give three numbers, three and two"
            ) from error
        if values.get("bands") is not None:
            given["bands"] = BandRule.from_dict(values["bands"])
        return cls(**given)
