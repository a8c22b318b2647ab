"""Photos kept decoded in memory: the same batches, each file read once, and only where they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import make_data, tiny_recipe

from terrazzo.data import Dataset
from terrazzo.errors import DatasetError
from terrazzo.training import decoded as decoded_module
from terrazzo.training.augment import AUGMENTATIONS, Augmentation
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.decoded import DecodedDataset, decoded_where_they_fit
from terrazzo.training.memory import Memory


@pytest.fixture
def splits(tmp_path: Path) -> tuple[Dataset, Dataset]:
    return open_splits(tiny_recipe().data, make_data(tmp_path / "data"))


def free(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    memory = None if size is None else Memory(size, size)
    monkeypatch.setattr(decoded_module, "memory_of", lambda _: memory)


def test_what_fits_is_read_once_and_the_same(splits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 8 * 8 * 48 * 64 * 4)  # eight photos with three channels and a mask, in an eighth of it
    (train, val), lines = decoded_where_they_fit(splits)
    assert lines == ["photos    kept decoded in memory (1 MB)"]
    expected = [splits[0].read(index) for index in range(5)]
    for sample in splits[0].samples:
        sample.image.file.unlink()
    for index, (image, mask) in enumerate(expected):
        assert all(np.array_equal(one, other) for one, other in zip(train.read(index), (image, mask), strict=True))
    assert (len(val), val.split, val.labels) == (3, "val", splits[1].labels)


@pytest.mark.parametrize("size", [8 * 8 * 48 * 64 * 4 - 1, 0, None])
def test_what_does_not_fit_stays_on_the_disk(
    splits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    free(monkeypatch, size)
    assert decoded_where_they_fit(splits) == (list(splits), [])


def test_no_augmentation_writes_into_what_is_kept(splits: tuple[Dataset, Dataset]) -> None:
    (train, _), _ = decoded_where_they_fit(splits)
    assert isinstance(train, DecodedDataset)
    steps: list[Any] = [kind(**({"size": (32, 32)} if name == "crop" else {})) for name, kind in AUGMENTATIONS.items()]
    every = [*steps, *steps[1:4], *steps[5:]]
    augment = Augmentation(every, train.read, labelled_pixels(splits[0]), 255)
    files = Augmentation(every, splits[0].read, labelled_pixels(splits[0]), 255)
    for index in range(5):
        kept, read = (one(index, np.random.default_rng(index)) for one in (augment, files))
        assert all(np.array_equal(one, other) for one, other in zip(kept, read, strict=True))
        assert not torch.tensor(train.read(index)[0]).equal(torch.zeros(48, 64, 3, dtype=torch.uint8))


def test_damage_is_found_on_the_way_and_named_together(splits: tuple[Dataset, Dataset]) -> None:
    for number in (1, 3):
        file = splits[0].samples[number].image.file
        whole = file.read_bytes()
        file.write_bytes(whole[:2000] + bytes(40) + whole[2040:])
    with pytest.raises(DatasetError, match=r"2 photos or masks .*train_1\.png.*train_3\.png"):
        decoded_where_they_fit(splits)
