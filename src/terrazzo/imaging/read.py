"""Image reading: every file, array and tensor becomes 8-bit RGB here, or the bands that a model asks for.

The format is detected from a file's first bytes, never from its name. The rules for what is not plain 8-bit RGB:

- Orientation in EXIF (or a TIFF tag) is applied: the array is what a viewer shows.
- Transparency is composed over `background`, white unless told otherwise; colours hidden under it never show.
- 16-bit values are divided by 256 and rounded down, so the full range 0 to 65535 becomes 0 to 255 (16-bit colour PPM:
  scaled by its declared maximum). With `value_range`, that range becomes 0 to 255 instead. 32-bit and floating-point
  images are refused without it.
- A TIFF with bands of undeclared meaning needs `bands`. A band is transparency only if it is declared as such.
- CMYK is converted by the plain formula. Colour profiles and gamma are not applied; a note says where they are far from
  sRGB.
- A file of several frames or pages needs `frame`. Reduced copies and masks inside a TIFF are not pages, nor are the
  extra pictures that phones append to a JPEG.

With a `BandRule` none of these rules applies: the bands are read at full depth (`band_values.py`).

Pillow's global settings are not changed, and a file that ends early is refused even if another library has set
``ImageFile.LOAD_TRUNCATED_IMAGES``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from terrazzo.arguments import check_fields
from terrazzo.errors import ImageError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.band_values import MOST_VALUES_PER_PIXEL, bands_of_image, read_by_rule
from terrazzo.imaging.bands import (
    RGB,
    WHITE_IS_ZERO,
    bands_of,
    check_chosen,
    read_bands,
    refuse_repeated,
    refuse_unclear,
    unread_packing,
)
from terrazzo.imaging.colors import remark_on_colors
from terrazzo.imaging.header import TURNS, Encoded, check_size, choose_frame, opened_image, orientation, raw_mode
from terrazzo.imaging.inputs import PlainSource, plain_source
from terrazzo.imaging.resize import Pixels
from terrazzo.imaging.transparency import composed
from terrazzo.imaging.values import remark_on_range, scaled, shape_advice
from terrazzo.notes import note
from terrazzo.text import shown_path

__all__ = [
    "MAX_PIXELS",
    "ImageSource",
    "ReadOptions",
    "image_size",
    "read_image",
    "read_with_remarks",
]


class SupportsArray(Protocol):
    """A torch tensor, or whatever else NumPy understands."""

    def __array__(self) -> NDArray[Any]: ...


ImageSource: TypeAlias = PlainSource | bytearray | memoryview | BinaryIO | SupportsArray

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB, and where Pillow's own warnings begin
WHITE = (255, 255, 255)
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
# The transparent value of a PNG is stored at the file's depth, while Pillow has brought its pixels to 8 bits.
HIDDEN_TO_8_BIT: dict[str, Callable[[Any], Any]] = {
    "L;2": lambda gray: gray * 85,
    "L;4": lambda gray: gray * 17,
    "RGB;16B": lambda color: tuple(value >> 8 for value in color),
}
OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True)
class ReadOptions:
    """How images are read, where a file leaves that open.

    Attributes:
        bands: which bands are red, green and blue, or the one that is grey, counted from 1.
        frame: which frame or page of a file to take, from 0.
        value_range: the values that become 0 and 255, for images of more than 8 bits; beyond it they are clipped.
        max_pixels: an image with more is refused from its header, before anything is decoded.
        rule: the bands of a model that does not read photos; `bands` and `value_range` are then left out.

    Raises:
        ImageError: the range is empty (code "image-value-range"), a band is named twice, or a number makes no sense.
    """

    bands: tuple[int, ...] | None = None
    frame: int | None = None
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    rule: BandRule | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ImageError(
                f"value range {self.value_range} is empty", fix="give the lower value first", code="image-value-range"
            )
        refuse_repeated(self.bands or ())
        if self.frame is not None and self.frame < 0:
            raise ImageError(f"the frame is {self.frame}", fix="count frames from 0", code="image-frames")
        if self.max_pixels < 1:
            raise ImageError(
                f"{self.max_pixels} pixels are allowed in an image", fix="give at least 1", code="image-too-large"
            )

    def read(self, source: ImageSource) -> Pixels:
        """Decode an image: (H, W, 3) uint8 RGB by `read_image`, or by `rule` (H, W, bands) float32.

        A note says what may be wrong.
        """
        image, remarks = read_with_remarks(source, self)
        _tell(source, remarks)
        return image

    def for_model(self, rule: BandRule | None) -> ReadOptions:
        """Return how images are read for a model: by its rule, if it has one, of which `bands` may name others.

        Raises:
            ImageError: the bands are not as many as the model's, or a value range is given beside its own.
        """
        if rule is None:
            if self.bands is not None and len(self.bands) not in (1, 3):
                raise ImageError(
                    f"{len(self.bands)} bands are chosen, and the model takes red, green and blue",
                    fix="choose three, or one that is grey; or train a model on these bands",
                    code="image-bands",
                )
            return self
        if self.value_range is not None:
            raise ImageError(
                "a value range is given, and the model has its own for each band",
                fix="leave it out",
                code="image-value-range",
            )
        if self.bands is not None and len(self.bands) != len(rule.chosen):
            raise ImageError(
                f"{len(self.bands)} bands are chosen, and the model reads {rule}",
                fix=f"name {len(rule.chosen)} bands in the model's order, or none",
                code="image-bands",
            )
        return replace(self, bands=None, rule=rule if self.bands is None else replace(rule, chosen=self.bands))


def read_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    background: tuple[int, int, int] = WHITE,
    value_range: tuple[float, float] | None = None,
    frame: int | None = None,
    bands: tuple[int, ...] | None = None,
) -> NDArray[np.uint8]:
    """Decode an image to 8-bit RGB, by the rules in the module's docstring.

    A note says what may be wrong, such as an image most of which is half transparent.

    Args:
        source: a path, the bytes of an image file (a path in bytes goes through `os.fsdecode`), an open file, a PIL
            image, an array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, or a torch tensor, (C, H, W) or (H, W, C), uint8 or
            floating point from 0 to 1. An (H, W, 3) uint8 array is returned as it is.
        max_pixels: an image with more is refused from its header, before anything is decoded.
        background: what shows through transparent pixels, and stands for NaN.
        value_range: the values that become 0 and 255, for images of more than 8 bits; beyond it they are clipped.
        frame: which frame or page of a file to take, from 0.
        bands: which bands are red, green and blue, or the one that is grey, counted from 1.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: the source cannot or must not be decoded, with one of the codes image-missing, -directory,
            -not-a-file, -unreadable, -empty, -format, -truncated, -corrupt, -damaged, -too-large, -frames,
            -value-range, -bands, -array, -source.
    """
    rgb_HW3, remarks = _read_rgb(plain_source(source), ReadOptions(bands, frame, value_range, max_pixels), background)
    _tell(source, remarks)
    return rgb_HW3


def _tell(source: ImageSource, remarks: tuple[str, ...]) -> None:
    name = shown_path(source) if isinstance(source, (str, os.PathLike)) else "the image"
    for remark in remarks:
        note(f"{name}: {remark}")


def read_with_remarks(source: ImageSource, options: ReadOptions | None = None) -> tuple[Pixels, tuple[str, ...]]:
    """Decode an image as `ReadOptions.read` does, and return remarks on what may be wrong."""
    options = options or ReadOptions()
    rule = options.rule
    if rule is None:
        return _read_rgb(plain_source(source), options, WHITE)
    return read_by_rule(plain_source(source, len(rule.chosen)), rule, options.frame, options.max_pixels), ()


def _read_rgb(
    source: PlainSource, options: ReadOptions, background: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if options.bands is not None and len(options.bands) not in (1, 3):
        raise ImageError(f"{len(options.bands)} bands make no picture", fix="give one or three", code="image-bands")
    remarks: list[str] = []
    if isinstance(source, np.ndarray):
        return _from_array(source, options, background), ()
    with opened_image(source) as image:
        check_size(image, options.max_pixels)
        if options.frame is not None or not isinstance(
            source, Image.Image
        ):  # an open one stands where its owner left it
            choose_frame(image, options.frame)
            check_size(image, options.max_pixels)
        if options.bands is None:
            remark_on_colors(image, remarks)
        if (values := _values_of_tiff(image, options, remarks)) is not None:
            rgb_HW3 = _from_values(values, options, background, remarks)
        else:
            packing = raw_mode(image)
            _load(image)
            rgb_HW3 = _to_rgb(image, packing, background, options, remarks)
    return rgb_HW3, tuple(remarks)


def image_size(
    source: Encoded | Image.Image,
    *,
    bands_chosen: bool = False,
    frame: int | None = None,
    rule: BandRule | None = None,
) -> tuple[int, int]:
    """Read the height and width that `read_image` gives for a frame, from the header alone.

    Args:
        source: the image.
        bands_chosen: whether it will be read with `bands`, without which some files are refused.
        frame: which of several frames; by default the first.
        rule: whether it will be read by a rule, and which; its bands and their depth are then compared too.

    Raises:
        ImageError: as `read_image`, as far as the header tells.
    """
    with opened_image(source) as image:
        if frame is not None:
            choose_frame(image, frame)
        if rule is not None:
            rule.refuse_other(bands_of_image(image))
        elif isinstance(image, TiffImageFile) and not bands_chosen:
            refuse_unclear(bands_of(image))
        width, height = image.size
        if orientation(image) >= 5:
            return width, height
        return height, width


def _values_of_tiff(image: Image.Image, options: ReadOptions, remarks: list[str]) -> NDArray[Any] | None:
    """Read a TIFF band by band if bands are chosen, or if Pillow does not read it in full; else return None."""
    if not isinstance(image, TiffImageFile) or image.fp is None:
        return None
    bands, chosen, unknown = bands_of(image), options.bands, getattr(image, "unknown", "")
    if chosen is None:
        refuse_unclear(bands)
        is_deep = image.tag_v2.get(258, (1,))[0] > 8 and bands.count == 3 and options.value_range is not None
        if not unknown and not is_deep:
            return None
        if bands.count not in (1, 3):
            raise unread_packing(image)
        chosen = (1, 2, 3)[: bands.count]
        if bands.count == 3 and image.tag_v2.get(262) != RGB:
            remarks.append("its three bands have no declared colours, and were read as red, green and blue")
        try:
            return read_bands(image, chosen, MOST_VALUES_PER_PIXEL * options.max_pixels)
        except ImageError as error:
            if error.code != "image-bands":
                raise
            raise unread_packing(image) from error
    elif not unknown and bands.count == bands.colors in (1, 3) and image.tag_v2.get(258, (1,))[0] <= 8:
        return None  # as an RGB image of any packing
    return read_bands(image, chosen, MOST_VALUES_PER_PIXEL * options.max_pixels)


def _load(image: Image.Image) -> None:
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16"):
        # Pillow takes one letter of the raw mode for each plane of an uncompressed TIFF stored by planes
        image.tile = [
            t._replace(args=(image.mode, *t.args[1:])) if t.args and t.args[0] == "I" else t for t in image.tile
        ]
    image.load()


def _to_rgb(
    image: Image.Image, packing: str, background: tuple[int, int, int], options: ReadOptions, remarks: list[str]
) -> NDArray[np.uint8]:
    turn, mode, format_ = TURNS.get(orientation(image)), image.mode, image.format
    white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == WHITE_IS_ZERO
    hidden = image.info.get("transparency")
    if turn is not None:
        image = image.transpose(turn)
    is_16_bit = mode.startswith("I;16") or (mode == "I" and format_ in ("PNG", "PPM"))
    if is_16_bit or mode in ("I", "F"):
        values_HW = np.asarray(image).astype(np.uint16, copy=False) if is_16_bit else np.asarray(image)
        if is_16_bit and white_is_zero and options.value_range is None:
            values_HW = ~values_HW
        rgb_HW3 = _from_values(values_HW[..., None], options, background, remarks)
        if is_16_bit and isinstance(hidden, int):
            rgb_HW3[values_HW == hidden] = background
        return rgb_HW3
    if options.value_range is not None and ";16" in packing:  # Pillow has kept only the upper byte of each channel
        raise ImageError(
            "value_range works on one channel, and this is 16-bit colour",
            fix="leave it out, or save the image with 8 bits",
            code="image-value-range",
        )
    if hidden is not None and packing in HIDDEN_TO_8_BIT:
        image = image.copy()
        image.info["transparency"] = HIDDEN_TO_8_BIT[packing](hidden)
    if mode not in OPAQUE_MODES and mode not in ALPHA_MODES:
        raise ImageError(f"pixels of kind {mode} are not handled", fix="save it as RGB", code="image-format")
    if options.bands is not None:
        return _chosen(image, options.bands)
    if mode in ALPHA_MODES or hidden is not None:
        rgb_HW3 = _array(composed(image, background, remarks))
    else:
        rgb_HW3 = _array(image if mode == "RGB" else image.convert("RGB"))
    if ";16" in packing:
        remark_on_range(256 * (int(rgb_HW3.max()) + 1) - 1, remarks)
    return rgb_HW3


def _chosen(image: Image.Image, bands: tuple[int, ...]) -> NDArray[np.uint8]:
    """Take channels as they are stored, transparency being one of them."""
    if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBa", "La", "RGBX"):
        image = image.convert("RGBA" if image.mode in ALPHA_MODES else "RGB")
    channels = image.getbands()
    check_chosen(bands, len(channels))
    values = np.stack([np.asarray(image.getchannel(band - 1).convert("L")) for band in bands], -1)
    return np.broadcast_to(values, (*values.shape[:2], 3)).copy()


def _from_values(
    values: NDArray[Any], options: ReadOptions, background: tuple[int, int, int], remarks: list[str]
) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return np.broadcast_to(values, (*values.shape[:2], 3)).copy()
    if values.dtype == np.uint16 and options.value_range is None:
        remark_on_range(int(values.max()), remarks)
    return scaled(values, options.value_range, background)


def _array(image: Image.Image) -> NDArray[np.uint8]:
    """``np.array(image)`` of RGB in a third of the time: strips that Pillow packs stay in the cache."""
    rgb_HW3 = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, (1 << 17) // image.width)
    for top in range(0, image.height, rows):
        strip = rgb_HW3[top : top + rows]
        packer = Image._getencoder("RGB", "raw", "RGB")  # as `tobytes` does, which packs the whole image
        packer.setimage(image.im, (0, top, image.width, top + len(strip)))
        strip[...] = np.frombuffer(packer.encode(strip.size)[2], np.uint8).reshape(strip.shape)
    return rgb_HW3


def _from_array(array: NDArray[Any], options: ReadOptions, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if options.bands is not None and array.ndim in (2, 3):
        array = array.reshape(*array.shape[:2], channels)
        check_chosen(options.bands, channels)
        array = array[..., [band - 1 for band in options.bands]]
        channels = len(options.bands)
    is_deep = array.dtype.kind in "iuf" and array.dtype != np.uint8
    if array.size == 0 or array.ndim not in (2, 3) or channels not in ((1, 3) if is_deep else (1, 3, 4)):
        raise ImageError(
            f"an array of shape {array.shape} is not an image",
            fix=shape_advice(array.shape),
            code="image-array",
        )
    if not is_deep and array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype} is not an image", fix="convert it to uint8", code="image-array")
    if array.shape[0] * array.shape[1] > options.max_pixels:
        raise ImageError(
            f"{array.shape[1]} x {array.shape[0]} pixels are more than the {options.max_pixels:,} allowed",
            fix="cut it into tiles, or raise max_pixels if there is memory for it",
            code="image-too-large",
        )
    if is_deep:
        return scaled(array, options.value_range, background)
    if channels == 4:
        return _array(composed(Image.fromarray(np.ascontiguousarray(array)), background, []))
    if channels == 3:
        return array
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
