"""Preprocess: how a photo becomes the network's input, stored with the weights and applied everywhere alike.

Training validation, prediction, evaluation, export and serving all call this one definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields, checked
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.imaging.resize import INTERPOLATIONS, Interpolation, is_resized_in_strips, resize_image, resize_in_strips
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
    """A resize rule and a normalisation.

    Attributes:
        short_side: keep the aspect ratio and make the shorter side this many pixels; None leaves the size alone.
        long_side: with `short_side`, the most the longer side may have; the smaller of the two factors wins.
        multiple_of: then round both sides up to a multiple of this (the papers' ADE20K protocol uses 32).
        mean: per channel (R, G, B), on the 0-255 scale.
        std: per channel (R, G, B), on the 0-255 scale.
        size: (height, width) that every photo is squeezed into, whatever its aspect, in place of the rules above.
        interpolation: how pixels are resampled: "nearest", "bilinear", "bicubic", "lanczos", "area" or "hamming".
        antialias: filters widen where the photo shrinks, as Pillow's do; otherwise they are OpenCV's, which do not.
        rounding: of the sides that `short_side` gives: "nearest", as mmsegmentation has it, or "down", as transformers.

    The defaults of the last three are how every model written before they existed resizes.
    """

    short_side: int | None = None
    long_side: int | None = None
    multiple_of: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = False
    rounding: Literal["nearest", "down"] = "nearest"

    def __post_init__(self) -> None:
        check_fields(self)
        sides = [self.multiple_of, *(side for side in (self.short_side, self.long_side) if side is not None)]
        if self.size is not None:
            if len(self.size) != 2 or self.short_side is not None or self.multiple_of != 1:
                given = ", ".join(map(show, self.size[:4]))
                raise ConfigError(
                    f"preprocess has the size {given} and another rule, or no two numbers",
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
        numbers = (*self.mean, *self.std)
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite(numbers).all() or min(self.std) <= 0:
            raise ConfigError(
                f"preprocess mean {self.mean[:4]} and std {self.std[:4]} are not three finite numbers each",
                fix="give one mean and one positive std per channel, on the 0-255 scale",
            )
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices or isinstance(value, bool) != (name == "antialias"):
                raise ConfigError(f"preprocess has the {name} {show(value)}", fix=f"use {', '.join(map(str, choices))}")
        square = min(self.short_side or 1, self.long_side or 65536)
        self._refuse_large(*(self.size or (self._rounded_up(square), self._rounded_up(square))))

    @checked
    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that the network sees for a photo of this size.

        Raises:
            ConfigError: these are more pixels than a photo may have (code "preprocess-pixels"), or the photo has none.
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
        """The order of transformers' operations: another one gives other last bits, and sizes that differ by one."""
        exact = float(short_side)
        if self.long_side is not None and long / short * short_side > self.long_side:
            exact = self.long_side * short / long
        new_short = max(round(exact), 1)
        return new_short, long if new_short == short else max(int(exact * long / short), 1)

    def _rounded_up(self, side: int) -> int:
        return -(-side // self.multiple_of) * self.multiple_of

    def _refuse_large(self, height: int, width: int, what: str = "makes every photo", allowed: int = 0) -> None:
        """Refuse more pixels than photos may have, before there is memory for them."""
        if height * width > (limit := max(MAX_PIXELS, allowed)):
            raise ConfigError(
                f"preprocess {what} {width} x {height} pixels for the network, which are more than {limit:,}",
                fix="correct short_side, long_side, multiple_of and size under preprocess in the model's config.json",
                code="preprocess-pixels",
            )

    @checked
    def resize(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the photo at `target_size`; the same array when the size is right already."""
        size = self.target_size(*image_HW3.shape[:2])
        return resize_image(image_HW3, size, self.interpolation, self.antialias)

    def is_resized_in_strips(self, height: int, width: int) -> bool:
        """Whether `resize_in_strips` can do it for an image of this size: OpenCV's filters see the whole image."""
        size = self.target_size(height, width)
        return is_resized_in_strips((height, width), size, self.interpolation, self.antialias)

    def resize_in_strips(
        self, read_rows: Callable[[int, int], NDArray[np.uint8]], height: int, width: int
    ) -> NDArray[np.uint8]:
        """As `resize`, for an image of this size that is read in strips of rows."""
        return resize_in_strips(read_rows, (height, width), self.target_size(height, width), self.interpolation)

    @checked
    def normalize(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (H, W, 3) float32, (value - mean) / std per channel."""
        if image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
            raise ConfigError(f"an image of the shape {image_HW3.shape} is not (H, W, 3)", fix="give an RGB image")
        height, width, _ = image_HW3.shape
        scale = 1.0 / np.asarray(self.std, dtype=np.float32)
        offset = -np.asarray(self.mean, dtype=np.float32) * scale
        # Whole rows of numbers at a time: numpy takes five times as long over an innermost axis of three.
        x_HW: NDArray[np.float32] = np.multiply(image_HW3.reshape(height, 3 * width), np.tile(scale, width))
        x_HW += np.tile(offset, width)
        return x_HW.reshape(height, width, 3)

    def __call__(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input (3, H', W') as a channels-last view, for one (H, W, 3) RGB photo."""
        return self.normalize(self.resize(image_HW3)).transpose(2, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        How pixels are resampled is left out where it is as it always was, so that older programs read the result and
        the hash of a protocol stays.
        """
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        resampling = {key: values.pop(key) for key in CHOICES}
        return values if all(getattr(Preprocess, key) == resampling[key] for key in CHOICES) else values | resampling

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
        return cls(**given)
