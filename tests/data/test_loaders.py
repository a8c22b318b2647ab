"""Loaders: the same batches whatever loads them, and faults that reach the user as what they are."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_layouts
import numpy as np
import pytest
import torch
from augmenting import over
from made_folder import Folder, halves
from torch.utils.data import _utils as loader_internals
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from terrazzo.data import Dataset, open_dataset
from terrazzo.data.loaders import Batch, TrainLoader, _Failure, _stop_at_exit
from terrazzo.errors import ConfigError, DatasetError, ImageError, MissingExtraError, TerrazzoError, TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.flip import RandomFlip
from terrazzo.training.augment.photometric import PhotometricDistortion
from terrazzo.training.augment.resize import RandomResize

CROP = (8, 10)
STEPS = [RandomResize(), RandomCrop(size=CROP), RandomFlip(), PhotometricDistortion()]


@pytest.fixture
def train(folder: Folder) -> Dataset:
    folder.fill(train=7)
    return open_dataset(folder.root, "train", LabelSpec.from_names(["a", "b"]))


def loader(train: Dataset, **options: Any) -> TrainLoader:
    return TrainLoader(
        train, over(train, STEPS), Preprocess(), CROP, **{"batch_size": 2, "seed": 3, "workers": 0} | options
    )


def assert_same(left: Batch, right: Batch) -> None:
    assert left.indices == right.indices
    assert torch.equal(left.images, right.images)
    assert torch.equal(left.labels, right.labels)


# -- what batches hold ------------------------------------------------------------------------------------------------


def test_a_batch(train: Dataset) -> None:
    batches = list(loader(train).batches(0))
    assert len(batches) == loader(train).batches_per_epoch == 3  # of 7 photos the last is dropped
    for batch in batches:
        assert batch.images.shape == (2, 3, *CROP)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.shape == (2, *CROP)
        assert batch.labels.dtype == torch.int64
        assert set(batch.labels.unique().tolist()) <= {0, 1, 255}
    assert len({index for batch in batches for index in batch.indices}) == 6


def test_padding_is_zero_and_unlabelled(train: Dataset) -> None:
    small = TrainLoader(train, over(train), Preprocess(), (20, 20), 2, 0, 0)
    batch = next(small.batches(0))
    assert (batch.labels[:, 12:] == 255).all()
    assert (batch.images[:, :, :, 16:] == 0).all()
    photo, mask = train.read(batch.indices[0])
    expected = (photo.astype(np.float64) - Preprocess().mean) / Preprocess().std
    np.testing.assert_allclose(batch.images[0, :, :12, :16].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(batch.labels[0, :12, :16].numpy(), mask)


def test_epochs_differ_and_repeat(train: Dataset) -> None:
    first, again, other = (list(loader(train).batches(epoch)) for epoch in (0, 0, 1))
    for left, right in zip(first, again, strict=True):
        assert_same(left, right)
    assert [batch.indices for batch in first] != [batch.indices for batch in other]
    assert [batch.indices for batch in loader(train, seed=4).batches(0)] != [batch.indices for batch in first]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(train: Dataset, workers: int) -> None:
    for left, right in zip(loader(train).batches(5), loader(train, workers=workers).batches(5), strict=True):
        assert_same(left, right)


def test_a_start_in_mid_epoch_is_the_tail(train: Dataset) -> None:
    for left, right in zip(list(loader(train).batches(2))[1:], loader(train).batches(2, start=1), strict=True):
        assert_same(left, right)
    assert list(loader(train).batches(2, start=3)) == []


def test_the_same_workers_go_on_through_the_epochs(train: Dataset) -> None:
    """They give what each epoch alone gives; starting them draws nothing from the generator of the run."""
    before = torch.get_rng_state()
    batches = loader(train, workers=2).batches(1, start=2, count=6)
    each = [batch for epoch in (1, 2, 3) for batch in loader(train).batches(epoch)][2:8]
    pids = []
    for left, right in zip(batches, each, strict=True):
        assert_same(left, right)
        pids.append({child.pid for child in multiprocessing.active_children()})
    assert len(pids[0]) == 2 and all(later == pids[0] for later in pids)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_what_one_sees(train: Dataset, world_size: int) -> None:
    whole = loader(train, batch_size=6).batches(1)
    shares = [loader(train, batch_size=6, rank=rank, world_size=world_size).batches(1) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for rank, part in enumerate(parts):
            assert part.indices == batch.indices[rank::world_size]
            assert torch.equal(part.images, batch.images[rank::world_size])
            assert torch.equal(part.labels, batch.labels[rank::world_size])


def test_ranks_start_in_mid_epoch_too(train: Dataset) -> None:
    tail = list(loader(train, rank=1, world_size=2).batches(1))[2:]
    for left, right in zip(tail, loader(train, rank=1, world_size=2).batches(1, start=2), strict=True):
        assert_same(left, right)


def test_a_data_set_smaller_than_a_batch_is_repeated(train: Dataset) -> None:
    (batch,) = loader(train, batch_size=16).batches(0)
    counts = np.bincount(batch.indices, minlength=7)
    assert counts.sum() == 16
    assert counts.min() >= 2  # 16 = 7 + 7 + 2
    assert counts.max() == 3
    twins = [i for i, index in enumerate(batch.indices) if index == batch.indices[0]]
    assert not torch.equal(batch.images[twins[0]], batch.images[twins[1]])  # each time augmented again


def test_pinning_reaches_the_tensors(monkeypatch: pytest.MonkeyPatch, train: Dataset) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self + 1)
    batch = next(loader(train).batches(0))
    pinned = loader_internals.pin_memory.pin_memory(batch)
    assert torch.equal(pinned.images, batch.images + 1)
    assert torch.equal(pinned.labels, batch.labels + 1)


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "world_size", "fix"), [(5, 2, "size of 4"), (1, 4, "size of 4"), (0, 1, "size of 1")]
)
def test_a_batch_that_ranks_cannot_share(train: Dataset, batch_size: int, world_size: int, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"a batch of {batch_size} photos") as caught:
        loader(train, batch_size=batch_size, world_size=world_size)
    assert caught.value.code == "config-batch-size"
    assert fix in caught.value.fix


def test_an_empty_split_and_negative_workers(train: Dataset) -> None:
    with pytest.raises(DatasetError, match="train holds no photos"):
        loader(replace(train, samples=()))
    with pytest.raises(ConfigError, match="workers is -1"):
        loader(train, workers=-1)
    with pytest.raises(ConfigError, match="workers is 1000000, and this machine has") as caught:
        loader(train, workers=10**6)
    assert caught.value.code == "config-workers"


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_out_of_workers_as_they_are(train: Dataset, workers: int) -> None:
    train.samples[4].image.file.write_bytes(b"not a photo")
    with pytest.raises(ImageError) as caught:
        list(loader(train, workers=workers, batch_size=7).batches(0))
    assert caught.value.code == "image-format"
    assert str(train.samples[4].image.file) in caught.value.message
    assert caught.value.fix
    assert str(caught.value).endswith(f"({caught.value.fix})")


def test_outlines_are_painted_in_workers(folder: Folder) -> None:
    made = made_layouts.coco_json(folder)
    dataset = open_dataset(folder.root, "train")
    (batch,) = TrainLoader(dataset, over(dataset), Preprocess(), made_layouts.SIZE, 2, seed=0, workers=1).batches(0)
    for index, labels in zip(batch.indices, batch.labels, strict=True):
        assert labels.tolist() == made.masks["train"][dataset.samples[index].name].tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_fault_36_a_file_removed_during_an_epoch_is_named(train: Dataset, workers: int) -> None:
    batches = loader(train, workers=workers, batch_size=1).batches(0)
    next(batches)
    for sample in train.samples:
        sample.mask.file.unlink()
    with pytest.raises(DatasetError, match=r"train_\d\.png: it has disappeared") as caught:
        list(batches)
    assert caught.value.code == "dataset-file-gone"


@pytest.mark.parametrize(
    "error",
    [
        TerrazzoError("a", fix="b"),
        ImageError("what", fix="do", code="image-truncated"),
        MissingExtraError("rasterio", "geo"),
    ],
)
def test_every_error_survives_the_way_between_processes(error: TerrazzoError) -> None:
    copy = pickle.loads(pickle.dumps(_Failure.of(error))).error()
    assert type(copy) is type(error)
    assert (copy.message, copy.fix, copy.code, str(copy)) == (error.message, error.fix, error.code, str(error))


def test_other_exceptions_of_a_worker_are_not_hidden(train: Dataset) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a fault of the program")

    with pytest.raises(ZeroDivisionError, match="a fault of the program"):
        list(TrainLoader(train, over(train, [broken]), Preprocess(), CROP, 2, 0, 1).batches(0))


# -- worker processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for dead workers every fifth of a second instead of every five."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def long_epoch(train: Dataset) -> Iterator[Batch]:
    return loader(replace(train, samples=train.samples * 20), workers=1).batches(0)


def worker() -> Any:
    (process,) = multiprocessing.active_children()
    return process


@pytest.mark.usefixtures("impatient")
def test_fault_53_a_killed_worker_is_an_error_and_no_hang(train: Dataset) -> None:
    batches = long_epoch(train)
    next(batches)
    os.kill(worker().pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"process \d+ with exit code -9") as caught:
        list(batches)
    assert caught.value.code == "training-worker-died"
    assert "fewer workers" in caught.value.fix


@pytest.mark.usefixtures("impatient")
def test_a_worker_killed_while_it_looks_whether_to_end_is_no_hang(train: Dataset) -> None:
    batches = long_epoch(train)
    next(batches)
    (held,) = (batches for batches in _stop_at_exit() if not batches._shutdown)
    if lock := getattr(held._workers_done_event, "_cond", None):
        lock.acquire()  # as the worker would have it, with Python's own event
    os.kill(worker().pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"process \d+ with exit code -9"):
        list(batches)


def test_a_dying_worker_does_not_break_into_other_work(train: Dataset) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = long_epoch(train)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    batches.close()  # type: ignore[attr-defined]


def test_fault_49_workers_leave_sigterm_to_the_training_process(train: Dataset) -> None:
    batches = long_epoch(train)
    next(batches)
    os.kill(worker().pid, signal.SIGTERM)
    os.kill(worker().pid, signal.SIGINT)
    assert len(list(batches)) == 69


def test_workers_end_with_the_epoch_and_with_its_reader(train: Dataset) -> None:
    list(loader(train, workers=2).batches(0))
    assert not multiprocessing.active_children()
    batches = long_epoch(train)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_an_epoch_left_open_does_not_keep_python_from_ending(train: Dataset) -> None:
    code = """
