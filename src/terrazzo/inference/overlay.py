"""The picture people look at: a photo under translucent class colours, outlined, with a legend beside it.

`paint` colours the photo; `with_legend` adds a strip below a landscape picture or a panel to the right of a portrait
one, and never covers a pixel of it. Sizes follow the picture's own, so that a thumbnail and a 12-megapixel photo read
the same when shown equally wide.
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

__all__ = ["LegendEntry", "paint", "with_legend"]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Color = tuple[int, int, int]

PAPER = 255  # white
INK: Color = (31, 35, 40)
FAINT_INK: Color = (101, 109, 118)
HAIRLINE: Color = (200, 204, 209)

HEADING = "Share of the picture"
SMALLEST_TEXT = 12  # pixels; below that the font is no longer crisp


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


def paint(image_HW3: Picture, colors_HW3: Picture, mask_HW: NDArray[np.integer], alpha: float, bare: int) -> Picture:
    """The photo with its classes' colours laid over it and a thin line wherever two classes meet.

    Args:
        image_HW3: the photo.
        colors_HW3: each pixel's class colour.
        mask_HW: class indices.
        alpha: weight of the colours, 0 to 1.
        bare: the index whose pixels show the untouched photo, for pixels without a class.
    """
    import cv2

    painted = cv2.addWeighted(colors_HW3, alpha, image_HW3, 1 - alpha, 0)
    painted = cv2.copyTo(image_HW3, (mask_HW == bare).view(np.uint8), painted)
    # Half white, half class: a line that shows on any colour, while a pole three pixels wide keeps its own.
    edges_N = np.flatnonzero(_boundaries(mask_HW))
    painted.reshape(-1, 3)[edges_N] = 128 + colors_HW3.reshape(-1, 3)[edges_N] // 2
    return np.asarray(painted, dtype=np.uint8)


def _boundaries(mask_HW: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(H, W): 1 on lines between classes, one pixel thick up to a photo of about a megapixel, then in proportion."""
    import cv2

    edges = np.zeros(mask_HW.shape, dtype=np.uint8)
    edges[:, :-1] = mask_HW[:, :-1] != mask_HW[:, 1:]
    edges[:-1] |= mask_HW[:-1] != mask_HW[1:]
    thickness = max(1, round(math.sqrt(edges.size) / 800))
    if thickness > 1:
        edges = np.asarray(cv2.dilate(edges, np.ones((thickness, thickness), dtype=np.uint8)), dtype=np.uint8)
    return edges


def with_legend(picture_HW3: Picture, entries: Sequence[LegendEntry]) -> Picture:
    """The picture with its legend, in the order of `entries`; the picture itself stays at [:H, :W], untouched.

    The result is larger than the picture in one direction, and in both where the picture is smaller than its legend.
    """
    if not entries:
        return picture_HW3
    height, width = picture_HW3.shape[:2]
    text = max(SMALLEST_TEXT, round(0.024 * math.sqrt(height * width)))
    font = _font(text)
    lines = [replace(entry, name=_fitted(entry.name, font, 13 * text) or entry.fallback) for entry in entries]
    below = width >= max(height, 2 * text + _line_width(lines[0], text))
    if below:
        columns = _columns(lines, width - 2 * text, max(4, int(0.4 * height / _line_height(text))), text)
    else:
        columns = _columns(lines, 0, max(12, (height - 2 * text) // _line_height(text) - 1), text)

    legend = _drawn(columns, text)
    top, left = (height, 0) if below else (0, width)
    canvas = np.full((max(height, top + legend.shape[0]), max(width, left + legend.shape[1]), 3), PAPER, dtype=np.uint8)
    canvas[:height, :width] = picture_HW3
    canvas[top : top + legend.shape[0], left : left + legend.shape[1]] = legend
    return canvas


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
