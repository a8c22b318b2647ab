"""Running a model over a labelled split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from terrazzo.data.dataset import Dataset
from terrazzo.evaluation.boundary import BoundaryIoU
from terrazzo.evaluation.confusion import ConfusionMatrix
from terrazzo.inference.predictor import Engine, predict_masks
from terrazzo.preprocess import Preprocess

__all__ = ["score"]


def score(
    engine: Engine,
    preprocess: Preprocess,
    dataset: Dataset,
    indices: Iterable[int],
    *,
    batch_size: int = 1,
    boundary: BoundaryIoU | None = None,
) -> ConfusionMatrix:
    """Count predictions against labels at the labels' own resolution.

    Args:
        engine: runs the network.
        preprocess: the weights' own.
        dataset: the labelled photos.
        indices: which of them.
        batch_size: photos in one batch; only neighbours of equal size share one.
        boundary: also counts boundary bands, if given.

    Returns:
        The confusion matrix, labels in rows and predictions in columns.
    """
    confusion = ConfusionMatrix(dataset.labels.num_classes, dataset.labels.ignore_index)
    for pairs in _batches((dataset.read(index) for index in indices), batch_size):
        predictions = predict_masks(engine, preprocess, [image for image, _ in pairs])
        for prediction, (_, label) in zip(predictions, pairs, strict=True):
            confusion.update(prediction, label)
            if boundary is not None:
                boundary.update(prediction, label)
    return confusion


def _batches(pairs: Iterator, size: int) -> Iterator[Sequence]:
    for _, same_size in groupby(pairs, key=lambda pair: pair[1].shape):
        batch = []
        for pair in same_size:
            batch.append(pair)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
