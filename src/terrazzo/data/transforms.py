"""Training augmentation, one class a step, each a function of (image, mask, rng) applied to both alike.

The papers' steps in the papers' order (SegFormer section 4.1, SETR section 4.1) are RandomResize, RandomCrop,
RandomFlip, PhotometricDistortion, and padding to the crop; the details are those of both papers' code. RandomGamma,
RandomGray, RandomBlur and RandomRotate are ours, for small data sets whose test photos look different from the training
photos; they are off in the papers' recipes.

Images are (H, W, 3) uint8 RGB, masks (H, W) class indices. Nothing here keeps state: the same `rng` gives the same
result on any worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Compose",
    "PhotometricDistortion",
    "RandomBlur",
    "RandomCrop",
    "RandomFlip",
    "RandomGamma",
    "RandomGray",
    "RandomResize",
    "RandomRotate",
    "Transform",
    "pad_to",
]

Image = NDArray[np.uint8]
Mask = NDArray[np.integer]


class Transform(Protocol):
    """One paired step."""

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]: ...


@dataclass(frozen=True)
class Compose:
    """Steps one after another."""

    steps: Sequence[Transform]

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        for step in self.steps:
            image, mask = step(image, mask, rng)
        return image, mask


@dataclass(frozen=True)
class RandomResize:
    """Scale into a box that is itself scaled by r ~ U(ratio_range), keeping the aspect ratio.

    Attributes:
        long_side: longer side of the box at r = 1; None takes the photo's own size as the box.
        short_side: shorter side of the box at r = 1.
        ratio_range: bounds of r.
    """

    long_side: int | None
    short_side: int | None
    ratio_range: tuple[float, float]

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        height, width = mask.shape
        r = rng.uniform(*self.ratio_range)
        long_target = max(int((self.long_side or max(height, width)) * r), 1)
        short_target = max(int((self.short_side or min(height, width)) * r), 1)
        factor = min(
            max(long_target, short_target) / max(height, width), min(long_target, short_target) / min(height, width)
        )
        size = max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)
        return (
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8),
            np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), dtype=mask.dtype),
        )


@dataclass(frozen=True)
class RandomCrop:
    """Cut a window at a uniform offset; a side shorter than the window stays as it is.

    Attributes:
        size: (height, width) of the window.
        cat_max_ratio: a window is taken when it shows at least two classes and the largest fills less than this share
            of its labelled pixels; after `retries` failures the last window is taken. 1 accepts every window.
        ignore_index: the mask value that is no class.
    """

    size: tuple[int, int]
    cat_max_ratio: float
    ignore_index: int
    retries: int = 10

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        window = self._window(mask, rng)
        if self.cat_max_ratio < 1.0:
            for _ in range(self.retries):
                if self._is_varied(mask[window]):
                    break
                window = self._window(mask, rng)
        return image[window], mask[window]

    def _window(self, mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
        (height, width), (crop_height, crop_width) = mask.shape, self.size
        top = int(rng.integers(0, max(height - crop_height, 0) + 1))
        left = int(rng.integers(0, max(width - crop_width, 0) + 1))
        return slice(top, top + crop_height), slice(left, left + crop_width)

    def _is_varied(self, mask: Mask) -> bool:
        counts = np.bincount(mask.ravel(), minlength=self.ignore_index + 1)
        counts[self.ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right with this probability."""

    probability: float = 0.5

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        if rng.random() < self.probability:
            return image[:, ::-1], mask[:, ::-1]
        return image, mask


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each with probability one half, in the papers' order.

    Values are clipped to 0-255 and truncated to uint8 after each step. A coin decides whether contrast comes second
    or last. Where both saturation and hue change, one way to HSV and back serves both: the papers' code goes twice and
    rounds once more.

    Attributes:
        brightness: largest shift, on the 0-255 scale.
        contrast: bounds of the factor.
        saturation: bounds of the factor.
        hue: largest shift, in OpenCV's half degrees (180 is the whole circle).
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        def coin() -> bool:
            return bool(rng.random() < 0.5)

        if coin():
            image = _affine(image, 1.0, rng.uniform(-self.brightness, self.brightness))
        contrast_early = coin()
        if contrast_early and coin():
            image = _affine(image, rng.uniform(*self.contrast), 0.0)
        saturate, turn = coin(), coin()
        if saturate or turn:
            hsv = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV), dtype=np.uint8)
            if saturate:
                hsv[..., 1] = _affine(hsv[..., 1], rng.uniform(*self.saturation), 0.0)
            if turn:
                shift = int(rng.integers(-self.hue, self.hue)) if self.hue else 0
                hsv[..., 0] = (hsv[..., 0].astype(np.int16) + shift) % 180
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)
        if not contrast_early and coin():
            image = _affine(image, rng.uniform(*self.contrast), 0.0)
        return image, mask


@dataclass(frozen=True)
class RandomGamma:
    """Raise brightness to a power: exposure and tone curves of other cameras.

    Attributes:
        probability: chance of the step.
        bounds: the exponent is exp(u) with u uniform between the logarithms of these.
    """

    probability: float
    bounds: tuple[float, float] = (0.5, 2.0)

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        if rng.random() < self.probability:
            gamma = np.exp(rng.uniform(*np.log(self.bounds)))
            curve = (np.linspace(0.0, 1.0, 256) ** gamma * 255.0).astype(np.uint8)
            image = curve[image]
        return image, mask


@dataclass(frozen=True)
class RandomGray:
    """Drop the colour with this probability, so that shape has to do."""

    probability: float

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        if rng.random() < self.probability:
            gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
            image = np.repeat(gray[..., None], 3, axis=2)
        return image, mask


@dataclass(frozen=True)
class RandomBlur:
    """Gaussian blur with this probability.

    Attributes:
        probability: chance of the step.
        sigma: bounds of the standard deviation in pixels.
    """

    probability: float
    sigma: tuple[float, float] = (0.3, 1.5)

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        if rng.random() < self.probability:
            blurred = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), rng.uniform(*self.sigma))
            image = np.asarray(blurred, dtype=np.uint8)
        return image, mask


@dataclass(frozen=True)
class RandomRotate:
    """Turn about the centre, with this probability, by up to `degrees`; what comes from outside is unlabelled.

    Attributes:
        probability: chance of the step.
        degrees: largest angle.
        ignore_index: the mask value that is no class.
    """

    probability: float
    degrees: float
    ignore_index: int

    def __call__(self, image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
        if rng.random() < self.probability:
            height, width = mask.shape
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-self.degrees, self.degrees), 1.0)
            image = np.asarray(
                cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT),
                dtype=np.uint8,
            )
            mask = np.asarray(
                cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_NEAREST, borderValue=self.ignore_index),
                dtype=mask.dtype,
            )
        return image, mask


def pad_to(
    image: NDArray[np.float32], mask: Mask, size: tuple[int, int], ignore_index: int
) -> tuple[NDArray[np.float32], Mask]:
    """Pad a normalised image with 0 (the mean colour) and its mask with `ignore_index`, at the bottom and right."""
    missing_rows, missing_columns = (max(size[axis] - mask.shape[axis], 0) for axis in (0, 1))
    if missing_rows or missing_columns:
        padding = ((0, missing_rows), (0, missing_columns))
        image = np.pad(image, (*padding, (0, 0)))
        mask = np.pad(mask, padding, constant_values=ignore_index)
    return image, mask


def _affine(image: Image, factor: float, shift: float) -> Image:
    """Return factor * image + shift, clipped to 0-255 and truncated, through a table of the 256 values."""
    table = np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)
    return np.asarray(table[image])
