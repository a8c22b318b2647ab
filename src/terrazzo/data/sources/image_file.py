"""An image file as a source. TIFFs are read in windows, by their strips or tiles; other formats are decoded whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from terrazzo.data.sources.encoded import EncodedImage
from terrazzo.data.sources.source import Image
from terrazzo.imaging.tiff_windows import TiffWindows

__all__ = ["ImageFile"]


@dataclass(frozen=True, slots=True)
class ImageFile(EncodedImage):
    """An image that is a file of its own."""

    def encoded(self) -> Path:
        return self.file

    @property
    def has_windows(self) -> bool:
        return TiffWindows.of(self.file, self.reading) is not None

    def read_window(self, rows: slice, columns: slice) -> Image:
        windows = TiffWindows.of(self.file, self.reading)
        return EncodedImage.read_window(self, rows, columns) if windows is None else windows.read(rows, columns)
