"""The protocol of a source: an image that is read when it is needed, whole or in windows.

Prediction, tiling and training take sources and ask no further, so an image may be larger than memory: a raster is read
window by window, while a JPEG is decoded whole and cropped. A new kind of image is a class with these attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

from terrazzo.imaging.bands import Bands
from terrazzo.imaging.read import ReadOptions
from terrazzo.imaging.resize import Pixels

__all__ = ["Image", "Source", "StoredSource"]

Image: TypeAlias = Pixels


class Source(Protocol):
    """An image of which nothing has been read yet.

    Attributes:
        name: what messages and people call it, such as ``street_01.jpg``.
        size: (height, width), from the header alone.
        bands: the bands that are read, counted from 1.
        has_windows: whether a window is read without the rest. Otherwise `read_window` reads everything and crops, and
            a caller that needs several windows does better to `read` once.
        about: what belongs to the image beside its pixels, such as a raster's ``crs``, ``transform`` and ``nodata``;
            looked up when it is asked for. Empty for plain images.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def bands(self) -> tuple[int, ...]: ...

    @property
    def has_windows(self) -> bool: ...

    @property
    def about(self) -> Mapping[str, Any]: ...

    def read(self) -> Image:
        """Return all of it, (H, W, bands).

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        ...

    def read_window(self, rows: slice, columns: slice) -> Image:
        """Return a part of it, (rows, columns, bands): the pixels that ``read()[rows, columns]`` has.

        Args:
            rows: from 0 <= start to before stop <= height, without a step.
            columns: likewise.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        ...


class StoredSource(Source, Protocol):
    """A source that lies in a file, as the images of data sets do.

    Attributes:
        file: the file that holds it, which messages name.
        part: where in the file it is, as messages say it, such as ``row 12: ``; empty where it is the whole file.
    """

    @property
    def file(self) -> Path: ...

    @property
    def part(self) -> str: ...

    @property
    def stored(self) -> Bands:
        """Which bands its header names, and of what numbers."""
        ...

    @property
    def is_turned(self) -> bool:
        """Whether EXIF data turn or mirror it."""
        ...

    def with_reading(self, reading: ReadOptions) -> Self:
        """Return the same image, read in another way."""
        ...

    def read_with_remarks(self) -> tuple[Image, tuple[str, ...]]:
        """Return what `read` does, and what may have been meant otherwise."""
        ...
