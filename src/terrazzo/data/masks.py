"""Reading of masks as class indices; what cannot be class indices is refused.

A mask source gives what is stored: image files do so here, outlines and table cells in their data set's own module.
What is stored becomes class indices by the labels alone. Index masks are single-channel images of whole numbers.
Palette ("P") images are read as their indices, never through their colours. RGB masks need the labels' colour map;
where red, green and blue are equal in every pixel, they hold indices as well as a single channel would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terrazzo.errors import DatasetError, ImageError, LabelError
from terrazzo.imaging.header import TURNS, check_size, choose_frame, opened_image, orientation, raw_mode
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.labels.spec import Color, LabelSpec
from terrazzo.labels.validation import list_counts
from terrazzo.text import shown_path

__all__ = [
    "MaskFile",
    "MaskSource",
    "Stored",
    "StoredMask",
    "WholeFile",
    "class_of_stored",
    "count_stored",
    "encode_stored",
    "read_mask",
    "read_stored_mask",
]

Stored: TypeAlias = int | Color  # what one pixel of a mask file holds

INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
SAMPLE_STEP = {"L;2": 85, "L;4": 17}  # Pillow spreads 2- and 4-bit greys over 0 to 255; class indices are not greys
LARGEST_FLOAT = 2.0**31  # float masks beyond it are not class indices either, and would overflow


@dataclass(frozen=True)
class StoredMask:
    """What a mask file holds.

    Attributes:
        values: (H, W) integers, or (H, W, 3) uint8 colours.
        has_palette: the integers are indices into a palette, whose colours are left alone.
        palette: (N, 3) colours of that palette.
        is_gray_color: the file is in colour, with red, green and blue equal in every pixel; `values` is one of them.
        empty: objects of an outlined mask that fill no pixel of it.
    """

    values: NDArray[np.integer]
    has_palette: bool = False
    palette: NDArray[np.uint8] | None = None
    is_gray_color: bool = False
    empty: int = 0


class MaskSource(Protocol):
    """Where a mask comes from; nothing is read before `read`.

    Attributes:
        file: the file that holds it, which messages name.
        part: where in the file it is, as messages say it, such as ``a.jpg: ``; empty where it is the whole file.
    """

    @property
    def file(self) -> Path: ...

    @property
    def part(self) -> str: ...

    def read(self) -> StoredMask:
        """Return what is stored.

        Raises:
            DatasetError: naming the file.
        """
        ...


class WholeFile:
    """The part of a mask source that is all of its file."""

    __slots__ = ()

    @property
    def part(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class MaskFile(WholeFile):
    """A mask that is an image file: index PNG, palette PNG or RGB."""

    file: Path

    def read(self) -> StoredMask:
        return read_stored_mask(self.file)


def read_stored_mask(source: Path | bytes) -> StoredMask:
    """Read a mask as an image file, or the bytes of one, stores it.

    Raises:
        DatasetError: the file is missing, damaged or not an image (mask-damaged), went through lossy compression
            (mask-lossy), or holds neither whole numbers nor 8-bit colours (mask-mode).
    """
    try:
        with opened_image(source) as image:
            check_size(image, MAX_PIXELS)
            _refuse_pages(image)
            packing, largest = raw_mode(image), _stated_maximum(image)
            _refuse_by_header(image, packing)
            turn = TURNS.get(orientation(image))
            pixels = np.asarray(image if turn is None else image.transpose(turn))
            if largest is not None:
                pixels = _unscaled(pixels, largest)
            if image.mode in ("RGB", "RGBA", "LA"):
                return _colors(_opaque(pixels))
            if image.mode == "F":
                return StoredMask(_whole_numbers(pixels))
            if image.mode == "P":
                palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
                return StoredMask(_indices(pixels, packing), has_palette=True, palette=palette)
            return StoredMask(_indices(pixels, packing))
    except ImageError as error:
        code = error.code if error.code in ("mask-lossy", "mask-mode") else "mask-damaged"
        raise DatasetError(error.message, fix=error.fix, code=code) from error


def read_mask(source: MaskSource, labels: LabelSpec, stored: StoredMask | None = None) -> NDArray[np.integer]:
    """Return the (H, W) mask of class indices, `labels.ignore_index` where there is no label.

    Args:
        source: the mask.
        labels: the classes, and what stored values and colours mean.
        stored: what it holds, where that has been read already.

    Raises:
        DatasetError: as the source's `read`, or a stored value or colour that the labels do not explain (mask-values).
    """
    try:
        return encode_stored(stored or source.read(), labels)
    except LabelError as error:
        where = f"{shown_path(source.file)}: {source.part}"
        raise DatasetError(f"{where}{error.message}", fix=error.fix, code="mask-values") from error


def encode_stored(stored: StoredMask, labels: LabelSpec) -> NDArray[np.integer]:
    """Turn what a mask stores into (H, W) class indices.

    Raises:
        LabelError: a value or colour that the labels do not explain, or a grey that they explain in two ways.
    """
    values = stored.values
    if stored.is_gray_color and _means_colors(count_stored(values), labels):
        values = np.repeat(values[..., None], 3, axis=2)
    return labels.encode_rgb(values.astype(np.uint8, copy=False)) if values.ndim == 3 else labels.encode(values)


def count_stored(stored: NDArray[np.integer]) -> dict[Stored, int]:
    """Count the pixels of each value of an (H, W) mask, or of each colour of an (H, W, 3) one, most frequent first."""
    if stored.ndim == 3:
        red, green, blue = (stored[..., channel].astype(np.uint32) for channel in range(3))
        packed, counts = np.unique(red << np.uint32(16) | green << np.uint32(8) | blue, return_counts=True)
        keys: list[Any] = [(code >> 16, code >> 8 & 255, code & 255) for code in packed.tolist()]
    elif stored.dtype in (np.uint8, np.uint16):
        by_value = np.bincount(stored.ravel())
        found = np.flatnonzero(by_value)
        keys, counts = found.tolist(), by_value[found]
    else:
        values, counts = np.unique(stored, return_counts=True)
        keys = values.tolist()
    return dict(sorted(zip(keys, counts.tolist(), strict=True), key=lambda item: -item[1]))


def class_of_stored(
    counts: Mapping[Stored, int], labels: LabelSpec, *, is_gray_color: bool = False
) -> dict[Stored, int | None]:
    """Say what the values and colours of masks mean.

    Args:
        counts: pixels by value or colour.
        labels: the classes.
        is_gray_color: the values are greys of a mask in colour, as in `StoredMask`.

    Returns:
        For each key of `counts` the class index, the ignore index, or None where the labels do not explain it.

    Raises:
        LabelError: a colour that two classes share, or a grey that is one class as a value and another as a colour.
    """
    if is_gray_color and _means_colors(counts, labels):
        grays = class_of_stored({(k, k, k): n for k, n in counts.items() if isinstance(k, int)}, labels)
        return {key[0]: target for key, target in grays.items() if isinstance(key, tuple)}
    meaning: dict[Stored, int | None] = dict.fromkeys(counts)
    if values := [key for key in counts if isinstance(key, int)]:
        unknown: Mapping[Any, int] = labels.unknown_values(np.array([values], dtype=np.int64))
        known = [value for value in values if value not in unknown]
        meaning.update(zip(known, labels.encode(np.array([known], dtype=np.int64))[0].tolist(), strict=True))
    if colors := [key for key in counts if isinstance(key, tuple)]:
        unknown = labels.unknown_colors(np.array([colors], dtype=np.uint8))
        named = [color for color in colors if color not in unknown]
        if named:
            meaning.update(zip(named, labels.encode_rgb(np.array([named], dtype=np.uint8))[0].tolist(), strict=True))
    return meaning


def _means_colors(grays: Mapping[Any, int], labels: LabelSpec) -> bool:
    """Whether the greys of a mask in colour are to be looked up among the labels' colours, and not taken for indices.

    Raises:
        LabelError: both can be, and give different classes.
    """
    if labels.colors is not None:
        return True
    by_value = class_of_stored(grays, labels)
    if len(set(labels.palette)) < len(labels.palette):
        return None in by_value.values()  # which is then refused
    by_color = class_of_stored({(gray, gray, gray): n for gray, n in grays.items()}, labels)
    as_values, as_colors = list(by_value.values()), list(by_color.values())
    if None in as_values or None in as_colors:
        return None in as_values and None not in as_colors
    if as_values != as_colors:
        raise LabelError(
            f"it is in colour and holds greys that are classes both as numbers and as colours: {list_counts(grays)}",
            fix="save it as a single-channel PNG if they are numbers; if they are colours, list these in `colors:`",
            code="labels-ambiguous",
        )
    return False


def _refuse_pages(image: Image.Image) -> None:
    try:
        choose_frame(image, None)
    except ImageError as error:
        raise ImageError(error.message, fix="save the mask with one page", code="mask-mode") from error


def _stated_maximum(image: Image.Image) -> int | None:
    """The largest value by a PGM's header, from which Pillow spreads values over 0 to 255 or 65535."""
    tiles = getattr(image, "tile", None) if image.format == "PPM" and image.mode in ("L", "I") else None
    args = tiles[0][3] if tiles else ()
    largest = args[-1] if isinstance(args, tuple) and args else None
    return largest if isinstance(largest, int) and largest not in (0, 255, 65535) else None


