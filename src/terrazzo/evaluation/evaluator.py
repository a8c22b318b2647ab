"""Running a model over a labelled split."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data import Dataset, open_dataset
from terrazzo.errors import DatasetError
from terrazzo.evaluation.boundary import BoundaryIoU
from terrazzo.evaluation.confusion import ConfusionMatrix
from terrazzo.evaluation.report import Report
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.labels import LabelSpec
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.files import TrainedModel

__all__ = ["evaluate", "score", "select"]

Pair = tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]


def evaluate(
    model: str | Path | TrainedModel = DEFAULT_MODEL,
    data: str | Path = ".",
    *,
    split: str = "val",
    labels: str | None = None,
    only: str | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure a model on a labelled split: mIoU, mAcc, aAcc, per-class values and boundary IoU.

    Every photo goes through the network whole, at the size that the model's preprocessing gives it; masks are
    compared at the labels' own resolution. Rules for absent classes and ignored pixels are those of mmsegmentation
    and both papers.

    Args:
        model: a loaded model, or what `terrazzo.load` takes.
        data: the data set's folder.
        split: which split of it.
        labels: name of a bundled class list for a folder that does not say what its classes are; by default the
            folder's own, or the model's where the folder has none.
        only: a pattern such as ``0001TP*``: only photos whose name matches it.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        progress: called with (photos done, photos in all).

    Raises:
        DatasetError: the data set cannot be read, or its classes are not the model's.
        CheckpointError: the model cannot be loaded.
    """
    predictor = make_predictor(model, device)
    spec = LabelSpec.bundled(labels) if labels else None
    dataset = open_dataset(data, split, spec, fallback=replace(predictor.labels, id_map=None, colors=None))
    if dataset.labels.num_classes != predictor.labels.num_classes:
        raise DatasetError(
            f"{data} has {dataset.labels.num_classes} classes and the model has {predictor.labels.num_classes}",
            fix="evaluate a model trained on these classes",
            code="dataset-classes",
        )
    if only is not None:
        dataset = select(dataset, only)
    started = time.monotonic()
    boundary = BoundaryIoU(dataset.labels.num_classes, dataset.labels.ignore_index)
    confusion = score(predictor, dataset, range(len(dataset)), boundary=boundary, progress=progress)
    protocol = {"name": "whole", "preprocess": predictor.preprocess.to_dict()}
    return Report(
        labels=dataset.labels,
        confusion=confusion.counts,
        boundary=boundary.metrics(),
        model=predictor.model or "model",
        dataset=Path(data).resolve().name,
        split=split if only is None else f"{split} ({only})",
        images=len(dataset),
        protocol=str(protocol["name"]),
        protocol_hash=hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12],
        seconds=time.monotonic() - started,
    )


def select(dataset: Dataset, pattern: str) -> Dataset:
    """Keep the photos whose name matches a pattern.

    Raises:
        DatasetError: none does.
    """
    samples = tuple(sample for sample in dataset.samples if fnmatch.fnmatch(sample.name, pattern))
    if not samples:
        raise DatasetError(
            f"no photo of {dataset.root} / {dataset.split} is called {pattern!r}",
            fix="give a pattern such as '0001TP*', in quotes",
            code="dataset-empty",
        )
    return replace(dataset, samples=samples)


def score(
    predictor: Predictor,
    dataset: Dataset,
    indices: Iterable[int],
    *,
    batch_size: int = 1,
    boundary: BoundaryIoU | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConfusionMatrix:
    """Count predictions against labels at the labels' own resolution.

    Args:
        predictor: the model.
        dataset: the labelled photos.
        indices: which of them.
        batch_size: photos in one batch; only neighbours of equal size share one.
        boundary: also counts boundary bands, if given.
        progress: called with (photos done, photos in all).

    Returns:
        The confusion matrix, labels in rows and predictions in columns.
    """
    indices = list(indices)
    confusion = ConfusionMatrix(dataset.labels.num_classes, dataset.labels.ignore_index)
    done = 0
    for pairs in _batches((dataset.read(index) for index in indices), batch_size):
        predictions = predictor.masks([image for image, _ in pairs])
        for prediction, (_, label) in zip(predictions, pairs, strict=True):
            confusion.update(prediction, label)
            if boundary is not None:
                boundary.update(prediction, label)
        done += len(pairs)
        if progress is not None:
            progress(done, len(indices))
    return confusion


def _batches(pairs: Iterator[Pair], size: int) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    for pair in pairs:
        if batch and (len(batch) == size or pair[1].shape != batch[0][1].shape):
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch
