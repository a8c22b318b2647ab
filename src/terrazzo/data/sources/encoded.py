"""Sources that are encoded images: JPEG, PNG, TIFF and others, as files or as bytes inside of other files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from terrazzo.data.sources.source import Image
from terrazzo.errors import ImageError
from terrazzo.imaging.band_values import bands_of_image
from terrazzo.imaging.bands import Bands
from terrazzo.imaging.header import choose_frame, opened_image, orientation
from terrazzo.imaging.read import ReadOptions, image_size, read_with_remarks
from terrazzo.text import shown_path

__all__ = ["EncodedImage"]

RGB = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class EncodedImage(ABC):
    """An encoded image, decoded when it is read: to RGB, or by a rule to the bands that a model reads.

    Attributes:
        file: the file that holds it.
        reading: how it is read, where it leaves that open.
    """

    file: Path
    reading: ReadOptions = field(default=ReadOptions(), kw_only=True)

    @abstractmethod
    def encoded(self) -> Path | bytes:
        """Return the image file: its path, or its bytes."""

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def part(self) -> str:
        return ""

    @property
    def size(self) -> tuple[int, int]:
        reading, chosen = self.reading, self.reading.bands is not None
        try:
            return image_size(self.encoded(), bands_chosen=chosen, frame=reading.frame, rule=reading.rule)
        except ImageError as error:
            raise self._named(error) from error

    @property
    def bands(self) -> tuple[int, ...]:
        return self.reading.bands or (RGB if self.reading.rule is None else self.reading.rule.chosen)

    @property
    def has_windows(self) -> bool:
        return False

    @property
    def about(self) -> Mapping[str, Any]:
        return {}

    @property
    def stored(self) -> Bands:
        try:
            with opened_image(self.encoded()) as header:
                choose_frame(header, self.reading.frame)
                return bands_of_image(header)
        except ImageError as error:
            raise self._named(error) from error

    @property
    def is_turned(self) -> bool:
        try:
            with opened_image(self.encoded()) as header:
                return orientation(header) != 1
        except ImageError as error:
            raise self._named(error) from error

    def with_reading(self, reading: ReadOptions) -> Self:
        return replace(self, reading=reading)

    def read(self) -> Image:
        return self.read_with_remarks()[0]

    def read_window(self, rows: slice, columns: slice) -> Image:
        return self.read()[rows, columns]

    def read_with_remarks(self) -> tuple[Image, tuple[str, ...]]:
        try:
            return read_with_remarks(self.encoded(), self.reading)
        except ImageError as error:
            raise self._named(error) from error

    def _named(self, error: ImageError) -> ImageError:
        """Name the file where the decoder was given nothing but bytes."""
        if not self.part:
            return error
        message = error.message.removeprefix("the image: ")
        return ImageError(f"{shown_path(self.file)}: {self.part}{message}", fix=error.fix, code=error.code)
