"""`check_labels`: the masks of a data set that are most likely wrong.

They are judged by models that have not learnt from them: the photos that a run was validated on, or, with one run for
each fold of a cross-validation, all photos.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.data import Dataset
from terrazzo.data.sources.source import Image
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.evaluation.labelled_split import labelled_split
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.labelling.label_quality import (
    ClassConfidence,
    Floats,
    Mask,
    Region,
    label_quality,
    likely_classes,
    worst_region,
)
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.ownership import refuse_foreign, write_result, write_results
from terrazzo.sheet import Row, contact_sheet, drawable, fitted
from terrazzo.text import shown_path

__all__ = ["CheckedMask", "LabelCheck", "check_labels", "label_check_files"]

FILES = ("masks.csv", "masks.json", "masks.png")
ON_SHEET = 24


@dataclass(frozen=True)
class CheckedMask:
    """A mask, and how likely it is right.

    Attributes:
        photo: the photo's file.
        mask: the mask's file.
        quality: from 0, where something in it is surely wrong, to 1; NaN where nothing is labelled.
        wrong: share of the labelled pixels that are likely another class; None where it was not looked at closely.
        region: the connected region that weighs most among these pixels.
    """

    photo: Path
    mask: Path
    quality: float
    wrong: float | None = None
    region: Region | None = None


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """Masks by how likely they are right, the worst first.

    Attributes:
        masks: all of them.
        labels: their classes.
        models: the models that judged.
        dataset: the data set's name.
        split: the split's.
        pictures: photo, mask and prediction of the worst, for the contact sheet.
    """

    masks: tuple[CheckedMask, ...]
    labels: LabelSpec
    models: tuple[str, ...]
    dataset: str
    split: str
    pictures: tuple[tuple[Image, Mask, Mask], ...]

    def table(self, most: int = 10) -> str:
        """The worst as text."""
        lines = [f"{'quality':>7}  {'wrong':>6}  mask"]
        for mask in self.masks[:most]:
            wrong = "" if mask.wrong is None else f"{mask.wrong:.1%}"
            quality = "" if math.isnan(mask.quality) else f"{mask.quality:.3f}"
            lines.append(f"{quality:>7}  {wrong:>6}  {shown_path(mask.mask.name)}  {self._said(mask)}".rstrip())
        return "\n".join(lines)

    @checked
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write all masks as CSV and JSON, and a contact sheet of the worst.

        Args:
            folder: where to; it is created.
            overwrite: replace any file that is there.

        Raises:
            OutputError: a file is there that is not an earlier result, or the folder cannot be written to.
        """
        paths = label_check_files(folder)
        refuse_foreign(paths, "check-labels", overwrite=overwrite, option="folder")
        table, document, sheet = paths
        write_result(sheet, self._sheet(), "check-labels")
        write_results({table: self._csv().encode(), document: self._json().encode()}, "check-labels")

    def _said(self, mask: CheckedMask) -> str:
        region, names = mask.region, self.labels.names
        if region is None:
            return ""
        return f"{names[region.labelled]} is likely {names[region.likely]} at {region.box[0]}, {region.box[1]}"

    def _rows(self) -> list[dict[str, Any]]:
        names, rows = self.labels.names, []
        for place, mask in enumerate(self.masks, start=1):
            region = mask.region
            rows.append(
                {
                    "place": place,
                    "photo": _text(mask.photo),
                    "mask": _text(mask.mask),
                    "quality": None if math.isnan(mask.quality) else round(mask.quality, 5),
                    "wrong_share": None if mask.wrong is None else round(mask.wrong, 5),
                    "left": None if region is None else region.box[0],
                    "top": None if region is None else region.box[1],
                    "right": None if region is None else region.box[2],
                    "bottom": None if region is None else region.box[3],
                    "labelled": None if region is None else names[region.labelled],
                    "likely": None if region is None else names[region.likely],
                }
            )
        return rows

    def _json(self) -> str:
        about = {"dataset": self.dataset, "split": self.split, "models": list(self.models)}
        return json.dumps({**about, "masks": self._rows()}, indent=2) + "\n"

    def _csv(self) -> str:
        rows, text = self._rows(), io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _sheet(self) -> bytes:
        rows, pixels = [], np.zeros(self.labels.ignore_index + 1, np.int64)
        for place, (mask, (image, label, prediction)) in enumerate(
            zip(self.masks, self.pictures, strict=False), start=1
        ):
            for shown in (label, prediction):
                pixels += np.bincount(shown.ravel(), minlength=len(pixels))
            drawn = [np.asarray(image, np.uint8), self.labels.colorize(label), self.labels.colorize(prediction)]
            pictures = [fitted(picture, smooth=number == 0) for number, picture in enumerate(drawn)]
            if mask.region is not None:
                pictures = [_framed(picture, mask.region, label.shape) for picture in pictures]
            text = f"quality {mask.quality:.3f}. {self._said(mask)}"
            rows.append(Row(f"{place}. {drawable(mask.mask.name)}", text, pictures))
        legend = [
            (self.labels.names[k], self.labels.palette[k]) for k in np.argsort(-pixels[:-1], kind="stable") if pixels[k]
        ]
        if pixels[-1]:
            legend.append(("not labelled", self.labels.ignore_color))
        where = f"{drawable(self.dataset)}/{self.split}"
        title = f"{where}: the {len(rows)} masks of {len(self.masks)} that are most likely wrong"
        return contact_sheet(rows, ("photo", "mask", "prediction"), legend, title)


