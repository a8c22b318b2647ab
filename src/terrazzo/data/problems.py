"""Problem: one thing that is wrong with a data set, as `check-data` lists it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from terrazzo.errors import TerrazzoError
from terrazzo.text import shown_path

__all__ = ["Problem", "Severity"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        severity: an ``error`` stops a training run, a ``warning`` spoils it, a ``note`` says how something is read.
        code: a stable identifier, the same as that of the error which training would raise.
        file: the file at fault, or None for the data set as a whole.
        message: what is wrong, without the file's name.
        fix: what to do about it, as one sentence.
    """

    severity: Severity
    code: str
    file: Path | None
    message: str
    fix: str

    @classmethod
    def from_error(cls, error: TerrazzoError, file: Path) -> Problem:
        """Record an error that names this file at its beginning."""
        return cls("error", error.code, file, error.message.removeprefix(f"{shown_path(file)}: "), error.fix)

    def __str__(self) -> str:
        return self.message if self.file is None else f"{shown_path(self.file)}: {self.message}"
