"""The bands of a TIFF: how many it has, what it declares them to be, and any of them at full depth.

Pillow reads few TIFFs with several bands, and keeps 8 bits of each value. So the file is presented to it as one wide
8-bit image of grey, which it decompresses, and whose bytes are put together here.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from terrazzo.errors import ImageError
from terrazzo.imaging.decoders import TiffReader
from terrazzo.text import list_names, show

__all__ = [
    "ADVICE",
    "RGB",
    "WHITE_IS_ZERO",
    "Bands",
    "Tag",
    "bands_of",
    "check_chosen",
    "numbered",
    "read_bands",
    "refuse_unclear",
    "unread_packing",
    "with_tags",
]

Tag: TypeAlias = tuple[int, int, "tuple[int, ...] | bytes"]
"""A tag of a TIFF: its number, its type (3: 16 bits, 4: 32 bits, others: bytes), its values."""

COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # photometric interpretation -> samples of a colour
WHITE_IS_ZERO, RGB = 0, 2
GREYS = (WHITE_IS_ZERO, 1)
LOSSLESS = {1: "raw", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
DIFFERENCED = (5, 8, 32946, 34925, 50000)
"""Compressions that a predictor goes with."""

KINDS = {(8, 1): "u1", (16, 1): "u2", (16, 2): "i2", (32, 1): "u4", (32, 2): "i4", (32, 3): "f4"}
GDAL_ITEM = re.compile(r'<Item name="(DESCRIPTION|COLORINTERP)" sample="(\d+)"[^>]*>([^<]*)<')
ADVICE = "say which to read as red, green and blue, as in --bands 1,2,3 (bands=(1, 2, 3) in Python)"
"""For a model of red, green and blue."""


@dataclass(frozen=True)
class Bands:
    """What the header of an image says about its bands.

    Attributes:
        count: number of bands.
        colors: how many of them make up the colour.
        has_alpha: the one band beyond these is declared as transparency.
        names: GDAL's description of each band, empty text where there is none.
        dtype: NumPy's name of the stored numbers, such as ``uint16``; empty where they are not read here.
        nodata: the number that stands for "no measurement", as GDAL notes it.
    """

    count: int
    colors: int
    has_alpha: bool = False
    names: tuple[str, ...] = ()
    dtype: str = ""
    nodata: float | None = None

    @property
    def are_clear(self) -> bool:
        """Whether the file says which bands are its colour."""
        return self.has_alpha or self.count <= self.colors

    def __str__(self) -> str:
        named = f" ({list_names(self.names)})" if any(self.names) else ""
        return f"{self.count} band{'s' * (self.count != 1)}{named}"


def bands_of(image: TiffImageFile) -> Bands:
    """Read the tags of the page that an open TIFF is at."""
    tags = image.tag_v2
    photometric, count = tags.get(262, 0), _number(tags.get(277, 1))
    colors = COLORS.get(photometric, 1)
    if photometric in GREYS and count == 3:
        colors = 3  # as GDAL writes three bands of 16 bits
    noted = {(name, int(number)): text for name, number, text in GDAL_ITEM.findall(str(tags.get(42112, "")))}
    names = tuple(noted.get(("DESCRIPTION", number), "") for number in range(min(count, 64)))
    extra = _all(tags.get(338, ()))
    # GDAL marks the fourth of four bands as transparency by itself, and notes what it really is.
    meaning = names[-1] or noted.get(("COLORINTERP", count - 1), "alpha")
    has_alpha = count == colors + 1 and extra[:1] in ((1,), (2,)) and "alpha" in meaning.lower()
    return Bands(count, colors, has_alpha, names, _dtype(tags), _nodata(tags))


def _dtype(tags: Any) -> str:
    bits, kinds = {*_all(tags.get(258, 1))}, {*_all(tags.get(339, 1))}
    if max(bits) < 8:
        return "uint8"  # Pillow brings these to 8 bits
    kind = KINDS.get((bits.pop(), kinds.pop())) if len(bits) == len(kinds) == 1 else None
    return "" if kind is None else np.dtype(kind).name


def _nodata(tags: Any) -> float | None:
    """Return GDAL's nodata; NaN needs no note, since floating-point NaN is always taken for a gap."""
    try:
        value = float(str(tags.get(42113, "")).strip("\0 "))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def refuse_unclear(bands: Bands) -> None:
    """Raise ImageError "image-bands" where nobody says which bands are red, green and blue."""
    if not bands.are_clear:
        more = bands.count - bands.colors
        what = "what the last one is" if more == 1 else f"what the last {more} are"
        raise ImageError(f"it has {bands}, and does not say {what}", fix=ADVICE, code="image-bands")


