"""Dataset: a list of photos and masks with one LabelSpec; reading a pair checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.masks import MaskFile, MaskSource, read_mask
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.data.sources.source import Image, StoredSource
from terrazzo.errors import DatasetError, ImageError
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import shown_path

__all__ = ["Dataset", "Sample", "check_sizes"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A photo and its mask; neither is read before it is asked for."""

    image: StoredSource
    mask: MaskSource

    @classmethod
    def of_files(cls, image: Path, mask: Path) -> Sample:
        """Pair two image files."""
        return cls(ImageFile(image), MaskFile(mask))

    @property
    def name(self) -> str:
        """The photo's name without its ending."""
        return Path(self.image.name).stem


@dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Attributes:
        root: the folder it came from.
        split: the split's name, such as ``train``.
        labels: the classes, and how stored mask values map to them.
        samples: the pairs, in a fixed order.
        layout: what kind of layout the folder was taken for, in words.
        reading: how photos are read, where their files leave that open.
    """

    root: Path
    split: str
    labels: LabelSpec
    samples: tuple[Sample, ...]
    layout: str
    reading: ReadOptions = field(default_factory=ReadOptions)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[Image, NDArray[np.integer]]:
        """Return the image and the (H, W) mask of class indices.

        By default the image is (H, W, 3) RGB. Read by a rule it is (H, W, bands) float32, with NaN in gaps, and every
        pixel that has a gap in one of its bands is ignored in the mask.

        Raises:
            ImageError: the photo cannot be read.
            DatasetError: a file is gone, the sizes differ, the mask is not an index mask, or it holds a value that the
                labels do not explain.
        """
        sample = self.samples[index]
        try:
            image = sample.image.with_reading(self.reading).read()
            mask = read_mask(sample.mask, self.labels)
        except (ImageError, DatasetError) as error:
            for path in (sample.image.file, sample.mask.file):
                if not path.exists():
                    raise DatasetError(
                        f"{shown_path(path)}: it has disappeared since the data set was listed",
                        fix="put the file back, or start again without it",
                        code="dataset-file-gone",
                    ) from error
            raise
        check_sizes(sample, image.shape[:2], mask.shape)
        if image.dtype == np.float32 and (gaps := np.isnan(image).any(-1)).any():
            mask = np.where(gaps, np.asarray(self.labels.ignore_index, mask.dtype), mask)
        return image, mask


def check_sizes(sample: Sample, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Refuse a mask whose (height, width) is not its photo's.

    Raises:
        DatasetError: naming both.
    """
    if image == mask:
        return
    turned = image == mask[::-1]
    raise DatasetError(
        f"{shown_path(sample.mask.file)}: {sample.mask.part}the mask is {mask[1]} x {mask[0]}, its photo "
        f"{shown_path(sample.image.name)} is {image[1]} x {image[0]}",
        fix="draw the mask on the photo as viewers show it, turned by its EXIF orientation"
        if turned
        else "export the mask at the size of the photo",
        code="mask-size",
    )
