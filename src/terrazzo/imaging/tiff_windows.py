"""Windows of a TIFF: the strips or tiles that a window touches, cut out as a smaller TIFF and decoded as such.

Decoding goes through `read_with_remarks`, so a window has the pixels that the whole image has there, whatever the
number of bands, their depth, compression and colours.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from terrazzo.errors import ImageError
from terrazzo.imaging.bands import Tag, with_tags
from terrazzo.imaging.header import choose_frame, opened_image
from terrazzo.imaging.read import MAX_PIXELS, ReadOptions, read_with_remarks
from terrazzo.imaging.resize import Pixels
from terrazzo.text import shown_path

__all__ = ["TiffWindows"]

ASCII, SHORT, LONG, UNDEFINED = 2, 3, 4, 7
# Bits, compression, colours, fill order, samples, planes, group options, predictor, palette, extra samples, kinds of
# numbers, JPEG tables, subsampling, ICC profile, GDAL's notes, GDAL's nodata.
KEPT = (258, 259, 262, 266, 277, 284, 292, 293, 317, 320, 338, 339, 347, 530, 531, 34675, 42112, 42113)
PHOTOMETRICS = (0, 1, 2, 3, 5, 6)
YCBCR, JPEG, OLD_JPEG, RAW = 6, 7, 6, 1
AT_ONCE = 1 << 24  # pixels decoded at once
RAW_STRIP = 1 << 16  # bytes
LARGEST_PART = 1 << 26  # pixels of a strip or tile; a file that is a single strip has no windows


@dataclass(frozen=True)
class TiffWindows:
    """One page of a TIFF, as a grid of parts: tiles, or strips that are as wide as the page.

    Attributes:
        path: the file.
        reading: how it is read.
        head: the first two bytes, which tell the byte order.
        size: (height, width) of the page.
        part: (height, width) of a part.
        tags: those that the page and what is cut out of it have in common.
        offsets: (planes, rows, columns) of the parts in the file.
        lengths: of the parts in bytes.
    """

    path: str | os.PathLike[str]
    reading: ReadOptions
    head: bytes
    size: tuple[int, int]
    part: tuple[int, int]
    is_tiled: bool
    tags: tuple[Tag, ...]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, path: str | os.PathLike[str], reading: ReadOptions) -> TiffWindows | None:
        """Read a file's header; None for another format, and for a TIFF that is not read in windows.

        Raises:
            ImageError: the header cannot be read, or there is no such frame.
        """
        with opened_image(path) as image:
            if not isinstance(image, TiffImageFile):
                return None
            choose_frame(image, reading.frame)
            return cls._of_page(path, reading, image)

    @classmethod
    def _of_page(cls, path: str | os.PathLike[str], reading: ReadOptions, image: TiffImageFile) -> TiffWindows | None:
        tags: Any = image.tag_v2
        width, height, is_tiled = int(tags[256]), int(tags[257]), 322 in tags
        if tags.get(274, 1) != 1 or tags.get(262) not in PHOTOMETRICS or tags.get(259, 1) == OLD_JPEG:
            return None
        if tags.get(262) == YCBCR and tags.get(259, 1) != JPEG:
            return None  # its values depend on tags that are not kept
        part = (int(tags[323]), int(tags[322])) if is_tiled else (min(int(tags.get(278, height)), height), width)
        offsets, lengths = (tags.get(tag, ()) for tag in ((324, 325) if is_tiled else (273, 279)))
        if min(part) < 1 or not all(isinstance(values, tuple) for values in (offsets, lengths)):
            return None
        planes = int(tags.get(277, 1)) if tags.get(284, 1) == 2 else 1
        if tags.get(259, 1) == RAW and not is_tiled and len(offsets) == planes:
            part, offsets, lengths = _finer(tags, offsets, width, height, planes)
        if math.prod(part) > LARGEST_PART:
            return None
        grid = planes, math.ceil(height / part[0]), math.ceil(width / part[1])
        if not len(offsets) == len(lengths) == math.prod(grid) or grid[1] * grid[2] == 1:
            return None
        where, long = (np.array(values, np.int64).reshape(grid) for values in (offsets, lengths))
        kept = tuple(_tag(tag, tags.tagtype.get(tag, LONG), tags[tag]) for tag in KEPT if tag in tags)
        assert image.fp is not None
        image.fp.seek(0)
        return cls(path, reading, image.fp.read(2), (height, width), part, is_tiled, kept, where, long)

    def read(self, rows: slice, columns: slice) -> Pixels:
        """Decode a window to (rows, columns, 3) uint8, or to the (rows, columns, bands) float32 of a rule.

        Raises:
            ImageError: naming the rows that cannot be read.
        """
        rule, shape = self.reading.rule, (rows.stop - rows.start, columns.stop - columns.start)
        window: Pixels = np.empty((*shape, 3), np.uint8)
        if rule is not None:
            window = np.empty((*shape, len(rule.chosen)), np.float32)
        tall, wide = self.part
        first, last = columns.start // wide, math.ceil(columns.stop / wide)
        step = max(1, AT_ONCE // (tall * wide * (last - first)))
        for top in range(rows.start // tall, math.ceil(rows.stop / tall), step):
            bottom = min(top + step, math.ceil(rows.stop / tall))
            block = self._block(slice(top, bottom), slice(first, last))
            here = slice(max(rows.start, top * tall), min(rows.stop, bottom * tall))
            window[here.start - rows.start : here.stop - rows.start] = block[
                here.start - top * tall : here.stop - top * tall,
                columns.start - first * wide : columns.stop - first * wide,
            ]
        return window

    def _block(self, rows: slice, columns: slice) -> Pixels:
        """Decode some of the parts, counted in parts."""
        (height, width), (tall, wide) = self.size, self.part
        top, bottom = rows.start * tall, min(rows.stop * tall, height)
        shape = bottom - top, min(columns.stop * wide, width) - columns.start * wide
        name = f"{shown_path(self.path)}: rows {top} to {bottom}"
        try:
            data = self._cut_out(self.offsets[:, rows, columns], self.lengths[:, rows, columns], shape)
            options = replace(self.reading, frame=None, max_pixels=max(math.prod(shape), MAX_PIXELS))
            return read_with_remarks(data, options)[0]
        except ImageError as error:
            message = error.message.removeprefix("the image: ")
            raise ImageError(f"{name}: {message}", fix=error.fix, code=error.code) from error
        except OSError as error:
            raise ImageError(
                f"{name}: cannot be read: {error.strerror}",
                fix="check the disk or the connection",
                code="image-unreadable",
            ) from error

    def _cut_out(self, offsets: NDArray[np.int64], lengths: NDArray[np.int64], shape: tuple[int, int]) -> bytes:
        data, places = bytearray(self.head + bytes(6)), []
        with open(self.path, "rb") as file:
            for offset, length in zip(offsets.ravel().tolist(), lengths.ravel().tolist(), strict=True):
                places.append(len(data) if length else 0)
                if length:
                    file.seek(offset)
                    data += file.read(length)
        tags: list[Tag] = [(256, LONG, (shape[1],)), (257, LONG, (shape[0],)), *self.tags]
        sizes = tuple(lengths.ravel().tolist())
        if self.is_tiled:
            tags += [(322, LONG, (self.part[1],)), (323, LONG, (self.part[0],))]
            tags += [(324, LONG, tuple(places)), (325, LONG, sizes)]
        else:
            tags += [(278, LONG, (self.part[0],)), (273, LONG, tuple(places)), (279, LONG, sizes)]
        return with_tags(bytes(data), sorted(tags))


def _finer(
    tags: Any, offsets: tuple[int, ...], width: int, height: int, planes: int
) -> tuple[tuple[int, int], list[int], list[int]]:
    """Divide single strips of rows that are not compressed into strips of a few rows."""
    bits = sum(tags.get(258, (1,))) // planes
    row_bytes = -(-width * bits // 8)
    tall = min(max(1, RAW_STRIP // row_bytes), height)
    tops = range(0, height, tall)
    places = [offset + top * row_bytes for offset in offsets for top in tops]
    return (tall, width), places, [min(tall, height - top) * row_bytes for _ in offsets for top in tops]


def _tag(tag: int, kind: int, value: Any) -> Tag:
    if isinstance(value, str):
        return tag, ASCII, value.encode("utf-8", "replace") + b"\0"
    if isinstance(value, bytes):
        return tag, UNDEFINED, value
    values = value if isinstance(value, tuple) else (value,)
    return tag, SHORT if kind == SHORT else LONG, tuple(int(number) for number in values)
