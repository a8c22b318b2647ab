"""The forms in which Python code passes an image, reduced to those that are decoded: a path, bytes, PIL, an array."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terrazzo.errors import ImageError
from terrazzo.text import show

__all__ = ["PlainSource", "are_several", "plain_source"]

PlainSource: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes] | bytes | Image.Image | NDArray[Any]
CHANNELS = (1, 3, 4)


def plain_source(source: Any, bands: int | None = None) -> PlainSource:
    """Return a path, encoded bytes, a PIL image or an array as it is, and anything else as one of these.

    Open files are read from their beginning. Tensors are (C, H, W), or (H, W, C) where only the last dimension can be
    the channels. Floating-point tensors of photos hold 0 to 1, as is usual in torch, and become 0 to 255.

    Args:
        source: the image.
        bands: how many bands are wanted of it at full depth; None for photos.

    Raises:
        ImageError: it is something else (code "image-source"), or a file opened as text.
    """
    if isinstance(source, (str, os.PathLike, bytes, Image.Image, np.ndarray)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if hasattr(source, "read"):
        return _read_whole(source)
    if _is_tensor(source):
        return _of_tensor(source, bands)
    if hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        return np.asarray(source)
    raise ImageError(
        f"{show(source)} is not an image",
        fix="give a path, encoded bytes, an open file, a PIL image, an array or a tensor",
        code="image-source",
    )


def are_several(source: Any) -> bool:
    """Tell whether this is a collection of images and not a single one."""
    single = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, np.ndarray, dict)
    is_one = isinstance(source, single) or hasattr(source, "read") or hasattr(source, "__array__")
    return isinstance(source, Iterable) and not is_one


def _read_whole(file: Any) -> bytes:
    try:
        if file.seekable():
            file.seek(0)
        data = file.read()
    except (OSError, ValueError, AttributeError) as error:  # ValueError: closed, or bytes that are not text
        raise ImageError(
            f"the open file cannot be read: {error}", fix="open it for reading, in binary mode", code="image-unreadable"
        ) from error
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError(
            "the file is open as text", fix='open it in binary mode: open(path, "rb")', code="image-source"
        )
    return bytes(data)


def _is_tensor(source: Any) -> bool:
    """Tell whether this is a torch tensor, without importing torch."""
    return type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach")


def _of_tensor(tensor: Any, bands: int | None) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    channels = CHANNELS if bands is None else (bands,)
    if array.ndim == 3 and (array.shape[0] in channels or array.shape[2] not in channels):
        array = array.transpose(1, 2, 0)
    if bands is None and array.dtype == np.float32 and array.size and array.min() >= 0 and array.max() <= 1:
        array = np.rint(array * 255).astype(np.uint8)
    return np.ascontiguousarray(array)
