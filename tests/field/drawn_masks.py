"""Small data sets with discs for objects, drawn photo by photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.uint8]


def discs(values: Sequence[int], size: tuple[int, int] = (48, 80)) -> Mask:
    """A mask of 0 with a disc for each value, side by side."""
    mask = np.zeros(size, np.uint8)
    for place, value in enumerate(values):
        cv2.circle(mask, (8 + place % 6 * 13, 10 + place // 6 * 14), 5, value, -1)
    return mask


def smooth(mask: Mask, factor: float = 1.7) -> Mask:
    """Resize a mask as photos are resized."""
    return cv2.resize(mask, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


def save(path: Path, pixels: NDArray[np.uint8], mode: str | None = None) -> Path:
    """Save an image, in another mode of Pillow's if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def photo(path: Path, size: tuple[int, ...] = (48, 80)) -> Path:
    """Save a photo of noise that no other name has."""
    drawn = np.random.default_rng(list(path.as_posix().encode()))
    return save(path, drawn.integers(0, 256, (*size[:2], 3), dtype=np.uint8))


def masks(root: Path, train: Sequence[NDArray[np.uint8]], val: Sequence[NDArray[np.uint8]] = ()) -> Path:
    """Write a data set split by folders; val has the last of the training masks unless told otherwise."""
    for split, drawn in (("train", train), ("val", val or train[-1:])):
        for number, mask in enumerate(drawn):
            save(root / split / "masks" / f"{number}.png", mask)
            photo(root / split / "images" / f"{number}.png", mask.shape)
    return root


def labels(root: Path, text: str) -> Path:
    """Write labels.yaml."""
    (root / "labels.yaml").write_text(text)
    return root
