"""`calibrate`: temperature scaling, which makes a model's probabilities as high as it is often right.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017 (arXiv:1706.04599): logits are
divided by one number, the temperature, that minimises the negative log-likelihood (NLL) of labelled pixels. The order
of a pixel's classes stays as it is, so masks and mIoU do not change. Of several views it is the logarithms of their
mean probabilities that are divided.

NLL is convex in 1 / temperature, so its one minimum is found by halving an interval. A grid of pixels of each photo is
held in memory, together 16 million numbers at most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.atomic import write_atomic
from terrazzo.data.readings import MaskValues
from terrazzo.data.rules import Crowds
from terrazzo.data.sources.source import Image
from terrazzo.engines.modes import keeps_mode
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.evaluation.calibration import SMALLEST, Calibration, CalibrationMetrics, grid_step
from terrazzo.evaluation.evaluator import MANY_IMAGES, in_order_of, open_labelled, predicted
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.text import shown_path
from terrazzo.weights.catalog import bundled_folder
from terrazzo.weights.exported import exported_format
from terrazzo.weights.temperature import HIGHEST, LOWEST

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["Calibrated", "calibrate", "fit_temperature"]

MOST_FLOATS = 1 << 24
HALVINGS = 40
Pixels: TypeAlias = tuple[NDArray[np.float32], NDArray[np.intp], int]
"""Of an image: (K, P) log probabilities, the (P,) labels, and how many pixels each stands for."""


@dataclass(frozen=True)
class Calibrated:
    """A fitted temperature.

    Attributes:
        temperature: above 1 the model was too sure of itself, below 1 not sure enough.
        before: calibration of the pixels it was fitted on without it.
        after: the same with it.
        images: how many they are from.
        folder: where the model with the temperature is; None where none was written.
    """

    temperature: float
    before: CalibrationMetrics
    after: CalibrationMetrics
    images: int
    folder: Path | None

    def __str__(self) -> str:
        rows = [("", "ECE, %", "NLL"), *(
            (name, f"{found.ece:.2f}", f"{found.nll:.4f}")
            for name, found in (("before", self.before), ("after", self.after))
        )]  # fmt: skip
        lines = [f"{name:<6}  {ece:>6}  {nll:>7}" for name, ece, nll in rows]
        return "\n".join([f"temperature {self.temperature:.4f}, fitted on {self.images} photos", *lines])


@checked
@keeps_mode
def calibrate(
    model: str | Path | TrainedModel,
    data: str | Path,
    output: str | Path | None = None,
    *,
    split: str = "val",
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    only: str | None = None,
    crowds: Crowds | None = None,
    protocol: str | Protocol = "whole",
    device: str | None = None,
    reading: ReadOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Calibrated:
    """Fit a temperature on labelled photos and store it with the model.

    Probabilities, confidence and entropy are then computed with it everywhere, in exported files too. Masks stay as
    they are.

    Args:
        model: a model folder or a run's folder of terrazzo, into which the temperature is written; or with `output`
            anything that `terrazzo.load` takes. A loaded model is not changed.
        data: the data set's folder. Take photos that the model has not learnt from.
        output: write a copy of the model with its temperature into this folder instead.
        split: which split of the data.
        labels: as `terrazzo.evaluate` takes it; and so `mask_values`, `only`, `crowds`, `protocol`, `device` and
            `reading`.
        overwrite: replace an `output` that holds a converted model and nothing else.
        progress: called with (photos done, photos in all).

    Raises:
        ConfigError: an exported file cannot be changed, or there is no folder to write into.
        DatasetError: the data cannot be read, or no temperature fits its labels.
        CheckpointError: the model cannot be loaded.
        OutputError: the output is taken or cannot be written.
    """
    folder = _destination(model, output, overwrite)
    from terrazzo.weights.convert import refuse_taken
    from terrazzo.weights.files import save_folder
    from terrazzo.weights.load import load

    if output is not None:
        refuse_taken(Path(output), Path(model) if isinstance(model, str | Path) else None, overwrite)
    trained = load(model) if isinstance(model, str | Path) else model
    predictor = make_predictor(trained, device, protocol, engine="torch", precision="fp32", workload=MANY_IMAGES)
    predictor = replace(predictor, temperature=1.0)
    samples, ignored = _sampled(predictor, data, split, labels, mask_values, only, crowds, reading, progress)
    temperature = fit_temperature(samples, f"{shown_path(data)} / {split}")
    before, after = (_calibration(samples, trained.labels.num_classes, ignored, t) for t in (1.0, temperature))
    if output is not None:
        save_folder(Path(output), replace(trained, temperature=temperature))
    elif folder is not None:
        _write_temperature(folder, temperature)
    return Calibrated(temperature, before, after, len(samples), Path(output) if output is not None else folder)


def fit_temperature(samples: Sequence[Pixels], where: str = "the data") -> float:
    """Return the temperature that minimises the negative log-likelihood of labelled pixels.

    Raises:
        DatasetError: none does: all pixels are right, or none is better than chance (code "calibration").
    """

    def slope(beta: float) -> float:
        """The derivative of NLL by beta, which is 1 / temperature: the mean logit expected less the label's."""
        total = 0.0
        for log_KP, label_P, weight in samples:
            scaled_KP = np.exp(np.float32(beta) * (log_KP - log_KP.max(axis=0)))
            expected_P = (scaled_KP * log_KP).sum(axis=0) / scaled_KP.sum(axis=0)
            of_label_P = log_KP[label_P, np.arange(label_P.size)]
            total += weight * float((expected_P - of_label_P).sum(dtype=np.float64))
        return total

    low, high = 1 / HIGHEST, 1 / LOWEST
    if not any(label_P.size for _, label_P, _ in samples) or slope(low) >= 0 or slope(high) <= 0:
        raise DatasetError(
            f"{where}: no temperature from {LOWEST:g} to {HIGHEST:g} makes the probabilities fit the labels: "
            "no pixel is labelled, all predictions are right, or they are no better than chance",
            fix="give photos that are labelled, that the model has not learnt from, and on which it errs now and then",
            code="calibration",
        )
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def _sampled(
    predictor: Predictor,
    data: str | Path,
    split: str,
    labels: str | None,
    mask_values: MaskValues | None,
    only: str | None,
    crowds: Crowds | None,
    reading: ReadOptions | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Pixels], int]:
    """Return the labelled pixels of a grid over each photo, and the index of ignored ones."""
    dataset = open_labelled(predictor, data, split, labels, mask_values, only, crowds, reading)
    dataset = in_order_of(predictor, replace(dataset, reading=predictor.reading(dataset.reading)))
    ignored, most = dataset.labels.ignore_index, MOST_FLOATS // (predictor.labels.num_classes * len(dataset))

    def segment(images: list[Image]) -> list[tuple[NDArray[np.float32], int]]:
        step = grid_step(images[0].shape[:2], most)
        grids = (grid for _, grid in predictor.masks_and_grids(images, step))
        return [(grid, step) for grid in grids if grid is not None]

    samples: list[Pixels] = []
    pairs = ([dataset.read(index)] for index in range(len(dataset)))
    for [((grid_Khw, step), label_HW)] in predicted(predictor, pairs, segment):
        label_hw = label_HW[::step, ::step]
        labelled_hw = label_hw != ignored
        log_KP = np.log(grid_Khw[:, labelled_hw].clip(SMALLEST))
        samples.append((log_KP, label_hw[labelled_hw].astype(np.intp), step * step))
        if progress is not None:
            progress(len(samples), len(dataset))
    return samples, ignored


