"""Photos without masks, listed as a data set that training can read."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.choose_images import choose_images
from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.masks import MaskFile
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.data.sources.source import Image
from terrazzo.errors import DatasetError, ImageError
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import shown_path

__all__ = ["Photos", "open_photos"]


@dataclass(frozen=True)
class Photos(Dataset):
    """Photos whose masks are 0 all over, since nobody has drawn any; gaps in bands are ignored there."""

    def read(self, index: int) -> tuple[Image, NDArray[np.integer]]:
        sample = self.samples[index]
        try:
            image = sample.image.with_reading(self.reading).read()
        except ImageError as error:
            if sample.image.file.exists():
                raise
            raise DatasetError(
                f"{shown_path(sample.image.file)}: it has disappeared since the photos were listed",
                fix="put the file back, or start again without it",
                code="dataset-file-gone",
            ) from error
        mask = np.zeros(image.shape[:2], np.uint8)
        if image.dtype == np.float32:
            mask[np.isnan(image).any(-1)] = self.labels.ignore_index
        return image, mask


def open_photos(
    folder: Path, labels: LabelSpec, reading: ReadOptions | None = None, known: Sequence[Dataset] = ()
) -> tuple[Photos, list[str]]:
    """List the photos of a folder, to any depth, and lines about what was left out.

    Args:
        folder: holds photos; the masks of data sets in it are left out, and a note says so.
        labels: the classes that the photos are said to show.
        reading: how they are read, where their files leave that open.
        known: splits whose photos are left out, by their path and by their content.

    Raises:
        ImageError: there is no such folder, or nothing in it that is called like an image.
        DatasetError: nothing is left (code "unlabelled-none").
    """
    paths, _ = choose_images(folder)
    seen = _Files([sample for split in known for sample in split.samples])
    new = [path for path in paths if path not in seen]
    if not new:
        raise DatasetError(
            f"{shown_path(folder)}: all {len(paths)} photos are among those to learn from or to validate on",
            fix="name a folder with other photos",
            code="unlabelled-none",
        )
    said = []
    if left_out := len(paths) - len(new):
        split = " or ".join(dict.fromkeys(split.split for split in known))
        said.append(f"no masks  {left_out} of {len(paths)} photos are left out: they are in {split} too")
    samples = tuple(Sample(ImageFile(path), MaskFile(path)) for path in new)
    return Photos(folder, "unlabelled", labels, samples, "photos without masks", reading or ReadOptions()), said


class _Files:
    """Files of data sets, to find those that are the same: the same place, or the same bytes."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        whole = [sample.image.file for sample in samples if not sample.image.part]
        self._places = {os.path.realpath(path) for path in whole}
        self._by_size: dict[int, list[Path]] = defaultdict(list)
        for path in whole:
            if path.is_file():
                self._by_size[path.stat().st_size].append(path)
        self._digests: dict[Path, bytes] = {}

    def __contains__(self, path: Path) -> bool:
        if os.path.realpath(path) in self._places:
            return True
        alike = self._by_size.get(path.stat().st_size, []) if path.is_file() else []
        return bool(alike) and self._digest(path) in {self._digest(other) for other in alike}

    def _digest(self, path: Path) -> bytes:
        if path not in self._digests:
            try:
                with path.open("rb") as file:
                    self._digests[path] = hashlib.file_digest(file, "sha256").digest()
            except OSError:  # reading it fails with an error of its own, later
                self._digests[path] = os.fsencode(path)
        return self._digests[path]
