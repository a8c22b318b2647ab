"""Where a photo comes from: a file, or a cell of a table; both give what the image decoder takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ImageError
from terrazzo.imaging.header import opened_image, orientation
from terrazzo.imaging.read import ReadOptions, image_size, read_with_remarks
from terrazzo.text import shown_path

__all__ = ["Photo", "PhotoFile", "is_turned", "photo_size", "photo_with_remarks", "read_photo"]


class Photo(Protocol):
    """An encoded photo, read when it is needed.

    Attributes:
        file: the file that holds it, which messages name.
        name: what people call it, such as ``street_01.jpg``.
        part: where in the file it is, as messages say it, such as ``row 12: ``; empty where it is the whole file.
    """

    @property
    def file(self) -> Path: ...

    @property
    def name(self) -> str: ...

    @property
    def part(self) -> str: ...

    def encoded(self) -> Path | bytes:
        """Return the image file: its path, or its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo that is a file of its own."""

    file: Path

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def part(self) -> str:
        return ""

    def encoded(self) -> Path:
        return self.file


def read_photo(photo: Photo, reading: ReadOptions | None = None) -> NDArray[np.uint8]:
    """Decode a photo to (H, W, 3).

    Raises:
        ImageError: as `terrazzo.imaging.read.read_image`, naming the file.
    """
    return photo_with_remarks(photo, reading)[0]


def photo_with_remarks(photo: Photo, reading: ReadOptions | None = None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode a photo, and say what may have been meant otherwise.

    Raises:
        ImageError: as `terrazzo.imaging.read.read_image`, naming the file.
    """
    try:
        return read_with_remarks(photo.encoded(), reading)
    except ImageError as error:
        raise _named(error, photo) from error


def photo_size(photo: Photo) -> tuple[int, int]:
    """Read the (height, width) of `read_photo` from the header alone.

    Raises:
        ImageError: as `terrazzo.imaging.read.image_size`, naming the file.
    """
    try:
        return image_size(photo.encoded())
    except ImageError as error:
        raise _named(error, photo) from error


def is_turned(photo: Photo) -> bool:
    """Whether EXIF data turn or mirror it.

    Raises:
        ImageError: the header cannot be read.
    """
    try:
        with opened_image(photo.encoded()) as header:
            return orientation(header) != 1
    except ImageError as error:
        raise _named(error, photo) from error


def _named(error: ImageError, photo: Photo) -> ImageError:
    """Name the file where the decoder was given nothing but bytes."""
    if not photo.part:
        return error
    message = error.message.removeprefix("the image: ")
    return ImageError(f"{shown_path(photo.file)}: {photo.part}{message}", fix=error.fix, code=error.code)
