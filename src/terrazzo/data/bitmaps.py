"""Bitmaps in the JSON files of labelling tools: PNG images as base64 text, some compressed with zlib.

Every step is bounded before memory is asked for, and raises `ValueError` on damage.
"""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ImageError
from terrazzo.imaging.header import check_size, opened_image
from terrazzo.imaging.read import MAX_PIXELS

__all__ = ["bitmap", "inflate", "unpack_base64"]

MOST_PACKED = 256 << 20  # bytes of one image or bitmap
MOST_UNPACKED = 512 << 20


def unpack_base64(text: object) -> bytes:
    """Decode base64, with or without line breaks and the beginning of a data address.

    Raises:
        ValueError: something else, or more than a quarter of a gigabyte.
    """
    if not isinstance(text, str) or len(text) > MOST_PACKED:
        raise ValueError("its image data are not base64 text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("its image data are not base64 text") from error


def inflate(packed: bytes) -> bytes:
    """Unpack zlib data.

    Raises:
        ValueError: damaged, cut short, or more than half a gigabyte.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, MOST_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"its bitmap cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise ValueError("its bitmap is cut short, or too large")
    return data


def bitmap(png: bytes) -> NDArray[np.bool_]:
    """Read which pixels of a bitmap are inside: those that are not transparent, or else those that are not 0.

    Raises:
        ValueError: it is not an image that can be read.
    """
    try:
        with opened_image(png) as image:
            check_size(image, MAX_PIXELS)
            pixels = np.asarray(image.convert("RGBA") if "transparency" in image.info else image)
    except ImageError as error:
        raise ValueError(error.message.replace("the image:", "its bitmap:")) from error
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., -1]
    return np.asarray(pixels != 0 if pixels.ndim == 2 else pixels.any(axis=2), bool)
