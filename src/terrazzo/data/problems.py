"""Problem: one thing that is wrong with a data set, as `check-data` lists it; and errors that name a file of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from terrazzo.errors import DatasetError, LabelError, TerrazzoError
from terrazzo.text import list_names, shown_path

__all__ = ["Problem", "Severity", "class_names_of", "file_error", "left_out"]

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
        """Record an error of a file, without the file's name where the message begins with it."""
        message, name = error.message, shown_path(file)
        for beginning, rest in ((": ", ""), (", ", ""), (" ", "it ")):
            if message.startswith(name + beginning):
                message = rest + message.removeprefix(name + beginning)
                break
        return cls("error", error.code, file, message, error.fix)

    def __str__(self) -> str:
        return self.message if self.file is None else f"{shown_path(self.file)}: {self.message}"


def file_error(file: Path, message: str, *, fix: str, code: str = "dataset-annotations") -> DatasetError:
    """Make an error about a file of a data set: by default a document that does not say what it should."""
    return DatasetError(f"{shown_path(file)}: {message}", fix=fix, code=code)


@contextmanager
def class_names_of(file: Path, what: str = "") -> Iterator[None]:
    """Name the document in errors about the class names that it gives; `what` says where in it they are."""
    try:
        yield
    except LabelError as error:
        raise file_error(file, f"{what}{error.message}", fix=error.fix) from error


def left_out(file: Path, what: str, names: Sequence[str], *, fix: str) -> list[Problem]:
    """Count, as a warning, what is left out because nobody has labelled it."""
    message = f"{len(names)} {what}: {list_names(names)}"
    return [Problem("warning", "mask-missing", file, message, fix)] if names else []
