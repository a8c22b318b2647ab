"""The area of each class in a mask."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.labels.spec import LabelSpec

__all__ = ["ClassArea", "areas_of", "count_classes", "file_name", "summary_of"]

EXACT_COUNTS = 1 << 24  # pixels counted at once: OpenCV's histogram is float32


@dataclass(frozen=True)
class ClassArea:
    """How much of a picture one class covers; `share` is the fraction of all pixels, 0 to 1."""

    index: int
    name: str
    pixels: int
    share: float


def areas_of(counts: NDArray[np.integer], labels: LabelSpec, size: int, *, absent: bool = False) -> list[ClassArea]:
    """Name the classes' pixel counts, largest first.

    Args:
        counts: of each class.
        labels: the classes.
        size: of the image, in pixels.
        absent: list the classes that do not occur, too.
    """
    areas = [
        ClassArea(index, name, int(pixels), int(pixels) / size)
        for index, (name, pixels) in enumerate(zip(labels.names, counts, strict=True))
        if pixels or absent
    ]
    return sorted(areas, key=lambda area: (-area.pixels, area.index))


def count_classes(mask_HW: NDArray[np.integer], labels: LabelSpec) -> NDArray[np.int64]:
    """Count the pixels of each class."""
    import cv2

    values = labels.ignore_index + 1
    counts = np.zeros(values, dtype=np.int64)
    rows = max(1, EXACT_COUNTS // mask_HW.shape[1])
    for top in range(0, len(mask_HW), rows):
        strip: NDArray[np.integer] = np.ascontiguousarray(mask_HW[top : top + rows])
        counts += cv2.calcHist([strip], [0], None, [values], [0, values]).ravel().astype(np.int64)
    return counts[: labels.num_classes]


def summary_of(path: Path | None, size: tuple[int, int], model: str | None, areas: list[ClassArea]) -> dict[str, Any]:
    """What is written as JSON about a mask of this (height, width)."""
    height, width = size
    return {
        "file": file_name(path),
        "width": width,
        "height": height,
        "model": model,
        "classes": [{**asdict(area), "share": round(area.share, 6)} for area in areas],
        "ignored_pixels": height * width - sum(area.pixels for area in areas),
    }


def file_name(path: Path | None) -> str | None:
    # File names may hold bytes that are not UTF-8, which no JSON reader or terminal accepts.
    return None if path is None else os.fsencode(path.name).decode("utf-8", "replace")