import sys
from pathlib import Path
from terrazzo.data import open_dataset
from terrazzo.data.loaders import TrainLoader
from terrazzo.preprocess import Preprocess
train = open_dataset(sys.argv[1], "train")
sys.held = TrainLoader(train, lambda index, rng: train.read(index), Preprocess(), (12, 16), 1, 0, 2).batches(0)
next(sys.held)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(train.root)], env=environment, check=True, timeout=600)


def test_an_error_ends_the_workers_though_its_traceback_is_kept(train: Dataset) -> None:
    train.samples[0].image.file.write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        list(loader(train, workers=2, batch_size=7).batches(0))
    assert caught.tb is not None
    assert not multiprocessing.active_children()


def test_camvid_batches(shared_data: Path) -> None:
    camvid = open_dataset(shared_data / "camvid", "train", LabelSpec.bundled("camvid"))
    steps = over(camvid, [RandomResize(), RandomCrop(size=(64, 64)), RandomFlip()])
    options: Any = {"augment": steps, "preprocess": Preprocess(), "crop_size": (64, 64), "batch_size": 4, "seed": 0}
    alone, helped = (TrainLoader(camvid, workers=workers, **options).batches(0, start=89) for workers in (0, 2))
    count = 0
    for left, right in zip(alone, helped, strict=True):
        assert_same(left, right)
        assert (left.labels != 255).float().mean() > 0.5
        count += 1
    assert count == 367 // 4 - 89


def test_halves_of_a_image_stay_with_their_labels(folder: Folder) -> None:
    """Through reading, augmentation and batching, what is bright is class 1 and what is dark class 0."""
    mask = halves(0, 1, (24, 32))
    for number in range(4):
        folder.picture(f"train/masks/{number}.png", mask)
        folder.picture(f"train/images/{number}.png", np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    dataset = open_dataset(folder.root, "train", LabelSpec.from_names(["dark", "bright"]))
    steps = over(dataset, [RandomResize(), RandomCrop(size=(16, 16), cat_max_ratio=1.0), RandomFlip()])
    for batch in TrainLoader(dataset, steps, Preprocess(), (16, 16), 2, 0, 0).batches(0):
        labelled = batch.labels != 255
        bright = batch.images.mean(1) > 0
        assert ((bright == (batch.labels == 1)) | ~labelled).float().mean() > 0.9
