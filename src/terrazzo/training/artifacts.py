"""What a finished run leaves for people: recipe, curves, report, and a sheet of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from terrazzo.evaluation.report import Report

if TYPE_CHECKING:
    from terrazzo.training.trainer import Trainer


def write_artifacts(trainer: Trainer, record: dict[str, Any]) -> Report:
    raise NotImplementedError
