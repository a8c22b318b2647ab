"""Masks for CVAT: its format "Segmentation mask 1.1", and the photos that belong to them, as two zip archives.

    labelmap.txt                          name:red,green,blue::
    ImageSets/Segmentation/default.txt    one name a line, without ending
    SegmentationClass/NAME.png            RGB, in the colours of labelmap.txt

In CVAT each class of an image becomes one mask, which brush and polygon change. What is exported from there in the
same format, with images, is a data set that Terrazzo trains on.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.imaging.png import encode_png
from terrazzo.labels.palette import generate_palette
from terrazzo.labels.spec import BACKGROUND_NAMES, Color, LabelSpec
from terrazzo.text import printable

__all__ = ["class_names", "cvat_masks", "own_names", "photos_archive"]

BLACK: Color = (0, 0, 0)
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # so that equal content gives equal archives


def cvat_masks(masks: Iterable[tuple[str, NDArray[np.integer]]], labels: LabelSpec) -> bytes:
    """Write masks as a zip archive that CVAT imports as "Segmentation mask 1.1".

    Args:
        masks: a name for each, without ending, and its (H, W) class indices.
        labels: their classes.
    """
    colors, names = _distinct(labels), class_names(labels.names)
    lines = ["# label:color_rgb:parts:actions"]
    if BLACK not in colors and "background" not in names:
        lines.append("background:0,0,0::")
    lines += [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in zip(names, colors, strict=True)]
    table = np.zeros((labels.ignore_index + 1, 3), np.uint8)
    table[: len(colors)] = colors
    listed: list[str] = []
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, mask in masks:
            listed.append(name)
            file.writestr(zipfile.ZipInfo(f"SegmentationClass/{name}.png", LONG_AGO), encode_png(table[mask]))
        file.writestr(zipfile.ZipInfo("ImageSets/Segmentation/default.txt", LONG_AGO), "\n".join([*listed, ""]))
        file.writestr(zipfile.ZipInfo("labelmap.txt", LONG_AGO), "\n".join([*lines, ""]))
    return archive.getvalue()


def photos_archive(photos: Mapping[str, Path]) -> bytes:
    """Put photos, as they are, into a zip archive, from which CVAT makes a task.

    Args:
        photos: each file by the name that it gets, without ending.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, path in photos.items():
            file.writestr(zipfile.ZipInfo(f"{name}{path.suffix}", LONG_AGO), path.read_bytes())
    return archive.getvalue()


def own_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file, without ending and folder: photos of several folders may be called alike."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name = stem = printable(path.stem).replace("\\", "-").strip() or "photo"
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def class_names(names: Sequence[str]) -> list[str]:
    """Return names that lines of labelmap.txt can hold: they separate by colons, and # begins a remark."""
    held: list[str] = []
    for name in names:
        name = printable(name).replace(":", "-").strip()
        name = f"_{name[1:]}" if name.startswith("#") else name
        while name in held:
            name += "_"
        held.append(name)
    return held


def _distinct(labels: LabelSpec) -> tuple[Color, ...]:
    """The classes' colours, or others where two classes share one, or black stands for something to be labelled."""
    black = [name for name, color in zip(labels.names, labels.palette, strict=True) if color == BLACK]
    if len(set(labels.palette)) == len(labels.palette) and all(name.casefold() in BACKGROUND_NAMES for name in black):
        return labels.palette
    return generate_palette(labels.num_classes, background=labels.names[0].casefold() in BACKGROUND_NAMES)
