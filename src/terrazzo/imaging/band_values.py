"""Any bands of an image at full depth: what a `BandRule` asks for, from files, PIL images and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from terrazzo.errors import ImageError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.bands import Bands, bands_of, read_bands, unread_packing
from terrazzo.imaging.header import TURNS, check_size, choose_frame, opened_image, orientation, raw_mode
from terrazzo.imaging.inputs import PlainSource

__all__ = ["MOST_VALUES_PER_PIXEL", "bands_of_image", "read_by_rule"]

MOST_VALUES_PER_PIXEL = 4
"""Values per pixel of `max_pixels` that are decoded at most, in all bands together."""

AS_RGB = ("P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX")
AS_RGBA = ("PA", "RGBa", "La")


def bands_of_image(image: Image.Image) -> Bands:
    """Say which bands an opened image has, from its header."""
    if isinstance(image, TiffImageFile) and image.mode not in ("P", "PA"):
        return bands_of(image)
    count = 3 if image.mode in AS_RGB else 4 if image.mode in AS_RGBA else len(image.getbands())
    return Bands(count, count - (image.mode in ("RGBA", "LA", *AS_RGBA)), dtype=_dtype(image))


def read_by_rule(source: PlainSource, rule: BandRule, frame: int | None, max_pixels: int) -> NDArray[np.float32]:
    """Read the bands of a rule at full depth, on its scale.

    Args:
        source: a path, encoded bytes, a PIL image, or an (H, W) or (H, W, C) array. An array of as many bands as the
            rule has is taken in the rule's order; of a larger one, those that the rule names.
        rule: the bands and their scale.
        frame: which frame or page of a file to take, from 0.
        max_pixels: an image with more is refused from its header.

    Returns:
        (H, W, bands) float32, NaN in gaps.

    Raises:
        ImageError: the image cannot be read, lacks a band, or stores numbers of another kind.
    """
    if isinstance(source, np.ndarray):
        return rule.scaled(_of_array(source, rule, max_pixels))
    with opened_image(source) as image:
        check_size(image, max_pixels)
        if frame is not None or not isinstance(source, Image.Image):
            choose_frame(image, frame)
            check_size(image, max_pixels)
        bands = bands_of_image(image)
        rule.refuse_other(bands)
        return rule.scaled(_values(image, bands, rule.chosen, max_pixels), bands.nodata)


def _of_array(array: NDArray[Any], rule: BandRule, max_pixels: int) -> NDArray[Any]:
    if array.ndim == 2:
        array = array[..., None]
    if array.size == 0 or array.ndim != 3 or array.dtype.kind not in "iuf":
        raise ImageError(
            f"an array of shape {array.shape} and {array.dtype} is not an image",
            fix=f"give (height, width, {len(rule.chosen)}) numbers",
            code="image-array",
        )
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(
            f"{array.shape[1]} x {array.shape[0]} pixels are more than the {max_pixels:,} allowed",
            fix="cut it into tiles, or raise max_pixels if there is memory for it",
            code="image-too-large",
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    if array.shape[2] != len(rule.chosen):
        if array.shape[2] < max(rule.chosen):
            raise ImageError(
                f"an array of shape {array.shape} does not have {rule}",
                fix=f"give (height, width, {len(rule.chosen)}) numbers, the bands last",
                code="image-bands",
            )
        array = array[..., [band - 1 for band in rule.chosen]]
    rule.refuse_other_dtype(array.dtype.name)
    return array


def _values(image: Image.Image, bands: Bands, chosen: tuple[int, ...], max_pixels: int) -> NDArray[Any]:
    """Return the stored numbers of some bands, (H, W, chosen)."""
    if isinstance(image, TiffImageFile) and image.fp is not None:
        if not bands.dtype:
            raise unread_packing(image)
        # Pillow reads 8-bit grey and RGB in every compression, JPEG among them.
        is_plain = bands.dtype == "uint8" and bands.count in (1, 3) and bands.count == bands.colors
        unknown: str = getattr(image, "unknown", "")
        if not is_plain or unknown:
            return read_bands(image, chosen, MOST_VALUES_PER_PIXEL * max_pixels)
    elif ";16" in raw_mode(image) and not image.mode.startswith("I"):
        raise ImageError(
            "colours of 16 bits are read in TIFFs alone: here only 8 of them are decoded",
            fix="save it as TIFF, as in gdal_translate IN.png OUT.tif",
            code="image-depth",
        )
    turn, dtype = TURNS.get(orientation(image)), _dtype(image)
    image.load()
    if image.mode in ("1", *AS_RGB, *AS_RGBA):
        image = image.convert("L" if image.mode == "1" else "RGB" if image.mode in AS_RGB else "RGBA")
    if turn is not None:
        image = image.transpose(turn)
    values = np.asarray(image).astype(dtype, copy=False)
    return values.reshape(*values.shape[:2], -1)[..., [band - 1 for band in chosen]]


def _dtype(image: Image.Image) -> str:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return "uint16"
    return {"I": "int32", "F": "float32"}.get(image.mode, "uint8")