def unread_packing(image: TiffImageFile) -> ImageError:
    """Return the error for kinds of numbers that are not read."""
    bits, kind = (image.tag_v2.get(tag, (1,)) for tag in (258, 339))
    named = {1: "whole", 2: "signed", 3: "floating-point"}.get(kind[0], "other")
    return ImageError(
        f"{named} numbers of {bits[0]} bits (photometric {image.tag_v2.get(262)}) are not read here",
        fix="save it with 8, 16 or 32 bits: gdal_translate -ot Float32 -co COMPRESS=DEFLATE",
        code="image-format",
    )


def read_bands(image: TiffImageFile, chosen: tuple[int, ...], most_values: int) -> NDArray[Any]:
    """Read some bands of the page that an open TIFF is at, turned as its orientation tag says.

    Args:
        image: nothing of it has been decoded.
        chosen: counted from 1.
        most_values: refuse to decode more.

    Returns:
        (H, W, len(chosen)) of the file's own kind of number.

    Raises:
        ImageError: it has no such band, or they are packed in a way that is not read here.
    """
    tags, count = image.tag_v2, bands_of(image).count
    check_chosen(chosen, count)
    bits, kinds = _all(tags.get(258, 1)), _all(tags.get(339, 1))
    kind = KINDS.get((bits[0], kinds[0])) if len({*bits}) == len({*kinds}) == 1 else None
    compression, by_planes = tags.get(259, 1), tags.get(284, 1) == 2
    if kind is None or compression not in LOSSLESS or tags.get(262, 0) not in (0, 1, 2):
        raise ImageError(
            f"bands cannot be chosen from pixels packed like this (compression {compression}, {bits[0]} bits)",
            fix="save it with deflate and 8, 16 or 32 bits: gdal_translate -co COMPRESS=DEFLATE",
            code="image-bands",
        )
    width, height = _number(tags[256]), _number(tags[257])
    if width * height * (len(chosen) if by_planes else count) > most_values:
        raise ImageError(
            f"{count} bands of {width} x {height} pixels are more than fit",
            fix="cut it into tiles, or save the bands that are needed",
            code="image-too-large",
        )
    data = _whole_file(image)
    page = _Page(tags, data, width, height, np.dtype(kind))
    if by_planes:
        planes = {band: page.plane(band - 1, count) for band in {*chosen}}
        values = np.stack([planes[band] for band in chosen], -1)
    else:
        values = page.pixels(count)[..., [band - 1 for band in chosen]]
    return _turned(values, tags.get(274, 1))


def numbered(chosen: Sequence[int | str], bands: Bands) -> tuple[int, ...]:
    """Return the numbers of bands that are chosen by number or by name.

    Raises:
        ImageError: no band, or more than one, is called so, or a band is chosen twice (code "image-bands").
    """
    names = [name.strip().lower() for name in bands.names]
    for name in (band for band in chosen if isinstance(band, str)):
        if names.count(name.strip().lower()) != 1:
            known = list_names(bands.names) if any(names) else "no names"
            raise ImageError(
                f"there is no single band {show(name)}: its {bands.count} bands have {known}",
                fix="choose by number, as in --bands 1,2,3,4",
                code="image-bands",
            )
    found = tuple(names.index(band.strip().lower()) + 1 if isinstance(band, str) else band for band in chosen)
    refuse_repeated(found)
    return found


def refuse_repeated(chosen: Sequence[int]) -> None:
    """Raise ImageError "image-bands" for a band that is chosen twice: there is nothing more to learn from it."""
    if repeated := [band for place, band in enumerate(chosen) if band in chosen[:place]]:
        raise ImageError(
            f"band {repeated[0]} is chosen twice",
            fix="name each band once; for a grey picture name one band",
            code="image-bands",
        )


def check_chosen(chosen: tuple[int, ...], count: int) -> None:
    """Raise ImageError "image-bands" for a band that is not there."""
    if missing := [band for band in chosen if not 1 <= band <= count]:
        raise ImageError(
            f"there is no band {missing[0]} among its {count}", fix="count bands from 1", code="image-bands"
        )


