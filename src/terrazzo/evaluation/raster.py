"""A model against a labelled raster of any size: prediction, labels and counts go by in bands of rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from terrazzo.data import Dataset
from terrazzo.data.masks import read_mask
from terrazzo.data.raster_labels import WindowMask
from terrazzo.data.sources.raster import Raster
from terrazzo.data.sources.raster_window import RasterWindow
from terrazzo.data.sources.region import PixelWindow
from terrazzo.errors import DatasetError
from terrazzo.evaluation.confusion import ConfusionMatrix
from terrazzo.evaluation.report import Report
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.raster import RasterOptions, segmented_raster
from terrazzo.inference.scores import NOTHING
from terrazzo.text import shown_path

__all__ = ["measure_raster"]


def measure_raster(
    predictor: Predictor,
    dataset: Dataset,
    options: RasterOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Compare the mask that prediction writes of a raster with its labels.

    Pixels without a measurement or a label do not count.

    Args:
        predictor: the model, and the protocol to follow; rasters are shown as `segmented_raster` says.
        dataset: the windows of one raster, with the classes in the model's order.
        options: the region to compare.
        progress: called with (rows done, rows in all).

    Raises:
        ImageError: the raster or its labels cannot be read.
        DatasetError: the labels hold values that are no class, or nothing is labelled.
    """
    started = time.monotonic()
    labels, mask = dataset.labels, dataset.samples[0].mask
    assert isinstance(mask, WindowMask)
    path = mask.image.file
    segmented = segmented_raster(predictor, path, predictor.reading(dataset.reading), options)
    raster = segmented.source
    assert isinstance(raster, Raster)
    total = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    with closing(raster):
        top, (height, width) = 0, raster.size
        for band in segmented.bands(raster, NOTHING, None):
            rows = len(band.mask)
            window = PixelWindow(raster.window.top + top, raster.window.left, rows, width)
            here = WindowMask(RasterWindow(path, window), mask.labels, leaves_gaps_out=False)
            label_RW = read_mask(here, labels)
            label_RW[band.mask == labels.ignore_index] = labels.ignore_index
            total.update(band.mask, label_RW)
            top += rows
            if progress is not None:
                progress(top, height)
    if not total.counts.any():
        raise DatasetError(
            f"{shown_path(mask.file)}: no pixel that is compared has a label",
            fix="give a region that is labelled, or correct the labels",
            code="dataset-unlabelled",
        )
    return Report(
        labels=labels,
        confusion=total.counts,
        boundary=None,
        model=predictor.model or "model",
        dataset=path.name,
        split=dataset.split,
        images=1,
        protocol=segmented.shown.protocol.name,
        protocol_hash=segmented.shown.protocol.digest(segmented.shown.preprocess),
        seconds=time.monotonic() - started,
    )
