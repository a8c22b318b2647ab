"""Small data sets on disk, built photo by photo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MADE_SPLITS = ("train", "val")


@dataclass
class Folder:
    """A data set that a test fills."""

    root: Path

    def image(
        self, name: str, *, split: str = "train", size: tuple[int, int] = (12, 16), seed: int | None = None
    ) -> Path:
        """Write a photo of random pixels, the same for the same seed; by default each name has its own."""
        drawn = np.random.default_rng(list(os.fsencode(f"{split}/{name}")) if seed is None else seed)
        return self.picture(f"{split}/images/{name}", drawn.integers(0, 256, (*size, 3), dtype=np.uint8))

    def mask(self, name: str, values: Any = None, *, split: str = "train") -> Path:
        """Write a mask; by default its left half is 0 and its right half 1."""
        return self.picture(f"{split}/masks/{name}", halves() if values is None else as_pixels(values))

    def pair(
        self, stem: str, values: Any = None, *, split: str = "train", seed: int | None = None
    ) -> tuple[Path, Path]:
        """Write a photo and its mask."""
        mask = self.mask(f"{stem}.png", values, split=split)
        with Image.open(mask) as image:
            size = image.height, image.width
        return self.image(f"{stem}.png", split=split, size=size, seed=seed), mask

    def picture(self, path: str, pixels: NDArray[Any], **options: Any) -> Path:
        """Write any image below the root."""
        return self.saved(path, Image.fromarray(pixels), **options)

    def saved(self, path: str, image: Image.Image, **options: Any) -> Path:
        """Save an image below the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target, **options)
        return target

    def text(self, path: str, text: str) -> Path:
        """Write a text file below the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def labels(self, text: str) -> None:
        """Write labels.yaml."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "labels.yaml").write_text(text)

    def fill(self, train: int = 3, val: int = 1) -> Folder:
        """Write good pairs into train and val."""
        for split, count in zip(MADE_SPLITS, (train, val), strict=True):
            for number in range(count):
                self.pair(f"{split}_{number}", split=split)
        return self


def as_pixels(values: Any) -> NDArray[Any]:
    """Return an array as it is, and lists of numbers as 8-bit values."""
    return values if isinstance(values, np.ndarray) else np.array(values, dtype=np.uint8)


def halves(left: int = 0, right: int = 1, size: tuple[int, int] = (12, 16)) -> NDArray[np.uint8]:
    """Return a mask whose left half has one value and whose right half the other."""
    mask = np.full(size, left, dtype=np.uint8)
    mask[:, size[1] // 2 :] = right
    return mask
