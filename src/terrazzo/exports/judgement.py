"""A gate for files that do not compute what their model does to the last bit: mIoU on labelled photos.

What measures mIoU lies above this layer and comes in as a `Judge`; `terrazzo.miou_on` makes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from terrazzo.engines.engine import Engine
from terrazzo.errors import CheckpointError
from terrazzo.text import printable
from terrazzo.weights.exported import ExportedDescription

__all__ = ["MAX_MIOU_LOSS", "RECORD_KEY", "Judge", "Judgement", "Score", "refuse_judgement"]

MAX_MIOU_LOSS = 1.0
"""Points of mIoU that a file may lose, by default."""

RECORD_KEY = "judgement"
"""Where a file's record holds what was measured."""


@dataclass(frozen=True)
class Score:
    """What an engine reached.

    Attributes:
        mIoU: in percent.
        data: name of the data set.
        split: of it.
        photos: how many.
    """

    mIoU: float
    data: str
    split: str
    photos: int


Judge: TypeAlias = Callable[[Engine, ExportedDescription], Score]
"""Measures an engine on labelled photos, given what its file says about itself."""


@dataclass(frozen=True)
class Judgement:
    """The model in float32 and its file, measured on the same photos.

    Attributes:
        exact: the model.
        written: the file.
        precision: of the file.
    """

    exact: Score
    written: Score
    precision: str

    @property
    def loss(self) -> float:
        """Points of mIoU; negative where the file happens to do better."""
        return self.exact.mIoU - self.written.mIoU

    def __str__(self) -> str:
        where = f"{printable(f'{self.exact.data}/{self.exact.split}')}, {self.exact.photos} photos"
        change = f"{abs(self.loss):.2f} points {'lost' if self.loss >= 0 else 'gained'}"
        return f"mIoU on {where}: fp32 {self.exact.mIoU:.2f}, {self.precision} {self.written.mIoU:.2f}, {change}"

    def to_dict(self) -> dict[str, Any]:
        """Describe the judgement in JSON's types, as the file's record keeps it."""
        return {
            "data": self.exact.data,
            "split": self.exact.split,
            "photos": self.exact.photos,
            "mIoU_fp32": round(self.exact.mIoU, 2),
            f"mIoU_{self.precision}": round(self.written.mIoU, 2),
        }


def refuse_judgement(judgement: Judgement, max_loss: float) -> None:
    """Raise CheckpointError "export-loss" where more than `max_loss` points of mIoU were lost."""
    if not judgement.loss <= max_loss:
        raise CheckpointError(
            f"{judgement}, and {max_loss:g} is allowed; the file was removed",
            fix="calibrate with more photos like those it will see, keep fp32, or allow more with --max-loss",
            code="export-loss",
        )
