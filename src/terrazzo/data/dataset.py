"""Dataset: a list of photo and mask files with one LabelSpec; reading a pair checks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.masks import read_mask
from terrazzo.errors import DatasetError
from terrazzo.images import read_image
from terrazzo.labels import LabelSpec

__all__ = ["Dataset", "Sample"]


@dataclass(frozen=True)
class Sample:
    """The files of one labelled photo."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """The photo's file name without its ending."""
        return self.image.stem


@dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Attributes:
        root: the folder it came from.
        split: the split's name, such as ``train``.
        labels: the classes, and how stored mask values map to them.
        samples: the pairs, in a fixed order.
        layout: what kind of layout the folder was taken for.
    """

    root: Path
    split: str
    labels: LabelSpec
    samples: tuple[Sample, ...]
    layout: str

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Return the (H, W, 3) photo and the (H, W) mask of class indices.

        Raises:
            ImageError: the photo cannot be read.
            DatasetError: a file is gone, the sizes differ, or the mask is not an index mask.
            LabelError: the mask holds a value that the labels do not explain.
        """
        sample = self.samples[index]
        for path in (sample.image, sample.mask):
            if not path.exists():
                raise DatasetError(
                    f"{path} has disappeared since the data set was listed",
                    fix="put the file back or start again without it",
                    code="dataset-file-gone",
                )
        image = read_image(sample.image)
        mask = read_mask(sample.mask, self.labels)
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"{sample.mask} is {mask.shape[1]} x {mask.shape[0]} but its photo {sample.image.name} is "
                f"{image.shape[1]} x {image.shape[0]}",
                fix="export the mask at the photo's size (EXIF orientation counts)",
                code="mask-size",
            )
        return image, mask
