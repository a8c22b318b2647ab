"""A window of a georeferenced raster as a source: one of the images that training cuts out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.sources.raster import Raster
from terrazzo.data.sources.region import PixelWindow
from terrazzo.data.sources.source import Image
from terrazzo.imaging.bands import Bands
from terrazzo.imaging.read import ReadOptions

__all__ = ["RasterWindow"]

ANY_BAND = ReadOptions(bands=(1,))  # of files that do not say what their bands are


@dataclass(frozen=True)
class RasterWindow:
    """A window of a raster, whose file is opened at each reading: GDAL's datasets survive neither threads nor forks.

    Attributes:
        file: the raster.
        window: which part of it.
        reading: how it is read, where the file leaves that open.
    """

    file: Path
    window: PixelWindow
    reading: ReadOptions = field(default_factory=ReadOptions)

    @property
    def name(self) -> str:
        return f"{self.file.stem}_r{self.window.top}_c{self.window.left}{self.file.suffix}"

    @property
    def part(self) -> str:
        return f"{self.window}: "

    @property
    def size(self) -> tuple[int, int]:
        with self.opened() as raster:  # which refuses bands that are not there
            return raster.size

    @property
    def bands(self) -> tuple[int, ...]:
        with self.opened() as raster:
            return raster.bands

    @property
    def has_windows(self) -> bool:
        return True

    @property
    def about(self) -> Mapping[str, Any]:
        with self.opened() as raster:
            return raster.about

    @property
    def stored(self) -> Bands:
        with self.with_reading(ANY_BAND).opened() as raster:
            return raster.stored

    @property
    def is_turned(self) -> bool:
        return False

    def with_reading(self, reading: ReadOptions) -> RasterWindow:
        return replace(self, reading=reading)

    def read(self) -> Image:
        return self.read_with_remarks()[0]

    def read_window(self, rows: slice, columns: slice) -> Image:
        with self.opened() as raster:
            return raster.read_window(rows, columns)

    def read_with_remarks(self) -> tuple[Image, tuple[str, ...]]:
        with self.opened() as raster:
            remarks: list[str] = []
            raster.tell = remarks.append
            return raster.read(), tuple(remarks)

    def gaps(self) -> NDArray[np.bool_] | None:
        """Return which pixels are gaps in all bands, or by the raster's mask; None where there can be none."""
        with self.with_reading(ANY_BAND).opened() as raster:
            return raster.gaps_of_all_bands()

    @contextmanager
    def opened(self) -> Iterator[Raster]:
        """Yield the window as an open raster.

        Raises:
            ImageError: as `Raster`.
        """
        with closing(Raster(self.file, self.reading, part=self.window)) as raster:
            raster.tell = lambda _: None
            yield raster
