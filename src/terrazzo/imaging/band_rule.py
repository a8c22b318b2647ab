"""BandRule: which bands of an image a network reads, and the scale that their numbers are brought to.

Photos are 8-bit RGB and need no rule. With one, an image of any number of bands and of any depth becomes float32 on the
scale of 8 bits: each band's usual range becomes 0 to 255, so that augmentations and pictures treat all sensors alike.
Nothing is rounded or clipped: values beyond the range lie below 0 or above 255. NaN marks gaps: pixels without a
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.bands import Bands, check_chosen
from terrazzo.text import list_names, show

__all__ = ["MOST_BANDS", "BandRule"]

MOST_BANDS = 512
"""Bands that a network may read: OpenCV resizes no more, and hyperspectral sensors have fewer."""

DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32")
BYTE_RANGE = (0.0, 255.0)
WHITE = 255


@dataclass(frozen=True)
class BandRule:
    """Which bands of an image a network reads, and how their numbers are scaled.

    Attributes:
        chosen: the bands' numbers, counted from 1, in the network's order.
        dtype: NumPy's name of the numbers that images must store, such as ``uint16``; None takes any.
        ranges: (low, high) of each band, which become 0 and 255; None leaves the numbers as they are.
        names: of each band, empty text where it has none.
        nodata: the number that stands for "no measurement", beside the one that an image's own header names.

    Raises:
        ConfigError: a value is not usable (code "preprocess-bands").
    """

    chosen: tuple[int, ...]
    dtype: str | None = None
    ranges: tuple[tuple[float, float], ...] | None = None
    names: tuple[str, ...] = ()
    nodata: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        count = len(self.chosen)
        if not 1 <= count <= MOST_BANDS or min(self.chosen) < 1:
            raise _wrong(f"the bands {show(list(self.chosen[:8]))}", f"name 1 to {MOST_BANDS} bands, counted from 1")
        if self.dtype not in (None, *DTYPES):
            raise _wrong(f"the dtype {show(self.dtype)}", f"use one of {', '.join(DTYPES)}")
        if self.ranges is not None:
            ends = np.array(self.ranges, np.float64)
            if len(self.ranges) != count or not np.isfinite(ends).all() or not (ends[:, 0] < ends[:, 1]).all():
                raise _wrong("ranges that do not fit its bands", "give (low, high) of each band, the lower one first")
        if self.names and len(self.names) != count:
            raise _wrong(f"{len(self.names)} names for {count} bands", "name each band, or none")
        if self.nodata is not None and not np.isfinite(self.nodata):
            raise _wrong("a nodata that is not finite", "leave it out: NaN is always taken for a gap")

    def __str__(self) -> str:
        """Return such as ``bands 1, 2, 4 (red, green, nir) of uint16``."""
        named = f" ({list_names([name or '-' for name in self.names])})" if any(self.names) else ""
        numbers = ", ".join(map(str, self.chosen))
        return f"band{'s' * (len(self.chosen) > 1)} {numbers}{named}{f' of {self.dtype}' if self.dtype else ''}"

    def refuse_other(self, bands: Bands) -> None:
        """Refuse an image that lacks a band, or stores other numbers, before its pixels are decoded.

        Raises:
            ImageError: code "image-bands" or "image-depth".
        """
        check_chosen(self.chosen, bands.count)
        self.refuse_other_dtype(bands.dtype)

    def refuse_other_dtype(self, dtype: str) -> None:
        """Refuse numbers of another kind: their scale is another too."""
        if self.dtype is not None and dtype and dtype != self.dtype:
            raise ImageError(
                f"its numbers are {dtype}, and {self.dtype} is expected, as in the training images",
                fix=f"bring it to the training images' scale, as in gdal_translate -ot {_gdal(self.dtype)} -scale",
                code="image-depth",
            )

    def scaled(self, values_HWC: NDArray[Any], nodata: float | None = None) -> NDArray[np.float32]:
        """Bring the chosen bands' stored numbers to the scale of 0 to 255, with NaN in gaps.

        In whole numbers a pixel is a gap where all bands hold nodata, for 0 in one band may be a dark pixel; in
        floating point every nodata and every number that is not finite is one.

        Args:
            values_HWC: the numbers as stored, of the chosen bands.
            nodata: what the image's own header says.
        """
        stored = values_HWC.dtype
        wide = np.float64 if stored.itemsize == 4 and stored.kind in "iu" else np.float32
        image: NDArray[Any] = values_HWC.astype(wide)
        if self.ranges is not None and self.ranges != (BYTE_RANGE,) * len(self.ranges):
            low, high = np.array(self.ranges, np.float64).T
            image -= low.astype(wide)
            image *= (255 / (high - low)).astype(wide)
        image = image.astype(np.float32, copy=False)
        if stored.kind == "f":
            image[~np.isfinite(values_HWC)] = np.nan
        for gap in {self.nodata, nodata} - {None}:
            is_gap = values_HWC == np.asarray(gap, np.float32 if stored.kind == "f" else np.float64)
            image[is_gap if stored.kind == "f" else is_gap.all(-1)] = np.nan
        return image

    def as_rgb(self, image_HWC: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return a picture of a scaled image, (H, W, 3): its red, green and blue, else its first three bands.

        An image of one or two bands is shown in grey. Gaps are white.
        """
        names = [name.strip().lower() for name in self.names]
        colors = [names.index(color) for color in ("red", "green", "blue") if color in names]
        if len(colors) < 3:
            colors = [0, 1, 2] if len(self.chosen) > 2 else [0]
        levels = np.rint(np.clip(np.nan_to_num(image_HWC[..., colors], nan=WHITE), 0, 255)).astype(np.uint8)
        return np.broadcast_to(levels, (*levels.shape[:2], 3)).copy() if len(colors) == 1 else levels

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "chosen": list(self.chosen),
            "dtype": self.dtype,
            "ranges": None if self.ranges is None else [list(ends) for ends in self.ranges],
            "names": list(self.names),
            "nodata": self.nodata,
        }

    @classmethod
    def from_dict(cls, values: object) -> BandRule:
        """Read `to_dict`'s form.

        Raises:
            ConfigError: a key is unknown, or a value is not usable.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or "chosen" not in values or not values.keys() <= set(known):
            raise _wrong(show(values), f"give a mapping of {', '.join(known)}; only chosen is needed")
        given: dict[str, Any] = dict(values)
        try:
            given["chosen"] = tuple(given["chosen"])
            given["names"] = tuple(given.get("names") or ())
            if given.get("ranges") is not None:
                given["ranges"] = tuple((float(low), float(high)) for low, high in given["ranges"])
        except (TypeError, ValueError, OverflowError) as error:
            raise _wrong(show(values), "give lists, and two numbers for each range") from error
        return cls(**given)


def _gdal(dtype: str) -> str:
    return {"uint8": "Byte", "uint16": "UInt16", "uint32": "UInt32"}.get(dtype, dtype.capitalize())


def _wrong(what: str, fix: str) -> ConfigError:
    return ConfigError(f"preprocess.bands has {what}", fix=fix, code="preprocess-bands")
