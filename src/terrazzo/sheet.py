"""Contact sheets: pictures of several photos in rows, each under its name, with the classes' colours below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.labels.spec import LabelSpec
from terrazzo.plotting import FAINT, INK, clipped, to_png

__all__ = ["CELL", "PAPER", "Color", "Picture", "Row", "class_legend", "contact_sheet", "drawable", "fitted"]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
"""As the colour of a legend's entry: no colour is shown, only the text."""

MOST_CLASSES = 60  # in a legend
CELL, GAP, HEAD, TITLE, LINE_HEIGHT = 400, 12, 96, 40, 26  # pixels
LETTER = 9  # pixels of a letter, on average
DPI = 100
POINTS = 72 / DPI  # one pixel


@dataclass(frozen=True)
class Row:
    """One photo of a sheet: a line of text above its pictures, which have one size.

    Attributes:
        name: written above on the left.
        text: written above on the right.
        pictures: one below each heading, as `fitted` returns them.
    """

    name: str
    text: str
    pictures: Sequence[Picture]


def class_legend(labels: LabelSpec, pixels: NDArray[np.int64]) -> list[tuple[str, Color]]:
    """Return names and colours of the classes that occur, the largest first.

    Args:
        labels: the classes.
        pixels: how many pixels of the masks shown have each class, and up to the ignore index each other value.
    """
    legend = [(labels.names[k], labels.palette[k]) for k in np.argsort(-pixels[:-1], kind="stable") if pixels[k]]
    if len(legend) > MOST_CLASSES:
        legend[MOST_CLASSES:] = [(f"and {len(legend) - MOST_CLASSES} more", PAPER)]
    if pixels[-1]:
        legend.append(("not labelled", labels.ignore_color))
    return legend


def fitted(picture: Picture, *, smooth: bool = True) -> Picture:
    """Return the picture with its longer side at CELL pixels."""
    import cv2

    height, width = picture.shape[:2]
    factor = CELL / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    how = cv2.INTER_NEAREST if not smooth else cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)


def contact_sheet(
    rows: Sequence[Row], headings: Sequence[str], legend: Sequence[tuple[str, Color]], title: str, *, beside: int = 1
) -> bytes:
    """Lay photos out on one canvas, pixel for pixel, and write title, headings, names and legend around them.

    Args:
        rows: the photos.
        headings: of the pictures of each.
        legend: classes and their colours; not empty.
        title: what is shown.
        beside: so many photos side by side.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    columns = beside * len(headings)
    width = columns * CELL + (columns + 1) * GAP
    lefts = [GAP + column * (CELL + GAP) for column in range(columns)]
    lines = [rows[start : start + beside] for start in range(0, len(rows), beside)]
    names = [clipped(name, 24) for name, _ in legend]
    entry = 60 + LETTER * max(map(len, names))
    entries = min(max((width - 2 * GAP) // entry, 1), len(names))
    heights = [TITLE + max(row.pictures[0].shape[0] for row in line) for line in lines]
    tops = np.cumsum([HEAD, *heights]).tolist()
    height = tops[-1] + 3 * GAP + LINE_HEIGHT * -(-len(names) // entries)
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def write(left: float, bottom: float, text: str, size: float, **style: Any) -> None:
        style = {"color": INK, "ha": "left", **style}
        figure.text(left / width, 1 - bottom / height, text, fontsize=size * POINTS, parse_math=False, **style)

    write(GAP, 38, title, 21)
    for left, name in zip(lefts, [*headings] * beside, strict=True):
        write(left, HEAD - 12, name, 18, color=FAINT)
    room = len(headings) * (CELL + GAP) - GAP
    for line, top in zip(lines, tops, strict=False):
        for place, row in enumerate(line):
            first = place * len(headings)
            write(lefts[first], top + TITLE - 10, clipped(row.name, max(room // LETTER - len(row.text) - 3, 12)), 16)
            write(lefts[first] + room, top + TITLE - 10, row.text, 16, ha="right")
            for left, picture in zip(lefts[first:], row.pictures, strict=False):
                rows_, columns_ = picture.shape[:2]
                left += (CELL - columns_) // 2
                canvas[top + TITLE : top + TITLE + rows_, left : left + columns_] = picture
    for place, (name, (_, color)) in enumerate(zip(names, legend, strict=True)):
        left, top = GAP + entry * (place % entries), tops[-1] + 2 * GAP + LINE_HEIGHT * (place // entries)
        if color != PAPER:
            canvas[top : top + 18, left : left + 18] = 128
            canvas[top + 1 : top + 17, left + 1 : left + 17] = color
        write(left + 26, top + 15, name, 16)
    figure.figimage(canvas)
    return to_png(figure, DPI)


def drawable(text: str) -> str:
    """Return a file name that can be drawn: it may hold bytes that are not text."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
