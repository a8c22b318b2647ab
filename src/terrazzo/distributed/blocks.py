"""Photos in blocks: what a worker gets, reads by itself, and can be given again.

A block names its photos and does not hold them: some files, a row group of a Parquet table, or a WebDataset shard.
"""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from terrazzo.data.choose_images import choose_images
from terrazzo.errors import DatasetError, ImageError, MissingExtraError
from terrazzo.imaging.find_images import IMAGE_SUFFIXES
from terrazzo.inference.predict_folder import output_places
from terrazzo.inference.raster import rasters_among
from terrazzo.text import list_names, said_by, shown_path

__all__ = ["Block", "Files", "Photo", "RowGroup", "Shard", "blocks_of", "parquet"]

COLUMNS = ("image", "bytes", "path", "file")  # of a table, the first that it has


@dataclass(frozen=True)
class Photo:
    """A photo of a block.

    Attributes:
        name: what the report calls it.
        source: its file or its bytes.
        folder: of its results.
        stem: how their names begin.
    """

    name: str
    source: Path | bytes
    folder: Path
    stem: str


@dataclass(frozen=True)
class Files:
    """Image files, each with the folder and the name of its results."""

    places: tuple[tuple[Path, Path, str], ...]

    def photos(self) -> Iterator[Photo]:
        """Name them one by one."""
        for path, folder, stem in self.places:
            yield Photo(str(path), path, folder, stem)


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet table, whose photos are bytes, Hugging Face's images, or paths."""

    table: Path
    group: int
    folder: Path

    def photos(self) -> Iterator[Photo]:
        """Read them one by one."""
        file = parquet().ParquetFile(self.table)
        column = next((name for name in COLUMNS if name in file.schema_arrow.names), None)
        if column is None:
            raise DatasetError(
                f"{shown_path(self.table)} has no column of images, but {list_names(file.schema_arrow.names)}",
                fix=f"call the column of bytes or paths one of {', '.join(COLUMNS)}",
                code="dataset-columns",
            )
        for row, value in enumerate(file.read_row_group(self.group, columns=[column])[column]):
            content: Any = value.as_py()
            path, data = (content.get("path"), content.get("bytes")) if isinstance(content, dict) else (None, content)
            if isinstance(content, str):
                path, data = content, None
            place = f"{self.group:04d}-{row:06d}"
            source = (data or b"") if path is None or data is not None else self.table.parent / path
            yield Photo(str(path or f"{self.table.name}:{place}"), source, self.folder, place)


@dataclass(frozen=True)
class Shard:
    """A tar file of a WebDataset."""

    file: Path
    folder: Path

    def photos(self) -> Iterator[Photo]:
        """Read them one by one."""
        try:
            with tarfile.open(self.file) as archive:
                members = (each for each in archive if each.isfile() and _is_image(each.name))
                for number, member in enumerate(members):
                    stored = archive.extractfile(member)
                    assert stored is not None
                    yield Photo(f"{self.file.name}:{member.name}", stored.read(), self.folder, f"{number:06d}")
        except tarfile.TarError as error:
            raise DatasetError(
                f"{shown_path(self.file)} cannot be read: {said_by(error)}",
                fix="download it again",
                code="dataset-shard",
            ) from error


Block: TypeAlias = Files | RowGroup | Shard


def blocks_of(images: Sequence[str | os.PathLike[str]], output: Path, size: int) -> list[Block]:
    """List the blocks, without opening a photo.

    Args:
        images: files, folders and patterns; those that end with .parquet or .tar are tables and shards.
        output: folder for the results.
        size: of a block of files; the others are as their writer made them.

    Raises:
        ImageError: there are none, or they are georeferenced.
        MissingExtraError: a table is named, and pyarrow is not installed.
    """
    blocks: list[Block] = []
    plain: list[str | os.PathLike[str]] = []
    for each in images:
        name = os.fspath(each)
        if not name.endswith((".parquet", ".tar")):
            plain.append(each)
            continue
        found = [Path(name)] if os.path.exists(name) else [Path(path) for path in sorted(glob.glob(name))]
        if not found:
            raise ImageError(f"there is no {shown_path(Path(name))}", fix="check the path", code="image-missing")
        for file in found:
            folder = output / file.stem
            if file.suffix == ".tar":
                blocks.append(Shard(file, folder))
            else:
                count = parquet().ParquetFile(file).num_row_groups
                blocks += [RowGroup(file, group, folder) for group in range(count)]
    if plain:
        paths, _ = choose_images(plain)
        if rasters := rasters_among(paths, None, None):
            raise ImageError(
                f"{shown_path(min(rasters))} is georeferenced, and workers do not share rasters",
                fix="run terrazzo predict without --ray",
                code="image-raster",
            )
        places = iter(zip(paths, output_places(paths, plain, output), strict=True))
        while some := tuple((path, *place) for path, place in islice(places, size)):
            blocks.append(Files(some))
    return blocks


def parquet() -> Any:
    """Import pyarrow.parquet.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "dist") from None
    return pyarrow.parquet


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES
