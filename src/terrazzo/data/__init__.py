"""Labelled photos: what layouts there are, reading pairs, checking them, augmenting, batching."""

from __future__ import annotations

from pathlib import Path

from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.datasets import folder
from terrazzo.labels import LabelSpec

__all__ = ["Dataset", "Sample", "open_dataset"]


def open_dataset(root: str | Path, split: str, labels: LabelSpec | None = None) -> Dataset:
    """Open one split of a data set on disk.

    Args:
        root: the data set's folder.
        split: such as ``train`` or ``val``.
        labels: overrides what the folder says about its classes.

    Raises:
        DatasetError: the folder, the split or a pair is missing, or the classes cannot be told.
        LabelError: ``labels.yaml`` is not usable.
    """
    return folder.open_folder(Path(root), split, labels)
