"""A folder data set: ``ROOT/{train,val,test}/{images,masks}``, with an optional ``ROOT/labels.yaml``."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.masks import MASK_SUFFIXES, read_stored_mask
from terrazzo.errors import DatasetError
from terrazzo.images import IMAGE_SUFFIXES
from terrazzo.labels import LabelSpec

__all__ = ["LAYOUT", "count_stored_values", "find_pairs", "infer_labels", "open_folder", "splits"]

LAYOUT = "folder of images and masks"


def splits(root: Path) -> list[str]:
    """Return the names of the splits that a root holds: the subfolders with ``images`` and ``masks`` in them."""
    return sorted(
        folder.name for folder in root.iterdir() if (folder / "images").is_dir() and (folder / "masks").is_dir()
    )


def open_folder(root: Path, split: str, labels: LabelSpec | None = None) -> Dataset:
    """Open one split.

    Args:
        root: the data set's folder.
        split: the subfolder's name.
        labels: the classes; by default ``labels.yaml``, else as many numbered classes as the masks show.

    Raises:
        DatasetError: there is no such split, it is empty, a photo or mask has no partner, or two share a name.
    """
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not a folder", fix="give the folder that holds train/ and val/", code="dataset-missing"
        )
    folder = root / split
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        there = splits(root)
        raise DatasetError(
            f"{root} has no split {split!r} with images/ and masks/ in it",
            fix=f"use one of: {', '.join(there)}" if there else f"lay it out as {root.name}/{split}/images and /masks",
            code="dataset-split",
        )
    samples, problems = find_pairs(folder)
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise DatasetError(
            f"{folder}: {shown}",
            fix=f"give every photo one mask of the same name; `terrazzo check-data {root}` lists all of them",
            code="dataset-pairs",
        )
    if not samples:
        raise DatasetError(f"{folder} holds no photos", fix="put photos and masks into it", code="dataset-empty")
    if labels is None:
        labels = LabelSpec.from_yaml(root / "labels.yaml") if (root / "labels.yaml").exists() else infer_labels(root)
    return Dataset(root, split, labels, tuple(samples), LAYOUT)


def find_pairs(folder: Path) -> tuple[list[Sample], list[str]]:
    """Pair ``folder/images`` with ``folder/masks`` by name without ending.

    Returns:
        The pairs sorted by name, and one sentence per photo or mask that has none or several partners.
    """
    images, masks = _by_stem(folder / "images", IMAGE_SUFFIXES), _by_stem(folder / "masks", MASK_SUFFIXES)
    samples, problems = [], []
    for stem in sorted(images.keys() | masks.keys()):
        photos, labels = images.get(stem, []), masks.get(stem, [])
        if len(photos) == 1 and len(labels) == 1:
            samples.append(Sample(photos[0], labels[0]))
        elif not labels:
            problems.append(f"{photos[0].name} has no mask")
        elif not photos:
            problems.append(f"mask {labels[0].name} has no photo")
        else:
            several = photos if len(photos) > 1 else labels
            problems.append(f"{' and '.join(path.name for path in several)} share one name")
    return samples, problems


def infer_labels(root: Path) -> LabelSpec:
    """Return numbered classes, 0 up to the largest value other than 255 in the masks of any split.

    Raises:
        DatasetError: the masks are in colour, or show fewer than two classes.
    """
    values: Counter[int] = Counter()
    for split in splits(root):
        for sample in find_pairs(root / split)[0]:
            values += count_stored_values(sample.mask)
    del values[255]
    if len(values) < 2:
        raise DatasetError(
            f"the masks under {root} show fewer than two classes: {sorted(values)}",
            fix="label the background as a class of its own, or name the classes in labels.yaml",
            code="dataset-classes",
        )
    count = max(values) + 1
    if count > 255:
        raise DatasetError(
            f"the masks under {root} hold values up to {count - 1}, too many to be guessed at as classes",
            fix="write the classes, and the map from stored values to them, into labels.yaml",
            code="dataset-classes",
        )
    names = ["background", "foreground"] if count == 2 else [f"class_{i}" for i in range(count)]
    return LabelSpec.from_names(names)


def count_stored_values(path: Path) -> Counter[int]:
    """Return how often each value occurs in an index mask.

    Raises:
        DatasetError: the mask is in colour.
    """
    stored = read_stored_mask(path)
    if stored.ndim == 3:
        colors = np.unique(stored.reshape(-1, 3), axis=0)[:5].tolist()
        raise DatasetError(
            f"{path} is a colour mask (its colours begin with {colors}), and nothing says which class a colour is",
            fix="add labels.yaml with `names:` and `colors:`",
            code="mask-colors",
        )
    found, counts = np.unique(stored, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _by_stem(folder: Path, suffixes: tuple[str, ...] | frozenset[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            found[path.stem].append(path)
    return found
