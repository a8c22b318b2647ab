"""Running a model over a labelled split."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.data import DataRules, Dataset, open_dataset
from terrazzo.data.classes import void_may_be_object
from terrazzo.data.layouts.rasters import raster_dataset
from terrazzo.data.mask_evidence import has_own_order, is_soft
from terrazzo.data.masks import Stored
from terrazzo.data.readings import MaskValues, as_indices, read_by, refuse_mask_values
from terrazzo.data.rules import Crowds
from terrazzo.data.sources.raster import is_raster
from terrazzo.data.sources.source import Image
from terrazzo.data.splits import check_group_by, groups_of
from terrazzo.engines.auto import Workload
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.engines.modes import keeps_mode
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.evaluation.boundary import BoundaryIoU
from terrazzo.evaluation.calibration import Calibration, grid_step
from terrazzo.evaluation.confusion import ConfusionMatrix
from terrazzo.evaluation.intervals import ImageCounts, image_row
from terrazzo.evaluation.raster import measure_raster
from terrazzo.evaluation.report import Report
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.inference.raster import RasterOptions
from terrazzo.labels.matching import ends, match_classes, reordered, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.text import show, shown_path
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.metadata import names_are_guessed

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["MANY_IMAGES", "evaluate", "in_order_of", "measure", "open_labelled", "predicted", "score", "select"]

Mask = NDArray[np.integer[Any]]
Pair = tuple[Image, Mask]
T = TypeVar("T")

MANY_IMAGES = Workload(images=100)
"""The engine is chosen as for this many: how many a split has is known only after the model's labels are."""


