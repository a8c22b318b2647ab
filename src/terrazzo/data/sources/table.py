"""A column of images in a table, such as one of Hugging Face `datasets`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.data.sources.encoded import EncodedImage
from terrazzo.errors import ImageError
from terrazzo.text import shown_path

__all__ = ["TableCell"]


@dataclass(frozen=True, slots=True)
class TableCell(EncodedImage):
    """An encoded image in one row of a table.

    Attributes:
        table: gives a row by its number, and a cell by its column: bytes, or a path below `root`.
        row: counted from 0.
        column: the column's name.
        root: the data set's folder, which paths must not leave.
    """

    table: Any
    row: int
    column: str
    root: Path

    @property
    def name(self) -> str:
        return f"{self.row:06}"

    @property
    def part(self) -> str:
        return f"row {self.row}, {self.column}: "

    def encoded(self) -> Path | bytes:
        content = self.table[self.row][self.column] or {}
        if content.get("bytes") is not None:
            return bytes(content["bytes"])
        path = Path(content.get("path") or "")
        if not path.resolve().is_relative_to(self.root.resolve()):  # somebody else's table may name any file
            raise ImageError(
                f"it names {shown_path(path)}, outside of the data set",
                fix="save it again with save_to_disk, which puts images and masks into the table",
                code="dataset-outside",
            )
        return path