def _unscaled(pixels: NDArray[Any], largest: int) -> NDArray[Any]:
    top = 255 if pixels.dtype == np.uint8 else 65535
    return ((pixels.astype(np.int64) * largest + top // 2) // top).astype(pixels.dtype)


def _refuse_by_header(image: Image.Image, packing: str) -> None:
    is_lossy = image.format == "JPEG" or (image.format == "WEBP" and not image.info.get("lossless"))
    if is_lossy or "jpeg" in str(image.info.get("compression", "")):
        raise ImageError(
            f"it is a {image.format} whose compression changes class indices",
            fix="export the mask again as PNG: converting this file does not bring its labels back",
            code="mask-lossy",
        )
    if image.mode not in INDEX_MODES and image.mode not in ("RGB", "RGBA", "LA", "F"):
        raise _mode_error(f"its pixels are of kind {image.mode}, not class indices")
    if image.mode == "L" and packing.partition(";")[2].endswith("I"):  # WhiteIsZero: Pillow turns 0 into 255
        fix = "save it as PNG, where 0 is black, with the numbers that are meant"
        raise ImageError(
            "it is a TIFF whose 0 is white, so its numbers can be meant in two ways", fix=fix, code="mask-mode"
        )
    if image.mode in ("RGB", "RGBA") and ";16" in packing:
        raise _mode_error("it has 16-bit colours")


def _indices(pixels_HW: NDArray[Any], packing: str) -> NDArray[np.integer]:
    if packing in SAMPLE_STEP:
        return pixels_HW // np.uint8(SAMPLE_STEP[packing])
    native = np.dtype(np.uint8) if pixels_HW.dtype == bool else pixels_HW.dtype.newbyteorder("=")
    return pixels_HW.astype(native, copy=False)


def _opaque(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The channels without alpha, which is the last one of RGBA and LA."""
    if pixels_HWC.shape[2] == 3:
        return pixels_HWC
    if not (pixels_HWC[..., -1] == 255).all():
        raise _mode_error("it has transparent pixels, so its colours are not certain")
    return pixels_HWC[..., :-1]


def _colors(pixels_HWC: NDArray[np.uint8]) -> StoredMask:
    gray_HW = pixels_HWC[..., 0]
    if all((pixels_HWC[..., channel] == gray_HW).all() for channel in range(1, pixels_HWC.shape[2])):
        return StoredMask(np.ascontiguousarray(gray_HW), is_gray_color=pixels_HWC.shape[2] == 3)
    return StoredMask(pixels_HWC)


def _whole_numbers(pixels_HW: NDArray[np.floating]) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):
        if not ((pixels_HW >= 0) & (pixels_HW < LARGEST_FLOAT) & (pixels_HW == np.floor(pixels_HW))).all():
            raise _mode_error("it holds fractions, NaN or negative numbers, not class indices")
    return pixels_HW.astype(np.int64)


def _mode_error(message: str) -> ImageError:
    return ImageError(message, fix="export masks as 8-bit single-channel PNG", code="mask-mode")