@checked
@keeps_mode
def evaluate(
    model: str | Path | TrainedModel | Predictor = DEFAULT_MODEL,
    data: str | Path = ".",
    *,
    split: str = "val",
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    only: str | None = None,
    crowds: Crowds | None = None,
    protocol: str | Protocol = "whole",
    device: str | None = None,
    engine: str = "auto",
    reading: ReadOptions | None = None,
    truth: str | Path | None = None,
    attribute: str | None = None,
    raster: RasterOptions | None = None,
    group_by: str | None = None,
    trust: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure a model on a labelled split: mIoU, mAcc, aAcc, per-class values and boundary IoU.

    Masks are compared at the labels' own resolution. Rules for absent classes and ignored pixels are those of
    mmsegmentation and both papers. Where the data counts its classes in another order than the model, they are matched
    by name, and the report has the model's order.

    Args:
        model: a loaded model, what `terrazzo.load` takes, an exported file, or a predictor from `make_predictor`, which
            has its device, protocol and engine already.
        data: the data set's folder; or, with `truth`, a georeferenced raster of any size.
        split: which split of it.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are; by default the
            folder's own, or the model's where the folder has none.
        mask_values: for a folder that does not say what its classes are: ``stored`` where its masks hold the values
            that the model's own masks stored, ``indices`` where they hold class indices; by default whichever explains
            all values that occur.
        only: a pattern such as ``0001TP*``: only photos whose name matches it.
        crowds: what ``iscrowd: 1`` means in a COCO document, ``ignore`` or ``objects``; by default what it meant in
            the model's training.
        protocol: how photos are shown to the network, or the name of a protocol such as ``segformer-ade20k``; by
            default whole, at the size that the model's preprocessing gives them.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        engine: ``auto``, or the name of one, as `make_predictor` takes it.
        reading: how photos are read, where their files leave that open.
        truth: what a raster is compared with: a GeoTIFF of class indices in its grid, or polygons in GeoJSON.
        attribute: the property that holds the class of a polygon; by default ``class``, where the polygons have it.
        raster: the region of the raster that is compared.
        group_by: a regular expression for what photos of one drive, patient or place have in common at the beginning of
            their names, such as ``[^_]+``; confidence intervals are then drawn from these groups.
        trust: open a ``.pt2`` file that was not exported on this machine; see `make_predictor`.
        progress: called with (photos done, photos in all); for a raster with rows.

    Raises:
        DatasetError: the data set cannot be read, its classes are not the model's, or its masks can be read in two
            ways.
        CheckpointError: the model cannot be loaded.
        ConfigError: no protocol or engine has this name, or the engine lacks an option that is asked for.
        MissingExtraError: the engine is not installed.
    """
    refuse_mask_values(mask_values)
    check_group_by(group_by)
    of_photos = {"only": only, "crowds": crowds, "group_by": group_by}
    _refuse_mixed(Path(data), truth, attribute=attribute, region=raster and raster.region, **of_photos)
    if isinstance(model, Predictor):
        predictor = model
    else:
        predictor = make_predictor(
            model, device, protocol, engine=engine, precision="fp32", workload=MANY_IMAGES, trust=trust
        )
    dataset = open_labelled(predictor, data, split, labels, mask_values, only, crowds, reading, truth, attribute)
    if truth is not None:
        return measure_raster(predictor, in_order_of(predictor, dataset), raster or RasterOptions(), progress=progress)
    name = Path(data).resolve().name
    report, _ = measure(predictor, dataset, name, progress=progress)
    if group_by is not None:
        assert report.image_counts is not None
        groups = groups_of([sample.name for sample in dataset.samples], group_by)
        report = replace(report, image_counts=report.image_counts.grouped(groups))
        if len(set(groups)) == 1:
            note(f"all photos are of one group, {show(groups[0])}: one group gives no confidence interval")
    return report if only is None else replace(report, split=f"{split} ({only})")


def open_labelled(
    predictor: Predictor,
    data: str | Path,
    split: str,
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    only: str | None = None,
    crowds: Crowds | None = None,
    reading: ReadOptions | None = None,
    truth: str | Path | None = None,
    attribute: str | None = None,
) -> Dataset:
    """Open a labelled split as it was read in a model's training; arguments as `evaluate` has them.

    Raises:
        DatasetError: as `evaluate`.
        ConfigError: mask values are given for data that says itself what its masks store.
    """
    spec = LabelSpec.named(labels) if labels else None
    fallback = as_indices(predictor.labels)
    if truth is None:
        rules = DataRules.of_model(predictor.record, Path(data), split)
        if crowds is not None:
            rules = replace(rules, crowds=crowds)
        dataset = open_dataset(data, split, spec, fallback=fallback, rules=rules)
    else:
        dataset = raster_dataset(Path(data), Path(truth), spec or fallback, attribute)
    if reading is not None:
        dataset = replace(dataset, reading=reading)
    if only is not None:
        dataset = select(dataset, only)
    if dataset.labels is fallback:
        dataset = replace(dataset, labels=read_by(dataset, predictor.labels, mask_values))
        where = shown_path(truth or data)
        note(f"{where} names no classes: the model's are taken in their order, {ends(fallback.names)}")
    elif mask_values is not None:
        raise ConfigError(
            f"{data} says itself what its masks store, and mask values are given too",
            fix="leave them out",
            code="mask-values",
        )
    return dataset


def _refuse_mixed(data: Path, truth: str | Path | None, **given: Any) -> None:
    """Refuse what is for rasters without one, and the other way round."""
    if truth is None and data.is_file() and is_raster(data):
        raise ConfigError(
            f"{shown_path(data)} is a raster, and nothing says what it is compared with",
            fix="name a GeoTIFF of class indices or polygons in GeoJSON with --truth (in Python truth=)",
            code="raster-truth",
        )
    wrong = ("only", "crowds", "group_by") if truth is not None else ("attribute", "region")
    for name in wrong:
        if given[name] is not None:
            what = "photos, and a raster is" if truth is not None else "rasters, and photos are"
            raise ConfigError(
                f"--{name.replace('_', '-')} is for {what} evaluated", fix="leave it out", code="raster-truth"
            )
    if truth is not None and data.is_dir():
        raise ConfigError(
            f"{shown_path(data)} is a folder, and what a raster is compared with is given too",
            fix="name the raster itself with --data; or leave out --truth",
            code="raster-truth",
        )


def measure(
    predictor: Predictor,
    dataset: Dataset,
    name: str,
    *,
    change: Callable[[int, Image], Image] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[float]]:
    """Run a predictor over every photo of a split.

    Args:
        predictor: the model, and the protocol to follow.
        dataset: the labelled photos.
        name: what the report calls the data set.
        change: makes of each photo, by its place, what the model sees.
        progress: called with (photos done, photos in all).

    Returns:
        The report, and each photo's own mIoU (NaN where nothing is labelled).

    Raises:
        DatasetError: the data set's classes are not the model's.
    """
    started = time.monotonic()
    dataset = in_order_of(predictor, replace(dataset, reading=predictor.reading(dataset.reading)))
    labels = dataset.labels
    total = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    boundary = BoundaryIoU(labels.num_classes, labels.ignore_index)
    calibration = Calibration(labels.num_classes, labels.ignore_index) if predictor.output == "logits" else None
    rows, void, soft = [], 0, 0
    in_order = has_own_order(labels)

    def read(index: int) -> Pair:
        image, mask = dataset.read(index)
        return (image if change is None else change(index, image)), mask

    pairs = ([read(index)] for index in range(len(dataset)))

    def segment(images: list[Image]) -> list[tuple[Mask, NDArray[np.float32] | None, int]]:
        step = grid_step(images[0].shape[:2])
        return [(mask, grid, step) for mask, grid in predictor.masks_and_grids(images, step)]

    for index, [((prediction, grid, step), label)] in enumerate(predicted(predictor, pairs, segment)):
        image = _counted([(prediction, label)], labels, boundary)
        total.merge(image)
        if calibration is not None and grid is not None:
            calibration.update(grid, label[::step, ::step], step * step)
        void += int((label == labels.ignore_index).sum())
        soft += in_order and is_soft(label)
        rows.append(image_row(image))
        if progress is not None:
            progress(index + 1, len(dataset))
    labelled: dict[Stored, int] = dict(enumerate(total.counts.sum(1).tolist()))
    if doubt := void_may_be_object(labels, {**labelled, labels.ignore_index: void}):
        note(f"{dataset.split}: {doubt[0]}; {doubt[1]}")
    if soft:
        note(f"{dataset.split}: {soft} of {len(dataset)} masks have borders that run through classes in between")
    counts = ImageCounts.of(rows)
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
        image_counts=counts,
        calibration=None if calibration is None else calibration.metrics(predictor.temperature),
    )
    return report, counts.scores()


def in_order_of(predictor: Predictor, dataset: Dataset) -> Dataset:
    """Return a data set whose masks are read into the class indices of a model.

    Raises:
        DatasetError: its classes are not the model's.
    """
    ours, theirs = dataset.labels.names, predictor.labels.names
    matching = match_classes(ours, theirs, guessed=names_are_guessed(predictor.record))
    if matching is None:
        counts = f": {len(ours)} and {len(theirs)}" if len(ours) != len(theirs) else ""
        raise DatasetError(
            f"the classes of {dataset.root} are not the model's{counts} {side_by_side(ours, theirs)}",
            fix="evaluate a model trained on these classes; where they mean the same, give them the model's names in "
            "labels.yaml, and send those that the model lacks to `ignore` in its `map:`",
            code="dataset-classes",
        )
    if matching.note is not None:
        note(matching.note)
    return replace(dataset, labels=reordered(dataset.labels, matching))


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
    for batch in predicted(predictor, _batches(pairs, batch_size), predictor.masks):
        confusion.merge(_counted(batch, dataset.labels, boundary))
    return confusion


def predicted(
    predictor: Predictor, batches: Iterable[list[Pair]], segment: Callable[[list[Image]], Sequence[T]]
) -> Iterator[list[tuple[T, Mask]]]:
    """What is predicted of each batch, and its labels, in order; the next batches are read and predicted meanwhile."""

    def predict(pairs: list[Pair]) -> list[tuple[T, Mask]]:
        try:
            predictions = segment([image for image, _ in pairs])
        except Exception as error:
            if not is_out_of_memory(error):
                raise Failure.of(None, error).error from error
            height, width = pairs[0][0].shape[:2]
            raise ConfigError(  # in windows it could be done, but that is another protocol, with other figures
                f"there is not enough memory to show {len(pairs)} photo{'s' * (len(pairs) > 1)} of {width} x {height} "
                f"to the network by the protocol {predictor.protocol.name}",
                fix="evaluate with --protocol slide, or on a machine with more memory",
                code="image-memory",
            ) from error
        return [(prediction, label) for prediction, (_, label) in zip(predictions, pairs, strict=True)]

    return predictor.side_by_side(predict, batches)


def _counted(batch: Sequence[tuple[Mask, Mask]], labels: LabelSpec, boundary: BoundaryIoU | None) -> ConfusionMatrix:
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