@dataclass(frozen=True)
class _Page:
    """A page whose samples are read as bytes."""

    tags: Any
    data: bytes
    width: int
    height: int
    dtype: np.dtype[Any]

    def plane(self, index: int, count: int) -> NDArray[Any]:
        """Read one of the bands that are stored one after the other, (H, W)."""
        offsets, lengths = self._parts()
        each = len(offsets) // count
        part = slice(index * each, (index + 1) * each)
        return self._samples(offsets[part], lengths[part], 1)[..., 0]

    def pixels(self, count: int) -> NDArray[Any]:
        """Read all bands of pixels that are stored one after the other, (H, W, count)."""
        return self._samples(*self._parts(), count)

    def _samples(self, offsets: tuple[int, ...], lengths: tuple[int, ...], S: int) -> NDArray[Any]:
        """Read S interleaved samples: decode their bytes, and undo the differences between neighbours here."""
        H, W, size = self.height, self.width, self.dtype.itemsize
        tile = self.tags.get(322)
        across = W if tile is None else -(-W // tile) * tile  # whole tiles, for differences begin again in each
        rows = self._decoded(offsets, lengths, across, S * size).reshape(H, across // (tile or W), -1)
        predictor = self.tags.get(317, 1) if self.tags.get(259, 1) in DIFFERENCED else 1
        if predictor == 3:  # bytes of one significance together, the most significant first (TIFF Technical Note 3)
            sums = np.cumsum(rows.reshape(H, rows.shape[1], -1, S), axis=2, dtype=np.uint8)
            planes = sums.reshape(H, rows.shape[1], size, -1)
            values = np.ascontiguousarray(np.moveaxis(planes, 2, -1)).view(self.dtype.newbyteorder(">"))
        else:
            stored = self.dtype.newbyteorder("<" if self.data[:2] == b"II" else ">")
            values = np.ascontiguousarray(rows).view(stored)
        values = values.astype(self.dtype, copy=False)
        if predictor == 2:
            whole = values.reshape(H, -1, tile or W, S).view(f"u{size}")
            values = np.cumsum(whole, axis=2, dtype=f"u{size}").view(self.dtype)
        return values.reshape(H, across, S)[:, :W]

    def _parts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        is_tiled = 322 in self.tags
        offsets = _all(self.tags.get(324 if is_tiled else 273, ()))
        lengths = _all(self.tags.get(325 if is_tiled else 279, ()))
        if not offsets or len(offsets) != len(lengths):
            raise ImageError("the lists of its strips are damaged", fix="save it again", code="image-corrupt")
        return offsets, lengths

    def _decoded(
        self, offsets: tuple[int, ...], lengths: tuple[int, ...], across: int, bytes_per_pixel: int
    ) -> NDArray[np.uint8]:
        """Decompress strips or tiles as those of an 8-bit image that is wider by the bytes of a pixel."""
        tags: list[Tag]
        tags = [(256, 4, (across * bytes_per_pixel,)), (257, 4, (self.height,)), (258, 3, (8,))]
        tags += [(259, 3, (self.tags.get(259, 1),)), (262, 3, (1,)), (266, 3, (self.tags.get(266, 1),)), (277, 3, (1,))]
        tags += [(284, 3, (1,)), (339, 3, (1,))]
        if 322 in self.tags:
            tags += [(322, 4, (self.tags[322] * bytes_per_pixel,)), (323, 4, (self.tags[323],)), (324, 4, offsets)]
            tags += [(325, 4, lengths)]
        else:
            tags += [(278, 4, (_number(self.tags.get(278, self.height)),)), (273, 4, offsets), (279, 4, lengths)]
        with TiffReader(io.BytesIO(with_tags(self.data, sorted(tags)))) as image:
            image.load()
            return np.asarray(image)


def with_tags(data: bytes, tags: list[Tag]) -> bytes:
    """Return a TIFF with a new directory, appended to the file, in place of its own.

    Args:
        data: the file; of its first eight bytes only the byte order counts.
        tags: in ascending order.
    """
    order = "<" if data[:2] == b"II" else ">"
    body, entries = bytearray(data), b""
    for tag, kind, values in tags:
        if isinstance(values, bytes):
            packed = values
        else:
            packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            body += bytes(len(body) % 2)
            entries += struct.pack(f"{order}HHII", tag, kind, len(values), len(body))
            body += packed
        else:
            entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    body += bytes(len(body) % 2)
    body[:8] = struct.pack(f"{order}2sHI", data[:2], 42, len(body))
    return bytes(body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def _whole_file(image: TiffImageFile) -> bytes:
    file: Any = image.fp
    file.seek(0)
    return bytes(file.read())


def _all(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def _number(value: Any) -> int:
    return int(_all(value)[0])


def _turned(values_HWC: NDArray[Any], orientation: int) -> NDArray[Any]:
    if orientation in range(5, 9):
        values_HWC = values_HWC.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values_HWC = values_HWC[::-1]
    if orientation in (2, 3, 6, 7):
        values_HWC = values_HWC[:, ::-1]
    return values_HWC
