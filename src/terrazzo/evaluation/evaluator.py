"""Running a model over a labelled split."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data import Dataset, open_dataset
from terrazzo.errors import DatasetError
from terrazzo.evaluation.boundary import BoundaryIoU
from terrazzo.evaluation.confusion import ConfusionMatrix
from terrazzo.evaluation.report import Report
from terrazzo.images import ReadOptions
from terrazzo.inference.choice import Workload
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.labels import LabelSpec
from terrazzo.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["MANY_PHOTOS", "evaluate", "measure", "score", "select"]

Mask = NDArray[np.integer[Any]]
Pair = tuple[NDArray[np.uint8], Mask]

MANY_PHOTOS = Workload(photos=100)
"""What an engine is chosen for: how many photos a split has is known only after the model's labels are."""


def evaluate(
    model: str | Path | TrainedModel | Predictor = DEFAULT_MODEL,
    data: str | Path = ".",
    *,
    split: str = "val",
    labels: str | None = None,
    only: str | None = None,
    protocol: str | Protocol = WHOLE,
    device: str | None = None,
    engine: str = "auto",
    reading: ReadOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure a model on a labelled split: mIoU, mAcc, aAcc, per-class values and boundary IoU.

    Masks are compared at the labels' own resolution. Rules for absent classes and ignored pixels are those of
    mmsegmentation and both papers.

    Args:
        model: a loaded model, what `terrazzo.load` takes, an exported file, or a predictor from `make_predictor`, which
            has its device, protocol and engine already.
        data: the data set's folder.
        split: which split of it.
        labels: name of a bundled class list for a folder that does not say what its classes are; by default the
            folder's own, or the model's where the folder has none.
        only: a pattern such as ``0001TP*``: only photos whose name matches it.
        protocol: how photos are shown to the network, or the name of a protocol such as ``segformer-ade20k``; by
            default whole, at the size that the model's preprocessing gives them.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        engine: ``auto``, ``torch``, ``openvino`` or ``onnxruntime``.
        reading: how photos are read, where their files leave that open.
        progress: called with (photos done, photos in all).

    Raises:
        DatasetError: the data set cannot be read, or its classes are not the model's.
        CheckpointError: the model cannot be loaded.
        ConfigError: no protocol or engine is called so, or the engine cannot do what is asked of it.
        MissingExtraError: the engine is not installed.
    """
    if isinstance(model, Predictor):
        predictor = model
    else:
        predictor = make_predictor(model, device, protocol, engine=engine, precision="fp32", workload=MANY_PHOTOS)
    spec = LabelSpec.bundled(labels) if labels else None
    dataset = open_dataset(data, split, spec, fallback=replace(predictor.labels, id_map=None, colors=None))
    if dataset.labels.num_classes != predictor.labels.num_classes:
        raise DatasetError(
            f"{data} has {dataset.labels.num_classes} classes and the model has {predictor.labels.num_classes}",
            fix="evaluate a model trained on these classes",
            code="dataset-classes",
        )
    if reading is not None:
        dataset = replace(dataset, reading=reading)
    if only is not None:
        dataset = select(dataset, only)
    name = Path(data).resolve().name
    report, _ = measure(predictor, dataset, name, progress=progress)
    return report if only is None else replace(report, split=f"{split} ({only})")


def measure(
    predictor: Predictor,
    dataset: Dataset,
    name: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[float]]:
    """Run a predictor over every photo of a split.

    Args:
        predictor: the model, and the protocol to follow.
        dataset: the labelled photos.
        name: what the report calls the data set.
        progress: called with (photos done, photos in all).

    Returns:
        The report, and each photo's own mIoU (NaN where nothing is labelled).
    """
    started = time.monotonic()
    labels = dataset.labels
    total = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    boundary = BoundaryIoU(labels.num_classes, labels.ignore_index)
    photo_scores = []
    pairs = ([dataset.read(index)] for index in range(len(dataset)))
    for index, batch in enumerate(_predicted(predictor, pairs)):
        photo = _counted(batch, labels, boundary)
        total.merge(photo)
        photo_scores.append(photo.metrics().mIoU)
        if progress is not None:
            progress(index + 1, len(dataset))
    report = Report(
        labels=labels,
        confusion=total.counts,
        boundary=boundary.metrics(),
        model=predictor.model or "model",
        dataset=name,
        split=dataset.split,
        images=len(dataset),
        protocol=predictor.protocol.name,
        protocol_hash=predictor.protocol.digest(predictor.preprocess),
        seconds=time.monotonic() - started,
    )
    return report, photo_scores


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
) -> ConfusionMatrix:
    """Count predictions against labels at the labels' own resolution.

    Args:
        predictor: the model.
        dataset: the labelled photos.
        indices: which of them.
        batch_size: photos in one batch; only neighbours of equal size share one.
        boundary: also counts boundary bands, if given.

    Returns:
        The confusion matrix, labels in rows and predictions in columns.
    """
    confusion = ConfusionMatrix(dataset.labels.num_classes, dataset.labels.ignore_index)
    pairs = (dataset.read(index) for index in indices)
    for batch in _predicted(predictor, _batches(pairs, batch_size)):
        confusion.merge(_counted(batch, dataset.labels, boundary))
    return confusion


def _predicted(predictor: Predictor, batches: Iterable[list[Pair]]) -> Iterator[list[tuple[Mask, Mask]]]:
    """Predictions and labels of each batch, in order; the next batches are read and predicted meanwhile."""

    def predict(pairs: list[Pair]) -> list[tuple[Mask, Mask]]:
        masks = predictor.masks([image for image, _ in pairs])
        return [(mask, label) for mask, (_, label) in zip(masks, pairs, strict=True)]

    return predictor.side_by_side(predict, batches)


def _counted(batch: list[tuple[Mask, Mask]], labels: LabelSpec, boundary: BoundaryIoU | None) -> ConfusionMatrix:
    confusion = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    for prediction, label in batch:
        confusion.update(prediction, label)
        if boundary is not None:
            boundary.update(prediction, label)
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
