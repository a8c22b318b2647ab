"""`evaluate_corruptions`: how much of its mIoU a model keeps on corrupted photos.

One evaluation for each corruption and severity, over the same photos as the clean one. A corruption's figure is the
mean over its severities; of the four kinds of noise only the first three severities enter it, as in Kamann & Rother
(CVPR 2020) and in SegFormer's table 5. Retention is that mean in per cent of the clean mIoU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terrazzo.arguments import checked
from terrazzo.data.readings import MaskValues
from terrazzo.data.rules import Crowds
from terrazzo.data.sources.source import Image
from terrazzo.engines.modes import keeps_mode
from terrazzo.errors import ConfigError
from terrazzo.evaluation.confusion import present_mean, score_text
from terrazzo.evaluation.corruptions import GROUPS, SEVERITIES, choose_corruptions, corrupt
from terrazzo.evaluation.evaluator import MANY_IMAGES, measure, open_labelled
from terrazzo.evaluation.report import Report
from terrazzo.evaluation.robustness_png import robustness_png
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.ownership import refuse_foreign, write_results

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["Robustness", "evaluate_corruptions", "robustness_files"]

FILES = ("robustness.txt", "robustness.png", "robustness.json")
NOISE_SEVERITIES = (1, 2, 3)


@dataclass(frozen=True, eq=False)
class Robustness:
    """A model on clean photos, and on the same ones corrupted.

    Attributes:
        clean: the report without corruption.
        reports: by corruption and severity.
    """

    clean: Report
    reports: dict[tuple[str, int], Report]

    @cached_property
    def corruptions(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.reports))

    @cached_property
    def severities(self) -> list[int]:
        return sorted({severity for _, severity in self.reports})

    def mIoU(self, name: str) -> float:
        """Mean over the severities that count, in percent; NaN where none of them was measured."""
        return present_mean(np.array([self.reports[name, s].metrics.mIoU for s in self._counted(name)]))

    def retention(self, name: str) -> float:
        """`mIoU` in per cent of the clean one."""
        clean = self.clean.metrics.mIoU
        return 100 * self.mIoU(name) / clean if clean else float("nan")

    def ece(self, name: str) -> float:
        """Mean expected calibration error over the same severities; NaN where there are no probabilities."""
        return present_mean(np.array([_ece(self.reports[name, s]) for s in self._counted(name)]))

    def means(self) -> tuple[float, float, float]:
        """mIoU, retention and ECE over all corruptions, each of which counts alike."""
        values = [(self.mIoU(name), self.retention(name), self.ece(name)) for name in self.corruptions]
        mIoU, retention, ece = (present_mean(np.array(column)) for column in zip(*values, strict=True))
        return mIoU, retention, ece

    def table(self) -> str:
        """Lay out mIoU by corruption and severity, retention and ECE, as aligned plain text."""
        columns = [["corruption", "clean", *self.corruptions]]
        for severity in self.severities:
            cells = [self.reports[name, severity].metrics.mIoU for name in self.corruptions]
            columns.append([str(severity), "", *map(score_text, cells)])
        clean = self.clean.metrics.mIoU
        columns.append(["mIoU", score_text(clean), *(score_text(self.mIoU(name)) for name in self.corruptions)])
        columns.append(["% kept", "", *(_tenths(self.retention(name)) for name in self.corruptions)])
        eces = [_ece(self.clean), *(self.ece(name) for name in self.corruptions)]
        columns.append(["ECE", *map(score_text, eces)])
        mIoU, retention, ece = self.means()
        last = ["mean", *("" for _ in self.severities), score_text(mIoU), _tenths(retention), score_text(ece)]
        columns = [[*column, cell] for column, cell in zip(columns, last, strict=True)]
        widths = [max(map(len, column)) for column in columns]
        rows = [
            "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
            for cells in zip(*columns, strict=True)
        ]
        rule = "-" * len(rows[0])
        subject = f"{self.clean.subject}: mIoU of {self.clean.images} images by severity of their corruption"
        notes = []
        if set(self.corruptions) & set(GROUPS["noise"]) and set(self.severities) - set(NOISE_SEVERITIES):
            notes.append("of noise, severities 1 to 3 enter the mean, as in SegFormer's table 5")
        return "\n".join([subject, "", rows[0], rule, *rows[1:-1], rule, rows[-1], *notes])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Describe it in JSON's types, rounded to 2 decimals; None where there is no number."""
        mIoU, retention, ece = self.means()
        return {
            "model": self.clean.model,
            "dataset": self.clean.dataset,
            "split": self.clean.split,
            "images": self.clean.images,
            "protocol": {"name": self.clean.protocol, "hash": self.clean.protocol_hash},
            "clean": {"mIoU": _rounded(self.clean.metrics.mIoU), "ece": _rounded(_ece(self.clean))},
            "mean": {"mIoU": _rounded(mIoU), "retention": _rounded(retention), "ece": _rounded(ece)},
            "corruptions": [
                {
                    "name": name,
                    "mIoU": _rounded(self.mIoU(name)),
                    "retention": _rounded(self.retention(name)),
                    "ece": _rounded(self.ece(name)),
                    "severities": [
                        {
                            "severity": severity,
                            "mIoU": _rounded(self.reports[name, severity].metrics.mIoU),
                            "ece": _rounded(_ece(self.reports[name, severity])),
                        }
                        for severity in self.severities
                    ],
                }
                for name in self.corruptions
            ],
        }

    def to_json(self) -> str:
        """`to_dict` as indented text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def png(self) -> bytes:
        """Draw retention and ECE by corruption."""
        severities = {
            name: [self.reports[name, severity].metrics.mIoU for severity in self.severities]
            for name in self.corruptions
        }
        rows = [(name, self.retention(name), self.ece(name), severities[name]) for name in self.corruptions]
        return robustness_png(rows, self.clean.metrics.mIoU, _ece(self.clean), self.clean.subject, self.means())

    @checked
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write robustness.txt, robustness.json and robustness.png into `folder`.

        Raises:
            OutputError: a file is there that is not an earlier result, or the folder cannot be written to.
        """
        paths = robustness_files(folder)
        refuse_foreign(paths, "evaluate", overwrite=overwrite, option="folder")
        contents = (f"{self.table()}\n".encode(), self.png(), self.to_json().encode("utf-8", "backslashreplace"))
        write_results(dict(zip(paths, contents, strict=True)), "evaluate")

    def _counted(self, name: str) -> list[int]:
        return [s for s in self.severities if name not in GROUPS["noise"] or s in NOISE_SEVERITIES]


