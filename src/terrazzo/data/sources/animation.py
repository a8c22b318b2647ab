"""GIF, WebP and PNG files that are animated, as videos: each frame as viewers show it, for as long as they do."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import ImageSequence

from terrazzo.data.sources.video import Frame, Span, no_frames
from terrazzo.errors import ImageError
from terrazzo.imaging.header import check_size, opened_image
from terrazzo.imaging.read import MAX_PIXELS, WHITE
from terrazzo.imaging.transparency import composed
from terrazzo.notes import note
from terrazzo.regular_files import open_regular

__all__ = ["Animation", "is_animated"]

USUAL = Fraction(1, 10)  # seconds that browsers show frames which say at most a hundredth
SHORTEST = Fraction(1, 100)


@dataclass
class Animation:
    """An image file of several frames that are shown one after the other.

    Raises:
        ImageError: it cannot be read.
    """

    path: Path
    time_base: Fraction = field(default=Fraction(1, 1000), init=False)
    rate: Fraction = field(init=False)
    duration: Fraction | None = field(default=None, init=False)
    pixel_aspect: Fraction = field(default=Fraction(1), init=False)
    has_audio: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        with opened_image(self.path) as image:
            check_size(image, MAX_PIXELS)
            self.rate = 1 / _shown_for(image.info)

    def frames(self, span: Span) -> Generator[Frame, None, None]:
        time, number = Fraction(0), -1
        try:
            with opened_image(self.path) as image:
                for picture in ImageSequence.Iterator(image):
                    picture.load()
                    duration = _shown_for(picture.info)
                    if time >= span.start and (span.stop is None or time < span.stop):
                        number += 1
                        if number % span.every == 0:
                            pixels = np.asarray(composed(picture, WHITE, []))
                            yield Frame(number, time, duration * span.every, pixels)
                    time += duration
        except ImageError as error:
            if number < 0:
                raise
            note(f"{error.message}; the frames after {float(time):.2f} s are missing")
        if number < 0:
            raise no_frames(self.path, span, time)


def is_animated(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an image of several frames that are shown one after the other; pages of a TIFF are not."""
    try:
        with open_regular(path) as file:
            head = file.read(12)
        if not head.startswith((b"GIF8", b"RIFF", b"\x89PNG")):  # as of most photos
            return False
        with opened_image(path) as image:
            return image.format in ("GIF", "WEBP", "PNG") and bool(getattr(image, "is_animated", False))
    except (ImageError, OSError):
        return False


def _shown_for(info: dict[str | tuple[int, int], object]) -> Fraction:
    milliseconds = info.get("duration", 0)
    seconds = Fraction(round(milliseconds), 1000) if isinstance(milliseconds, (int, float)) else Fraction(0)
    return seconds if seconds > SHORTEST else USUAL
