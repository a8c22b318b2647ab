"""Preprocess: how a photo becomes the network's input, stored with the weights and applied everywhere alike.

Training validation, prediction, evaluation, export and serving all call this one definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ConfigError
from terrazzo.text import list_names, show

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


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
    """

    short_side: int | None = None
    long_side: int | None = None
    multiple_of: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sides = [side for side in (self.short_side, self.long_side, self.multiple_of) if side is not None]
        if self.size is not None:
            if len(self.size) != 2 or self.short_side is not None or self.multiple_of != 1:
                raise ConfigError(
                    f"preprocess has the size {self.size} and another rule for it, or no two numbers",
                    fix="give size as (height, width), or the other rules",
                )
            sides += self.size
        if any(not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= 65536 for side in sides):
            raise ConfigError(f"preprocess sides {sides} are not between 1 and 65536", fix="give whole pixel counts")
        if self.long_side is not None and self.short_side is None:
            raise ConfigError("preprocess has a long_side without a short_side", fix="give both or neither")
        numbers = (*self.mean, *self.std)
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite(numbers).all() or min(self.std) <= 0:
            raise ConfigError(
                f"preprocess mean {self.mean} and std {self.std} are not three finite numbers each",
                fix="give one mean and one positive std per channel, on the 0-255 scale",
            )

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that the network sees for a photo of this size."""
        if self.size is not None:
            return self.size
        if self.short_side is not None:
            factor = self.short_side / min(height, width)
            if self.long_side is not None:
                factor = min(factor, self.long_side / max(height, width))
            height, width = max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)
        multiple = self.multiple_of
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def resize(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the photo at `target_size`, bilinearly resized; the same array when the size is right already."""
        height, width = self.target_size(*image_HW3.shape[:2])
        if (height, width) == image_HW3.shape[:2]:
            return image_HW3
        import cv2

        return np.asarray(cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)

    def normalize(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (H, W, 3) float32, (value - mean) / std per channel."""
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
        """Return plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
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
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "preprocess mean, std or size is not a list of numbers", fix="give three numbers, three and two"
            ) from error
        return cls(**given)
