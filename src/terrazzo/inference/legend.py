"""The legend of an overlay: the classes' colours, names and shares, beside the picture and never over it.

It is a strip below a landscape picture, or a panel to the right of any other. Sizes follow the picture's own, so that a
thumbnail and a 12-megapixel picture read the same when shown equally wide.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

__all__ = ["Legend", "LegendEntry", "legend_for", "with_legend"]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Color = tuple[int, int, int]

PAPER = 255  # white
INK: Color = (31, 35, 40)
FAINT_INK: Color = (101, 109, 118)
HAIRLINE: Color = (200, 204, 209)

HEADING = "Share of the picture"
SMALLEST_TEXT = 12  # pixels; below that the font is no longer crisp
LARGEST_TEXT = 256  # pixels; beyond that letters are enlarged


@dataclass(frozen=True)
class LegendEntry:
    """One line of the legend.

    Attributes:
        name: printable characters, as `LabelSpec` guarantees; markup is drawn as the plain text it is.
        color: RGB, or None for pixels that carry no class.
        share: fraction of the picture, 0 to 1.
        fallback: what to draw instead where the font has none of the name's characters.
    """

    name: str
    color: Color | None
    share: float
    fallback: str = ""


@dataclass(frozen=True, eq=False)
class Legend:
    """A legend and its place.

    Attributes:
        picture: the legend alone.
        scale: how many pixels each of its pixels is enlarged to, on both sides: a large image's would fill the memory.
        at: (row, column) of its corner, counted from the picture's.
        size: (height, width) of the picture and the legend together.
    """

    picture: Picture
    scale: int
    at: tuple[int, int]
    size: tuple[int, int]

    def beside(self, rows_RW3: Picture, top: int) -> Picture:
        """Some rows of the whole, the first of which is row `top`, from as many rows of the picture.

        Below the picture these have no columns.
        """
        canvas = np.full((len(rows_RW3), self.size[1], 3), PAPER, dtype=np.uint8)
        canvas[:, : rows_RW3.shape[1]] = rows_RW3
        first, left = self.at
        height, width = (side * self.scale for side in self.picture.shape[:2])
        here = np.arange(max(first, top), min(first + height, top + len(rows_RW3)))
        canvas[here - top, left : left + width] = self.picture[(here - first) // self.scale].repeat(self.scale, axis=1)
        return canvas


def legend_for(size: tuple[int, int], entries: Sequence[LegendEntry]) -> Legend:
    """Draw the legend of a picture of this (height, width), in the order of `entries`."""
    height, width = size
    if not entries:
        return Legend(np.empty((0, 0, 3), np.uint8), 1, (height, 0), size)
    text = max(SMALLEST_TEXT, round(0.024 * math.sqrt(height * width)))
    scale = math.ceil(text / LARGEST_TEXT)
    legend, below = _drawn_for(height // scale, width // scale, text // scale, entries)
    tall, wide = (side * scale for side in legend.shape[:2])
    top, left = (height, 0) if below else (0, width)
    return Legend(legend, scale, (top, left), (max(height, top + tall), max(width, left + wide)))


def with_legend(picture_HW3: Picture, entries: Sequence[LegendEntry]) -> Picture:
    """The picture with its legend; the picture itself stays at [:H, :W], untouched.

    The result is larger than the picture in one direction, and in both where the picture is smaller than its legend.
    """
    height, width = picture_HW3.shape[:2]
    legend = legend_for((height, width), entries)
    canvas = np.empty((*legend.size, 3), dtype=np.uint8)
    canvas[:height] = legend.beside(picture_HW3, 0)
    canvas[height:] = legend.beside(np.empty((len(canvas) - height, 0, 3), np.uint8), height)
    return canvas


def _drawn_for(height: int, width: int, text: int, entries: Sequence[LegendEntry]) -> tuple[Picture, bool]:
    """The legend alone, for a picture of this size, and whether it goes below the picture."""
    font = _font(text)
    lines = [replace(entry, name=_fitted(entry.name, font, 13 * text) or entry.fallback) for entry in entries]
    below = width >= max(height, 2 * text + _line_width(lines[0], text))
    if below:
        columns = _columns(lines, width - 2 * text, max(4, int(0.4 * height / _line_height(text))), text)
    else:
        columns = _columns(lines, 0, max(12, (height - 2 * text) // _line_height(text) - 1), text)
    return _drawn(columns, text), below


def _columns(lines: list[LegendEntry], width: int, most_rows: int, text: int) -> list[list[LegendEntry]]:
    """The lines in as few rows as `width` allows; what does not fit into `most_rows` is summed up in the last line."""
    rows = 1
    kept = len(lines)
    shown = lines
    while True:
        columns = [shown[i : i + rows] for i in range(0, len(shown), rows)]
        if len(columns) == 1 or _grid_width(columns, text) <= width:
            return columns
        if rows < most_rows:
            rows += 1
        else:
            kept -= 1
            rest = lines[kept:]
            shown = [*lines[:kept], LegendEntry(f"+ {len(rest)} more", None, sum(entry.share for entry in rest))]


def _drawn(columns: list[list[LegendEntry]], text: int) -> Picture:
    """The legend alone: a heading over columns of swatch, name and share."""
    from PIL import Image, ImageDraw

    font, line_height = _font(text), _line_height(text)
    width = 2 * text + max(_grid_width(columns, text), math.ceil(font.getlength(HEADING)))
    legend = Image.new("RGB", (width, 2 * text + line_height * (1 + len(columns[0]))), (PAPER, PAPER, PAPER))
    draw = ImageDraw.Draw(legend)
    draw.text((text, text + line_height // 2), HEADING, fill=FAINT_INK, font=font, anchor="lm")
    left = text
    for column in columns:
        right = left + _column_width(column, text)
        for row, line in enumerate(column, start=1):
            middle = text + row * line_height + line_height // 2
            if line.color is not None:
                top = middle - text // 2
                swatch = (left, top, left + text, top + text)
                draw.rounded_rectangle(swatch, radius=text / 5, fill=line.color, outline=HAIRLINE)
            ink = FAINT_INK if line.color is None else INK
            draw.text((left + 1.5 * text, middle), line.name, fill=ink, font=font, anchor="lm")
            draw.text((right, middle), f"{line.share:.1%}", fill=FAINT_INK, font=font, anchor="rm")
        left = right + _gutter(text)
    return np.asarray(legend, dtype=np.uint8)


# Every length in the legend is a multiple of the text's size, so it looks the same at every scale.


def _line_height(text: int) -> int:
    return round(1.65 * text)


def _gutter(text: int) -> int:
    return 2 * text


@functools.lru_cache(maxsize=1024)
def _line_width(line: LegendEntry, text: int) -> int:
    font = _font(text)
    return math.ceil(1.5 * text + font.getlength(line.name) + 0.8 * text + font.getlength(f"{line.share:.1%}"))


def _column_width(column: list[LegendEntry], text: int) -> int:
    return max(_line_width(line, text) for line in column)


def _grid_width(columns: list[list[LegendEntry]], text: int) -> int:
    return sum(_column_width(column, text) for column in columns) + _gutter(text) * (len(columns) - 1)


def _fitted(name: str, font: Font, width: int) -> str:
    """The name as one line of drawable characters at most `width` pixels long, cut with an ellipsis."""
    name = " ".join("".join(character for character in name if _drawable(character, font)).split())
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "…") > width:
        name = name[:-1]
    return name.rstrip() + "…"


def _drawable(character: str, font: Font) -> bool:
    """Whether the font has a glyph of its own for the character, rather than the box that stands for a missing one."""
    if character.isascii():
        return True
    missing = "\uffff"  # never a character
    return bytes(font.getmask(character)) != bytes(font.getmask(missing))


@functools.lru_cache(maxsize=8)
def _font(size: int) -> Font:
    """DejaVu Sans as matplotlib ships it, found without matplotlib's slow import; else Pillow's built-in font."""
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(file, size)
    return ImageFont.load_default(size)
