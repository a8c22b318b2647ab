"""`compare`: two models on the same photos: the difference of their mIoU with its confidence interval.

Photos that are hard for one model are hard for the other, so the difference varies far less from sample to sample than
either score does. The bootstrap is therefore paired: each resample draws the same photos for both models, and the
interval is that of the differences (`intervals`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.data import Dataset
from terrazzo.data.readings import MaskValues
from terrazzo.data.rules import Crowds
from terrazzo.data.splits import check_group_by, groups_of
from terrazzo.engines.modes import keeps_mode
from terrazzo.errors import ConfigError
from terrazzo.evaluation.comparison import Comparison
from terrazzo.evaluation.confusion import score_text
from terrazzo.evaluation.evaluator import MANY_IMAGES, in_order_of, measure, open_labelled
from terrazzo.evaluation.report import Report
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.labels.matching import match_classes, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.sheet import PAPER, Color, Picture, Row, class_legend, contact_sheet, drawable, fitted
from terrazzo.text import show

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["compare"]

Mask: TypeAlias = NDArray[np.integer[Any]]
Model: TypeAlias = "str | Path | TrainedModel | Predictor"
SHEET_IMAGES = 8
ONLY_A, ONLY_B, NEITHER = (31, 111, 180), (230, 120, 20), (130, 130, 130)
NAMES_FIT = 22  # letters of a model's name in a heading


@checked
@keeps_mode
def compare(
    a: str | Path | TrainedModel | Predictor,
    b: str | Path | TrainedModel | Predictor,
    data: str | Path,
    *,
    split: str = "val",
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    only: str | None = None,
    crowds: Crowds | None = None,
    group_by: str | None = None,
    protocol: str | Protocol = "whole",
    device: str | None = None,
    engine: str = "auto",
    reading: ReadOptions | None = None,
    trust: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure two models on the same photos and say how far apart they are, and how sure that is.

    Args:
        a: a model, as `terrazzo.evaluate` takes it.
        b: another one for the same classes; the difference is its score less that of `a`.
        data: the data set's folder.
        split: which split of it.
        labels: as `terrazzo.evaluate` takes it, for both models; and so all arguments that are not named here.
        group_by: a regular expression for what photos of one drive, patient or place have in common at the beginning of
            their names: they are drawn together.
        progress: called with (photos done, photos in all), those of both models.

    Raises:
        DatasetError: the data cannot be read, or its classes are not those of both models.
        ConfigError: the models are for different classes, or as `terrazzo.evaluate`.
        CheckpointError: a model cannot be loaded.
    """
    check_group_by(group_by)

    def opened(model: Model) -> Predictor:
        if isinstance(model, Predictor):
            return model
        return make_predictor(
            model, device, protocol, engine=engine, precision="fp32", workload=MANY_IMAGES, trust=trust
        )

    predictors = opened(a), opened(b)
    places = _places(predictors[0].labels, predictors[1].labels)
    datasets = [
        open_labelled(predictor, data, split, labels, mask_values, only, crowds, reading) for predictor in predictors
    ]
    names = [[sample.image.name for sample in dataset.samples] for dataset in datasets]
    if names[0] != names[1]:
        raise ConfigError(
            f"the two models would be measured on different photos of {split}: they were trained with other rules for "
            "splitting it",
            fix="compare them on a folder that is split into train and val",
            code="compare-photos",
        )
    title = Path(data).resolve().name
    reports: list[Report] = []
    for number, (predictor, dataset) in enumerate(zip(predictors, datasets, strict=True)):

        def told(done: int, total: int, before: int = number) -> None:
            if progress is not None:
                progress(before * total + done, 2 * total)

        reports.append(measure(predictor, dataset, title, progress=told)[0])
    first, second = reports
    counts = first.image_counts, second.image_counts
    assert counts[0] is not None and counts[1] is not None
    pair = counts[0], counts[1].in_order(places)
    scores = pair[0].scores(), pair[1].scores()
    if group_by is not None:
        groups = groups_of([sample.name for sample in datasets[0].samples], group_by)
        pair = pair[0].grouped(groups), pair[1].grouped(groups)
        if len(set(groups)) == 1:
            note(f"all photos are of one group, {show(groups[0])}: one group gives no confidence interval")
    return Comparison(
        labels=first.labels,
        models=(first.model, second.model),
        dataset=title,
        split=split if only is None else f"{split} ({only})",
        protocols=(f"{first.protocol} ({first.protocol_hash})", f"{second.protocol} ({second.protocol_hash})"),
        counts=pair,
        images=tuple(names[0]),
        scores=scores,
        sheet=partial(_sheet, predictors, datasets, places, scores, f"{title}/{split}"),
    )


