"""`suggest`: which photos to label next, with masks to correct.

A photo is worth labelling where the model is unsure of it (`uncertainty.py`) and where it is unlike those that are
labelled or chosen already (`spread.py`): a budget spent by uncertainty alone buys fifty frames of one difficult scene.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.data.choose_images import choose_images
from terrazzo.engines.modes import evaluating
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation
from terrazzo.labelling.cvat import cvat_masks, own_names, photos_archive
from terrazzo.labelling.label_studio import label_studio_config, label_studio_tasks
from terrazzo.labelling.spread import spread_out, standardised
from terrazzo.labelling.uncertainty import Look, look_at
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.ownership import refuse_foreign, write_result, write_results
from terrazzo.sheet import Row, contact_sheet, drawable, fitted
from terrazzo.text import shown_path
from terrazzo.weights.exported import exported_format
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load

__all__ = ["Suggestion", "Suggestions", "suggest", "suggestion_files"]

FILES = (
    "suggestions.csv", "suggestions.json", "suggestions.png", "photos.zip", "cvat.zip", "label_studio.json",
    "label_studio.xml",
)  # fmt: skip
MOST_ON_A_SHEET = 100


@dataclass(frozen=True)
class Suggestion:
    """A photo to label.

    Attributes:
        path: its file.
        name: what it is called in the archives.
        entropy: how unsure the model is of it, from 0 to 1.
        disagreement: share of pixels whose class changes where the photo is mirrored.
        distance: how far it is from the photos before it and from labelled ones; about 1 between any two photos. None
            for the first of all.
    """

    path: Path
    name: str
    entropy: float
    disagreement: float
    distance: float | None


@dataclass(frozen=True, eq=False)
class Suggestions:
    """Photos to label, the best first, with the model's masks to correct.

    Attributes:
        photos: the chosen ones.
        candidates: how many there were to choose from.
        labels: the classes.
        model: the model's name.
        mean_entropy: of all candidates.
    """

    photos: tuple[Suggestion, ...]
    candidates: int
    labels: LabelSpec
    model: str
    mean_entropy: float
    predictor: Predictor
    reading: ReadOptions

    def table(self, most: int = 10) -> str:
        """The first few as text."""
        lines = [f"{'':>4}  {'entropy':>7}  {'flips':>6}  {'distance':>8}  photo"]
        for place, photo in enumerate(self.photos[:most], start=1):
            distance = "" if photo.distance is None else f"{photo.distance:.2f}"
            lines.append(
                f"{place:>4}  {photo.entropy:>7.3f}  {photo.disagreement:>6.1%}  {distance:>8}  "
                f"{shown_path(photo.path.name)}"
            )
        return "\n".join(lines)

    @checked
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the list, a contact sheet, and the photos' masks for CVAT and Label Studio.

        Args:
            folder: where to; it is created.
            overwrite: replace any file that is there.

        Raises:
            OutputError: a file is there that is not an earlier result, or the folder cannot be written to.
            ImageError: a photo cannot be read any more.
        """
        paths = suggestion_files(folder)
        photos = [photo.path for photo in self.photos]
        refuse_foreign(paths, "suggest", inputs=photos, overwrite=overwrite, option="folder")
        results = list(self._segmented(photos))
        names = [photo.name for photo in self.photos]
        root = Path(os.path.commonpath([path.resolve().parent for path in photos]))
        places = [path.resolve().relative_to(root).as_posix() for path in photos]
        masks = [result.mask for result in results]
        certain = [1 - photo.entropy for photo in self.photos]
        contents = {
            "photos.zip": photos_archive(dict(zip(names, photos, strict=True))),
            "cvat.zip": cvat_masks(zip(names, masks, strict=True), self.labels),
            "label_studio.json": label_studio_tasks(zip(places, masks, certain, strict=True), self.labels, self.model),
            "label_studio.xml": label_studio_config(self.labels).encode(),
            "suggestions.png": self._sheet(results),
        }
        for name, data in contents.items():
            write_result(Path(folder, name), data, "suggest")
        listed = {"suggestions.csv": self._csv(), "suggestions.json": self._json()}
        write_results({Path(folder, name): data.encode() for name, data in listed.items()}, "suggest")

    def _segmented(self, photos: Sequence[Path]) -> list[Segmentation]:
        results: list[Segmentation] = []
        for outcome in self.predictor.segment_files(photos, reading=self.reading):
            if isinstance(outcome, Failure):
                raise outcome.error
            assert isinstance(outcome, Segmentation)  # larger ones were left out
            results.append(outcome)
        return results

    def _rows(self) -> list[dict[str, object]]:
        return [
            {
                "place": place,
                "photo": os.fsencode(photo.path).decode("utf-8", "backslashreplace"),
                "name": photo.name,
                "entropy": round(photo.entropy, 5),
                "disagreement": round(photo.disagreement, 5),
                "distance": None if photo.distance is None else round(photo.distance, 4),
            }
            for place, photo in enumerate(self.photos, start=1)
        ]

    def _json(self) -> str:
        about = {"model": self.model, "candidates": self.candidates, "mean_entropy": round(self.mean_entropy, 5)}
        return json.dumps({**about, "photos": self._rows()}, indent=2) + "\n"

    def _csv(self) -> str:
        rows, text = self._rows(), io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _sheet(self, results: Sequence[Segmentation]) -> bytes:
        rows, pixels_K = [], np.zeros(self.labels.num_classes, np.int64)
        for place, (photo, result) in enumerate(
            zip(self.photos[:MOST_ON_A_SHEET], results[:MOST_ON_A_SHEET], strict=True), start=1
        ):
            assert result.image is not None
            pixels_K += np.bincount(result.mask.ravel(), minlength=len(pixels_K))[: len(pixels_K)]
            pictures = [fitted(result.image), fitted(result.overlay(legend=False))]
            text = f"entropy {photo.entropy:.2f}, {photo.disagreement:.0%} flip"
            rows.append(Row(f"{place}. {drawable(photo.path.name)}", text, pictures))
        classes = [k for k in np.argsort(-pixels_K, kind="stable") if pixels_K[k]]
        legend = [(self.labels.names[k], self.labels.palette[k]) for k in classes]
        more = f", the first {len(rows)} shown" if len(rows) < len(self.photos) else ""
        title = f"{len(self.photos)} of {self.candidates} photos to label next, by {drawable(self.model)}{more}"
        return contact_sheet(rows, ("photo", "mask to correct"), legend, title, beside=2)