def _calibration(samples: Sequence[Pixels], num_classes: int, ignored: int, temperature: float) -> CalibrationMetrics:
    found = Calibration(num_classes, ignored)
    for log_KP, label_P, weight in samples:
        scaled_KP = np.exp((log_KP - log_KP.max(axis=0)) / np.float32(temperature))
        found.update((scaled_KP / scaled_KP.sum(axis=0))[:, None], label_P[None], weight)
    return found.metrics(temperature)


def _destination(model: Any, output: str | Path | None, overwrite: bool) -> Path | None:
    """The model folder into which the temperature goes, if it goes into the model itself."""
    if not isinstance(model, str | Path):
        return None
    if exported_format(model) is not None:
        raise ConfigError(
            f"{shown_path(model)} is an exported file",
            fix="calibrate the model that it was exported from, and export that again: it takes the temperature along",
            code="calibration-model",
        )
    if output is not None:
        return None
    for folder in (Path(model), Path(model) / "model"):
        if bundled_folder(str(model)) is None and _is_ours(folder):
            return folder
    raise ConfigError(
        f"{shown_path(model)} is not a model folder of terrazzo into which the temperature could be written",
        fix="name a folder for a copy with --output (output= in Python)",
        code="calibration-model",
    )


def _is_ours(folder: Path) -> bool:
    from terrazzo.weights.files import CONFIG_FILE
    from terrazzo.weights.metadata import read_json

    return (folder / CONFIG_FILE).is_file() and "format_version" in read_json(folder / CONFIG_FILE)


def _write_temperature(folder: Path, temperature: float) -> None:
    from terrazzo.weights.files import CONFIG_FILE
    from terrazzo.weights.metadata import read_json

    values = {**read_json(folder / CONFIG_FILE), "temperature": temperature}
    write_atomic(folder / CONFIG_FILE, (json.dumps(values, indent=2) + "\n").encode())