@checked
@keeps_mode
def evaluate_corruptions(
    model: str | Path | TrainedModel | Predictor,
    data: str | Path,
    *,
    corruptions: str = "all",
    severities: Sequence[int] = SEVERITIES,
    split: str = "val",
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    only: str | None = None,
    crowds: Crowds | None = None,
    protocol: str | Protocol = "whole",
    device: str | None = None,
    engine: str = "auto",
    reading: ReadOptions | None = None,
    clean: Report | None = None,
    trust: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Measure a model on corrupted photos: noise, blur, weather and digital faults, in five severities.

    Args:
        model: as `terrazzo.evaluate` takes it; and so all arguments that are not named here.
        data: the data set's folder.
        corruptions: ``all``, or names of corruptions or groups with commas: ``noise``, ``blur``, ``weather`` and
            ``digital`` hold four each.
        severities: some of 1 to 5.
        clean: the report on the same photos without corruption, if it is at hand; by default it is measured.
        progress: called with (photos done, photos in all), over all corruptions.

    Raises:
        ConfigError: no corruption or severity is called so, or the model does not read 8-bit RGB.
        DatasetError: as `terrazzo.evaluate`; and so all others.
    """
    chosen = choose_corruptions(corruptions)
    for severity in severities or (0,):
        if severity not in SEVERITIES:
            raise ConfigError(
                f"the severity of a corruption is {severity}", fix="give some of 1 to 5", code="corruption-severity"
            )
    severities = sorted(set(severities))
    if isinstance(model, Predictor):
        predictor = model
    else:
        predictor = make_predictor(
            model, device, protocol, engine=engine, precision="fp32", workload=MANY_IMAGES, trust=trust
        )
    if predictor.preprocess.bands is not None:
        raise ConfigError(
            f"corruptions are defined for 8-bit RGB, and {predictor.model or 'the model'} reads other bands",
            fix="leave the corruptions out",
            code="corruption-bands",
        )
    dataset = open_labelled(predictor, data, split, labels, mask_values, only, crowds, reading)
    name = Path(data).resolve().name
    passes = len(chosen) * len(severities) + (clean is None)

    def told(number: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(number * total + done, passes * total)

    if clean is None:
        clean, _ = measure(predictor, dataset, name, progress=told(0))
    reports: dict[tuple[str, int], Report] = {}
    for corruption in chosen:
        for severity in severities:

            def change(index: int, image: Image, name: str = corruption, severity: int = severity) -> Image:
                return corrupt(image.astype(np.uint8, copy=False), name, severity, index)

            position = passes - len(chosen) * len(severities) + len(reports)
            report, _ = measure(predictor, dataset, name, change=change, progress=told(position))
            reports[corruption, severity] = report
    return Robustness(clean, reports)


def robustness_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that `Robustness.save` writes into a folder."""
    return [Path(folder, name) for name in FILES]


def _ece(report: Report) -> float:
    return float("nan") if report.calibration is None else report.calibration.ece


def _tenths(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.1f}"


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