def suggestion_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that `Suggestions.save` writes into a folder."""
    return [Path(folder, name) for name in FILES]


@checked
def suggest(
    images: str | Path | Sequence[str | Path],
    model: str | Path | TrainedModel,
    *,
    budget: int = 50,
    labelled: str | Path | Sequence[str | Path] | None = None,
    device: str | None = None,
    reading: ReadOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Suggestions:
    """Choose photos to label next: those of which a model is unsure, and no two alike.

    Args:
        images: photo files, folders and patterns.
        model: a loaded model, or what `terrazzo.load` takes. An exported file will not do: it has no features.
        budget: how many photos to choose.
        labelled: photos that have labels already, as `images`: what resembles them comes later.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        reading: how photos are read, where their files leave that open.
        progress: called with (photos done, photos in all).

    Raises:
        ImageError: there are no photos, or none that can be read.
        ConfigError: the budget is not a positive number, or the model is an exported file.
        CheckpointError: the model cannot be loaded.
    """
    if budget < 1:
        raise ConfigError(f"the budget is {budget} photos", fix="give 1 or more", code="suggest-budget")
    if isinstance(model, (str, Path)) and exported_format(model) is not None:
        raise ConfigError(
            f"{shown_path(model)} is an exported file, which gives no features to compare photos by",
            fix="give the run or the model folder that it was exported from",
            code="suggest-exported",
        )
    known = [] if labelled is None else choose_images(_listed(labelled))[0]
    there = {os.path.realpath(path) for path in known}
    found = [path for path in choose_images(_listed(images))[0] if os.path.realpath(path) not in there]
    if not found:
        raise ImageError(
            "all photos are among the labelled ones", fix="name photos without labels", code="image-none-found"
        )
    trained = load(model) if isinstance(model, (str, Path)) else model
    with evaluating(trained):
        trained.network.eval().to(find_device(device))
        predictor = make_predictor(trained, device, engine="torch", precision="fp32")
        options = predictor.reading(reading)
        total = len(found) + len(known)

        def seen(paths: Sequence[Path], before: int) -> tuple[list[Path], list[Look]]:
            return _looks(paths, trained, options, lambda done: progress and progress(before + done, total))

        paths, looks = seen(found, 0)
        _, known_looks = seen(known, len(found))
    if not paths:
        raise ImageError(
            f"none of {len(found)} photos can be read", fix="look at the notes above", code="image-none-found"
        )
    features_NC = standardised(np.stack([look.features_C for look in [*looks, *known_looks]]))
    entropies_N: NDArray[np.float64] = np.array([look.entropy for look in looks])
    chosen = spread_out(entropies_N, features_NC[: len(looks)], budget, features_NC[len(looks) :])
    if not chosen:
        raise ImageError(
            f"all {len(paths)} photos look like labelled ones to the model",
            fix="name other photos, or leave the labelled ones out",
            code="suggest-alike",
        )
    if len(chosen) < min(budget, len(paths)):
        note(f"{len(chosen)} photos are suggested and not {budget}: the others are copies of these or of labelled ones")
    elif len(paths) < budget:
        note(f"all {len(paths)} photos are suggested: there are no more, and the budget is {budget}")
    names = own_names([paths[index] for index, _ in chosen])
    photos = tuple(
        Suggestion(
            paths[index],
            name,
            looks[index].entropy,
            looks[index].disagreement,
            None if math.isinf(distance) else distance,
        )
        for (index, distance), name in zip(chosen, names, strict=True)
    )
    mean = float(entropies_N.mean())
    return Suggestions(photos, len(paths), trained.labels, trained.name, mean, predictor, options)


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def _looks(
    paths: Sequence[Path], model: TrainedModel, reading: ReadOptions, progress: Callable[[int], object]
) -> tuple[list[Path], list[Look]]:
    """Look at every photo that can be read; say how many cannot."""
    readable: list[Path] = []
    looks: list[Look] = []
    failed: list[Failure] = []
    for done, path in enumerate(paths, start=1):
        try:
            look = look_at(reading.read(path), model.network, model.preprocess)
            if not np.isfinite([look.entropy, *look.features_C.tolist()]).all():
                raise ImageError(f"{shown_path(path)}: the network's values are not finite", fix="use another model")
            looks.append(look)
            readable.append(path)
        except Exception as error:
            failed.append(Failure.of(path, error))
        progress(done)
    if failed:
        first = failed[0].error
        note(f"left out {len(failed)} of {len(paths)} photos, which cannot be used; the first: {first.message}")
    return readable, looks
