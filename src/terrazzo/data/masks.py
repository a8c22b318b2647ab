"""Reading a mask file into class indices, refusing everything that is not one.

Index masks are 8- or 16-bit single-channel images. Palette ("P") images are read as their indices, never through their
colours. RGB masks need the labels' colour map.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels import LabelSpec

__all__ = ["MASK_SUFFIXES", "read_mask", "read_stored_mask"]

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jpg", ".jpeg")
_INDEX_MODES = {"1", "L", "P", "I", "I;16", "I;16L", "I;16B"}


def read_stored_mask(path: Path) -> NDArray[np.integer]:
    """Return the mask as the file stores it: (H, W) integers, or (H, W, 3) uint8 for a colour mask.

    Raises:
        DatasetError: the file is not an image, is lossy, is damaged, or holds fractions.
    """
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                raise DatasetError(
                    f"{path} is a JPEG: lossy compression has changed its class indices",
                    fix="export masks as PNG",
                    code="mask-lossy",
                )
            if image.mode in _INDEX_MODES:
                stored = np.asarray(image)
                return stored.astype(np.uint8) if stored.dtype == bool else stored
            if image.mode == "RGBA" and image.getextrema()[3] != (255, 255):
                raise DatasetError(
                    f"{path} has transparent pixels, so its colours are not certain",
                    fix="export the mask without an alpha channel",
                    code="mask-mode",
                )
            if image.mode in ("RGB", "RGBA"):
                return np.asarray(image.convert("RGB"))
            if image.mode == "F":
                return _integers_from_floats(np.asarray(image), path)
            raise DatasetError(
                f"{path} has pixel mode {image.mode}, not class indices",
                fix="export masks as 8-bit single-channel PNG",
                code="mask-mode",
            )
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path} is not an image", fix="replace it by a PNG mask", code="mask-damaged") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}", fix="export the mask again", code="mask-damaged"
        ) from error


def read_mask(path: Path, labels: LabelSpec) -> NDArray[np.integer]:
    """Return the (H, W) mask of class indices, `labels.ignore_index` where there is no label.

    Raises:
        DatasetError: as `read_stored_mask`, or a stored value that the labels do not explain (the file is named).
    """
    stored = read_stored_mask(path)
    try:
        return labels.encode_rgb(stored) if stored.ndim == 3 else labels.encode(stored)
    except LabelError as error:
        raise DatasetError(f"{path}: {error.message}", fix=error.fix, code="mask-values") from error


def _integers_from_floats(stored: NDArray[np.floating], path: Path) -> NDArray[np.int64]:
    if not np.isfinite(stored).all() or (stored != np.floor(stored)).any() or (stored < 0).any():
        raise DatasetError(
            f"{path} holds fractions, NaN or negative numbers, not class indices",
            fix="export masks as 8-bit single-channel PNG",
            code="mask-mode",
        )
    return stored.astype(np.int64)
