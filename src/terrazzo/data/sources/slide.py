"""Whole-slide images as sources, through OpenSlide: one level of the pyramid, read in windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.data.sources.source import Image
from terrazzo.errors import ImageError, MissingExtraError
from terrazzo.text import printable, shown_path

__all__ = ["SLIDE_SUFFIXES", "Slide"]

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
WHITE = 255  # what lies outside of the scanned areas, which is transparent
FURTHEST = math.sqrt(2)  # from the resolution that is asked for to that of a level, as a factor


@dataclass(frozen=True, eq=False)
class Slide:
    """The level of a slide whose resolution is nearest to one that is asked for; it is not resized.

    Attributes:
        file: the slide.
        mpp: micrometres per pixel that are asked for.

    Raises:
        ImageError: it is no slide, does not say its resolution, or has no level near the one asked for.
        MissingExtraError: OpenSlide is not installed.
    """

    file: Path
    mpp: float

    def __post_init__(self) -> None:
        factor = self.level_mpp / self.mpp
        if not 1 / FURTHEST <= factor <= FURTHEST:
            there = ", ".join(f"{self._base_mpp * down:.3g}" for down in self._slide.level_downsamples)
            raise self._error(
                f"no level is near {self.mpp:g} micrometres a pixel: there are {there}",
                "choose one of these with --mpp, that of the model's training images",
                "slide-mpp",
            )

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def size(self) -> tuple[int, int]:
        width, height = self._slide.level_dimensions[self.level]
        return height, width

    @property
    def bands(self) -> tuple[int, ...]:
        return 1, 2, 3

    @property
    def has_windows(self) -> bool:
        return True

    @property
    def about(self) -> Mapping[str, Any]:
        return {"mpp": self.level_mpp, "level": self.level}

    @cached_property
    def level(self) -> int:
        """The level that is read, 0 for the finest."""
        downsamples = self._slide.level_downsamples
        return min(range(len(downsamples)), key=lambda k: abs(math.log(self._base_mpp * downsamples[k] / self.mpp)))

    @property
    def level_mpp(self) -> float:
        """Micrometres per pixel of that level."""
        return self._base_mpp * float(self._slide.level_downsamples[self.level])

    def read(self) -> Image:
        height, width = self.size
        return self.read_window(slice(0, height), slice(0, width))

    def read_window(self, rows: slice, columns: slice) -> Image:
        down = self._slide.level_downsamples[self.level]
        corner = round(columns.start * down), round(rows.start * down)  # OpenSlide counts in pixels of level 0
        size = columns.stop - columns.start, rows.stop - rows.start
        try:
            rgba_HW4 = np.asarray(self._slide.read_region(corner, self.level, size))
        except Exception as error:
            self._refuse_other(error)
            where = f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop}"
            raise self._error(f"{where} cannot be read: {printable(str(error))}") from error
        rgb_HW3 = rgba_HW4[..., :3].copy()
        rgb_HW3[rgba_HW4[..., 3] == 0] = WHITE
        return rgb_HW3

    @cached_property
    def _slide(self) -> Any:
        try:
            import openslide
        except ImportError as error:
            raise MissingExtraError("openslide-python", "slides") from error
        try:
            return openslide.OpenSlide(self.file)
        except Exception as error:
            self._refuse_other(error)
            raise self._error(f"it cannot be opened as a whole-slide image: {printable(str(error))}") from error

    @cached_property
    def _base_mpp(self) -> float:
        given = [self._slide.properties.get(f"openslide.mpp-{axis}", "") for axis in "xy"]
        try:
            mpp = math.prod(map(float, given)) ** 0.5
        except ValueError:
            mpp = 0.0
        if not 0 < mpp < math.inf:
            raise self._error(
                "it does not say how many micrometres a pixel has",
                "read it without --mpp, one page after the other with --frame",
                "slide-mpp",
            )
        return mpp

    @staticmethod
    def _refuse_other(error: Exception) -> None:
        """Raise again what is none of OpenSlide's failures."""
        import openslide

        if not isinstance(error, (openslide.OpenSlideError, OSError, ValueError)):
            raise error

    def _error(
        self,
        what: str,
        fix: str = "copy or download it again; OpenSlide's formats are read",
        code: str = "image-corrupt",
    ) -> ImageError:
        return ImageError(f"{shown_path(self.file)}: {what}", fix=fix, code=code)