def _places(ours: LabelSpec, theirs: LabelSpec) -> list[int]:
    """For each class of the first model its index in the second.

    Raises:
        ConfigError: they are different classes.
    """
    matching = match_classes(ours.names, theirs.names)
    if matching is None:
        raise ConfigError(
            f"the two models are for different classes {side_by_side(ours.names, theirs.names, ('A', 'B'))}",
            fix="compare models that were trained on the same classes",
            code="compare-classes",
        )
    return list(range(ours.num_classes)) if matching.table is None else list(matching.table)


def _sheet(
    predictors: tuple[Predictor, Predictor],
    datasets: list[Dataset],
    places: list[int],
    scores: tuple[list[float], list[float]],
    title: str,
) -> bytes:
    """Draw the photos on which the models differ most: label, both predictions, and which of them is right."""
    ordered = [
        in_order_of(predictor, replace(dataset, reading=predictor.reading(dataset.reading)))
        for predictor, dataset in zip(predictors, datasets, strict=True)
    ]
    labels = ordered[0].labels
    differences = np.subtract(scores[1], scores[0])
    back = np.arange(max(labels.ignore_index, len(places)) + 1)
    back[places] = np.arange(len(places))  # from B's indices to A's
    rows, pixels = list[Row](), np.zeros(labels.ignore_index + 1, np.int64)
    for index in choose_differing(differences):
        image, label = ordered[0].read(index)
        (of_a,) = predictors[0].masks([image])
        (of_b,) = predictors[1].masks([ordered[1].read(index)[0]])
        masks: list[Mask] = [label, of_a, back[of_b].astype(of_a.dtype)]
        for mask in masks:
            pixels += np.bincount(mask.ravel(), minlength=len(pixels))
        rgb = predictors[0].preprocess.as_rgb(image)
        colored = [fitted(labels.colorize(mask), smooth=False) for mask in masks]
        verdict = fitted(_verdict(rgb, masks, label != labels.ignore_index))
        text = f"A {score_text(scores[0][index])}, B {score_text(scores[1][index])}: {differences[index]:+.2f} mIoU"
        rows.append(Row(drawable(ordered[0].samples[index].image.name), text, [fitted(rgb), *colored, verdict]))
    legend = class_legend(labels, pixels) or [("no photo has a labelled pixel", PAPER)]
    legend += [("only A is right", ONLY_A), ("only B is right", ONLY_B), ("neither is right", NEITHER)]
    models = [_end(predictor.model or "model") for predictor in predictors]
    headings = ("photo", "label", f"A: {models[0]}", f"B: {models[1]}", "which is right")
    which = f"{title}: {len(rows)} of {len(ordered[0])} photos, first where B gains most, then where it loses most"
    return contact_sheet(rows, headings, legend, which)


def choose_differing(differences: NDArray[np.float64], most: int = SHEET_IMAGES) -> list[int]:
    """Return the places of at most `most` photos: B's largest gains and its largest losses, half of each if it can be.

    Args:
        differences: of each photo's mIoU; NaN where it has none.
    """
    ranked = sorted((int(k) for k in np.flatnonzero(~np.isnan(differences))), key=lambda k: -differences[k])
    gains = sum(differences[k] > 0 for k in ranked)
    first = min(gains, max(most // 2, most - (len(ranked) - gains)))
    last = min(len(ranked) - first, most - first)
    return ranked[:first] + (ranked[-last:] if last else [])


def _verdict(rgb_HW3: Picture, masks: Sequence[Mask], labelled_HW: NDArray[np.bool_]) -> Picture:
    """Return the photo in pale grey, with a colour where only one model is right, or neither."""
    label_HW, a_HW, b_HW = masks
    picture_HW3 = np.repeat((205 + 0.2 * rgb_HW3.mean(axis=2))[..., None], 3, axis=2)
    right = a_HW == label_HW, b_HW == label_HW
    shown: list[tuple[NDArray[np.bool_], Color]] = [
        (right[0] & ~right[1], ONLY_A),
        (right[1] & ~right[0], ONLY_B),
        (~right[0] & ~right[1], NEITHER),
    ]
    for where_HW, color in shown:
        picture_HW3[where_HW & labelled_HW] = color
    return picture_HW3.astype(np.uint8)


def _end(name: str) -> str:
    """Of a long path the end, which says most."""
    name = drawable(name)
    return name if len(name) <= NAMES_FIT else "…" + name[1 - NAMES_FIT :]
