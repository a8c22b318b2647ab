"""A folder that Hugging Face `datasets` wrote with ``save_to_disk``, with a column of photos and a column of masks.

It has a subfolder for each split, or is one table, which is then the split train; validation is called val here. Of the
columns of images, the one whose name speaks of a mask, label, annotation or segmentation holds the masks, and the other
the photos. The classes are those of a ``labels.yaml`` put beside them, or are guessed. Tables stay on the disk; rows
are decoded when a pair is read. Reading needs the extra ``datasets``, recognising a folder does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from terrazzo.config import read_json
from terrazzo.data.dataset import Sample
from terrazzo.data.folders import by_split, subfolders
from terrazzo.data.layout import Layout, NearMiss, Pairs
from terrazzo.data.masks import StoredMask, read_stored_mask
from terrazzo.data.problems import file_error
from terrazzo.data.sources.table import TableCell
from terrazzo.errors import DatasetError, ImageError, MissingExtraError
from terrazzo.text import list_names, printable, said_by

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Hugging Face datasets"
SHAPE = "dataset_dict.json, train/dataset_info.json"
MASK_WORDS = ("mask", "label", "annotation", "segm")


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``dataset_dict.json``, or by ``state.json`` and ``dataset_info.json``."""
    tables = _tables(root)
    if not tables:
        return None
    columns = _columns(next(iter(tables.values())))
    if isinstance(columns, NearMiss):
        return columns
    name = printable(f"{NAME} (columns {columns[0]} and {columns[1]})")
    marker = next(root / file for file in ("dataset_dict.json", "state.json") if (root / file).is_file())
    return Layout(name, root, marker, tuple(tables), partial(_pairs, root, tables, columns))


@dataclass(frozen=True, slots=True)
class CellMask:
    """A mask in one row of a table: a `MaskSource`."""

    cell: TableCell

    @property
    def file(self) -> Path:
        return self.cell.file

    @property
    def part(self) -> str:
        return self.cell.part

    def read(self) -> StoredMask:
        """Decode it as a mask."""
        try:
            return read_stored_mask(self.cell.encoded())
        except (DatasetError, ImageError) as error:
            message = error.message.removeprefix("the image: ")
            raise file_error(self.file, f"{self.part}{message}", fix=error.fix, code=error.code) from error


def _tables(root: Path) -> dict[str, Path]:
    """Find the folder of each split's table."""
    if (root / "dataset_dict.json").is_file():
        splits = _json(root / "dataset_dict.json").get("splits")
        listed = splits if isinstance(splits, list) else []
        names = [path.name for path in subfolders(root) if path.name in listed]
        found = by_split(name for name in names if (root / name / "dataset_info.json").is_file())
        return {split: root / name for split, name in found.items()}
    return {"train": root} if all((root / f"{n}.json").is_file() for n in ("state", "dataset_info")) else {}


def _columns(folder: Path) -> tuple[str, str] | NearMiss:
    """Tell the column of photos and the column of masks by their types and names."""
    features = _json(folder / "dataset_info.json").get("features")
    given = features if isinstance(features, dict) else {}
    columns = [name for name, kind in given.items() if isinstance(kind, dict) and kind.get("_type") == "Image"]
    masks = [name for name in columns if any(word in name.casefold() for word in MASK_WORDS)]
    images = [name for name in columns if name not in masks]
    if len(masks) == 1 and len(images) == 1:
        return images[0], masks[0]
    there = f"its columns of images are {list_names(columns)}" if columns else "it has no column of images"
    fix = "save it with one column of images called image and one called mask"
    return NearMiss(NAME, f"{there}, and which are photos and which are masks is not clear", fix)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, error=DatasetError)
    except DatasetError:
        return {}
    return content if isinstance(content, dict) else {}


def _pairs(root: Path, tables: dict[str, Path], columns: tuple[str, str], split: str) -> Pairs:
    folder = tables[split]
    table = _table(folder, columns)
    image, mask = columns
    samples = [
        Sample(TableCell(folder, table, row, image, root), CellMask(TableCell(folder, table, row, mask, root)))
        for row in range(len(table))
    ]
    return samples, []


@lru_cache(maxsize=4)
def _table(folder: Path, columns: tuple[str, str]) -> Any:
    """Open a table without reading it, its images as they are stored."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    try:
        table = datasets.load_from_disk(str(folder)).select_columns(list(columns))
        for column in columns:
            table = table.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # the package meets damaged files with every kind of exception
        message = f"cannot be read as a table: {said_by(error)}"
        raise file_error(folder, message, fix="save it again with save_to_disk") from error
    return table
