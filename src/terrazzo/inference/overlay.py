"""The overlay: an image under translucent class colours, with a line where classes meet; and cut-outs of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ConfigError
from terrazzo.inference.areas import ClassArea
from terrazzo.inference.legend import LegendEntry
from terrazzo.labels.matching import find_class
from terrazzo.labels.spec import LabelSpec

__all__ = ["Style", "cut_out", "legend_entries", "line_width", "paint"]

Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3) RGB

LEGEND_FROM_SHARE = 0.001  # smaller areas would read 0.0% and push larger ones out


@dataclass(frozen=True)
class Style:
    """How overlays look, and what is cut out.

    Attributes:
        alpha: weight of the colours in overlays, from 0 (only the image) to 1 (only the colours).
        classes: names of the classes that overlays paint; by default all but one called background.
        cutout: names of the classes that are cut out.

    Raises:
        ConfigError: `alpha` is not between 0 and 1.
    """

    alpha: float = 0.55
    classes: tuple[str, ...] | None = None
    cutout: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha is {self.alpha}", fix="choose a value between 0 and 1")

    def unpainted(self, labels: LabelSpec) -> NDArray[np.bool_]:
        """For each value of a mask, whether overlays leave its pixels as they are in the image.

        Raises:
            LabelError: no class has this name (code "labels-class-name").
        """
        table = np.zeros(labels.ignore_index + 1, np.bool_)
        if self.classes is not None:
            table[:] = True
            table[[find_class(labels.names, name) for name in self.classes]] = False
        elif labels.background is not None:
            table[labels.background] = True
        table[labels.ignore_index] = True
        return table

    def cut(self, labels: LabelSpec) -> NDArray[np.bool_]:
        """For each value of a mask, whether its pixels are cut out.

        Raises:
            ConfigError: nothing is said to be cut out (code "config-save").
            LabelError: no class has this name (code "labels-class-name").
        """
        if not self.cutout:
            raise ConfigError(
                "no class is named to cut out",
                fix="name one or more: --cutout NAME (in Python cutout=...)",
                code="config-save",
            )
        table = np.zeros(labels.ignore_index + 1, np.bool_)
        table[[find_class(labels.names, name) for name in self.cutout]] = True
        return table


def paint(
    image_HW3: Picture,
    colors_HW3: Picture,
    mask_HW: NDArray[np.integer],
    alpha: float,
    unpainted: NDArray[np.bool_],
    line: int,
) -> Picture:
    """The image with its classes' colours laid over it, and a thin line around everything that is painted.

    Args:
        image_HW3: the image, or some of its rows.
        colors_HW3: each pixel's class colour.
        mask_HW: class indices.
        alpha: weight of the colours, 0 to 1.
        unpainted: for each value of the mask, whether its pixels show the image as it is.
        line: width of the lines in pixels.
    """
    import cv2

    bare = len(unpainted) - 1  # one value for all that is not painted, so that no lines are drawn within it
    values = np.where(unpainted, bare, np.arange(bare + 1)).astype(mask_HW.dtype)
    merged_HW = np.asarray(cv2.LUT(mask_HW, values), dtype=np.uint8) if bare == 255 else values[mask_HW]
    painted = cv2.addWeighted(colors_HW3, alpha, image_HW3, 1 - alpha, 0)
    painted = cv2.copyTo(image_HW3, (merged_HW == bare).view(np.uint8), painted)
    # Half white, half class: a line that shows on any colour, while a pole three pixels wide keeps its own.
    edges_N = np.flatnonzero(_boundaries(merged_HW, line))
    painted.reshape(-1, 3)[edges_N] = 128 + colors_HW3.reshape(-1, 3)[edges_N] // 2
    return np.asarray(painted, dtype=np.uint8)


def line_width(size: tuple[int, ...]) -> int:
    """Pixels of the lines between classes: one up to an image of about a megapixel, then in proportion."""
    return max(1, round(math.sqrt(size[0] * size[1]) / 800))


def _boundaries(mask_HW: NDArray[np.integer], line: int) -> NDArray[np.uint8]:
    """(H, W): 1 on lines between classes."""
    import cv2

    edges = np.zeros(mask_HW.shape, dtype=np.uint8)
    edges[:, :-1] = mask_HW[:, :-1] != mask_HW[:, 1:]
    edges[:-1] |= mask_HW[:-1] != mask_HW[1:]
    if line > 1:
        edges = np.asarray(cv2.dilate(edges, np.ones((line, line), dtype=np.uint8)), dtype=np.uint8)
    return edges


def legend_entries(areas: Sequence[ClassArea], labels: LabelSpec, unpainted: NDArray[np.bool_]) -> list[LegendEntry]:
    """The lines of an overlay's legend: the painted classes by area, and what is left unpainted."""
    shown = [area for area in areas if area.share >= LEGEND_FROM_SHARE]
    entries = [
        LegendEntry(area.name, labels.palette[area.index], area.share, fallback=f"class {area.index}")
        for area in shown
        if not unpainted[area.index]
    ]
    rest = 1 - sum(area.share for area in areas)
    bare = [area for area in shown if unpainted[area.index]]
    if len(bare) == 1:
        entries.append(LegendEntry(bare[0].name, None, bare[0].share, fallback=f"class {bare[0].index}"))
    elif bare:
        entries.append(LegendEntry("not painted", None, sum(area.share for area in bare)))
    if rest >= LEGEND_FROM_SHARE:
        entries.append(LegendEntry("not labelled", None, rest))
    return entries


def cut_out(image_HW3: Picture, mask_HW: NDArray[np.integer], cut: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(H, W, 4) RGBA: the image where `cut` says so of the mask's value, and transparent black elsewhere."""
    alpha_HW = cut[mask_HW].view(np.uint8) * np.uint8(255)
    picture: NDArray[np.uint8] = np.dstack([image_HW3 & alpha_HW[..., None], alpha_HW])
    return picture