def label_check_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that `LabelCheck.save` writes into a folder."""
    return [Path(folder, name) for name in FILES]


@checked
def check_labels(
    data: str | Path,
    models: str | Path | Sequence[str | Path],
    *,
    split: str = "val",
    labels: str | None = None,
    worst: int = ON_SHEET,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelCheck:
    """Find the masks that are most likely wrong.

    Args:
        data: the data set's folder.
        models: what `terrazzo.load` takes; several for the runs of a cross-validation, each of which judges the photos
            that it was validated on. Where several judge one photo, their probabilities are averaged.
        split: which split of the data set: ``val`` for what a run was validated on, whoever has split the photos.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are.
        worst: so many are looked at closely, for the region that is likely wrong, and drawn.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        progress: called with (masks done, masks in all).

    Raises:
        DatasetError: the data set cannot be read, or its classes are not the models'.
        CheckpointError: a model cannot be loaded.
        ConfigError: no model is given, or none is to be looked at.
    """
    named = [models] if isinstance(models, (str, Path)) else list(models)
    if not named or worst < 1:
        what = "no model is given" if not named else f"{worst} masks are to be looked at"
        raise ConfigError(what, fix="give at least one", code="check-labels-none")
    judges = [_judge(Path(data), model, split, labels, device) for model in named]
    first = judges[0][1]
    for _, other in judges[1:]:
        if other.labels.names != first.labels.names:
            raise DatasetError(
                f"{named[0]} and {named[1]} name their classes otherwise",
                fix="give runs of one data set",
                code="dataset-classes",
            )
    held: dict[Path, list[tuple[Predictor, Dataset, int]]] = {}
    for predictor, dataset in judges:
        for index, sample in enumerate(dataset.samples):
            held.setdefault(sample.image.file / sample.image.name, []).append((predictor, dataset, index))
    confidence = ClassConfidence(first.labels.num_classes)
    checked_masks: list[tuple[float, list[tuple[Predictor, Dataset, int]]]] = []
    total = len(held) + min(worst, len(held))
    for done, judged in enumerate(held.values(), start=1):
        _, label, probabilities = _judged(judged)
        labelled = label != first.labels.ignore_index
        classes = label[labelled]
        chosen = np.take_along_axis(probabilities[:, labelled], classes[None].astype(np.intp), 0)[0]
        confidence.update(chosen, classes)
        checked_masks.append((label_quality(chosen), judged))
        if progress is not None:
            progress(done, total)
    checked_masks.sort(key=lambda item: (math.isnan(item[0]), item[0]))
    means_K = confidence.means()
    results: list[CheckedMask] = []
    pictures: list[tuple[Image, Mask, Mask]] = []
    for place, (quality, judged) in enumerate(checked_masks):
        predictor, dataset, index = judged[0]
        sample = dataset.samples[index]
        mask = CheckedMask(sample.image.file, sample.mask.file, quality)
        if place < worst:
            image, label, probabilities = _judged(judged)
            likely = likely_classes(probabilities, label, means_K)
            pixels = int((label != first.labels.ignore_index).sum())
            wrong = float((likely >= 0).sum() / pixels) if pixels else None
            mask = replace(mask, wrong=wrong, region=worst_region(probabilities, label, likely))
            prediction = probabilities.argmax(0).astype(label.dtype)
            pictures.append((predictor.preprocess.as_rgb(image), label, prediction))
            if progress is not None:
                progress(len(held) + place + 1, total)
        results.append(mask)
    name = Path(data).resolve().name
    return LabelCheck(tuple(results), first.labels, tuple(map(str, named)), name, split, tuple(pictures))


def _judge(
    data: Path, model: str | Path, split: str, labels: str | None, device: str | None
) -> tuple[Predictor, Dataset]:
    """Return a model, and the photos that it can judge."""
    predictor = make_predictor(model, device, precision="fp32")
    dataset = labelled_split(predictor, data, split, labels)
    if split == "train":
        note(
            f"{shown_path(model)} may have learnt from these masks, wrong ones too, and then finds them right; judge "
            "them by runs that have left them out"
        )
    return predictor, dataset


def _judged(judged: Sequence[tuple[Predictor, Dataset, int]]) -> tuple[Image, Mask, Floats]:
    """Return a photo, its mask, and the mean probabilities of those who judge it."""
    predictor, dataset, index = judged[0]
    image, label = dataset.read(index)
    total: NDArray[np.float32] | None = None
    for predictor, dataset, _ in judged:
        try:
            (result,) = predictor.segment([image], [None], keep=frozenset({"probabilities"}))
        except Exception as error:
            raise Failure.of(dataset.samples[index].image.file, error).error from error
        assert result.probabilities is not None
        total = result.probabilities if total is None else total + result.probabilities
    assert total is not None
    return image, label, np.asarray(total / len(judged), np.float32)


def _framed(picture: NDArray[np.uint8], region: Region, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Draw a frame around a region of a picture that was resized from (height, width)."""
    import cv2

    factor = picture.shape[1] / size[1]
    left, top, right, bottom = (round(edge * factor) for edge in region.box)
    picture = picture.copy()
    for margin, color, line in ((5, (0, 0, 0), 4), (5, (255, 255, 255), 2)):
        corner, opposite = (left - margin, top - margin), (right + margin, bottom + margin)
        picture = np.asarray(cv2.rectangle(picture, corner, opposite, color, line), np.uint8)
    return picture


def _text(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
