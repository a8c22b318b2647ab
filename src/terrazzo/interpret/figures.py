"""The pictures of an explanation: attention over the photo, head by head too, and receptive fields."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.interpret.measures import area_holding, level_holding, percent, share_within
from terrazzo.interpret.points import Point
from terrazzo.interpret.records import LayerAttention, ReceptiveField
from terrazzo.plotting import FAINT, INK, clipped, plain_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attention_png", "compared_fields_png", "heads_png", "receptive_fields_png"]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

MARK = "#00e5ff"
DPI = 110
PANEL, GAP, TITLE, HEAD, LINE = 2.5, 0.12, 0.62, 0.5, 0.27  # inches
MAP = 3.4  # inches, of an attention panel
MAPS_IN_A_ROW = 4
FIELDS_IN_A_ROW = 7
LARGEST_PICTURE = 800  # pixels of a photo's longer side, more of which a panel cannot show
DECADES = 4  # of the receptive fields' colours
CURVES = ("#9ecae1", "#4292c6", "#2171b5", "#08306b", "#c2410c")


HOW_TO_READ = (
    "Each panel shows how the token under the circle divides its attention over the keys, from dark (nothing) to "
    "bright (the panel's own peak). Below it stand the part of the keys that gets half of it, and how many times an "
    "even share the strongest key gets. Hatched: no key stands for it."
)
LETTERS = 14  # of this, in an inch


# -- attention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Panel:
    """One map over the photo, and what is written below it."""

    keys_hw: NDArray[np.float32]
    covered: tuple[float, float]
    note: str


def attention_png(
    image_HW3: Picture, points: Sequence[Point], classes: Sequence[str], model: str, layers: Sequence[LayerAttention]
) -> bytes:
    """Draw a row for each point: the image with the point, then each layer's attention averaged over its heads.

    Args:
        image_HW3: the image, RGB.
        points: pixels of it.
        classes: what the model sees at each.
        model: its name.
        layers: one panel each.
    """
    heads = [f"{layer.title}\n{_layer_facts(layer)}" for layer in layers]
    rows = [
        [
            _Panel(layer.mean_Phw[place], layer.covered, _note(layer.mean_Phw[place], layer.class_token_PN, place))
            for layer in layers
        ]
        for place in range(len(points))
    ]
    return _attention_sheet(image_HW3, points, classes, rows, heads, f"Attention of {model}", "Mean of the heads")


def heads_png(
    image_HW3: Picture, points: Sequence[Point], classes: Sequence[str], model: str, layer: LayerAttention
) -> bytes:
    """Draw a row for each point: the image with the point, then the attention of each head of one layer.

    Args are those of `attention_png`, with one layer.
    """
    count = layer.weights_PNhw.shape[1]
    tokens = layer.class_token_PN
    rows = [
        [
            _Panel(
                layer.weights_PNhw[place, head],
                layer.covered,
                _note(layer.weights_PNhw[place, head], None if tokens is None else tokens[:, head, None], place),
            )
            for head in range(count)
        ]
        for place in range(len(points))
    ]
    title, heads = f"Attention of {model}, {layer.title}", [f"head {head}" for head in range(1, count + 1)]
    return _attention_sheet(image_HW3, points, classes, rows, heads, title, _layer_facts(layer))


def _layer_facts(layer: LayerAttention) -> str:
    heads, h, w = layer.weights_PNhw.shape[1:]
    rows, columns = layer.query_grid
    return f"{heads} head{'s' if heads > 1 else ''}, {columns} x {rows} tokens, {w} x {h} keys"


def _note(keys_hw: NDArray[np.float32], class_token_PN: NDArray[np.float32] | None, place: int) -> str:
    """The text below a map: how concentrated it is, and the class token's share if there is one."""
    half = percent(area_holding(keys_hw, 0.5))
    note = f"half in {half} of the keys, peak {keys_hw.max() * keys_hw.size:.3g} x even"
    return note if class_token_PN is None else f"{note}, class token {class_token_PN[place].mean():.0%}"


def _attention_sheet(
    image_HW3: Picture,
    points: Sequence[Point],
    classes: Sequence[str],
    rows: list[list[_Panel]],
    heads: list[str],
    title: str,
    about: str,
) -> bytes:
    """Draw each point's image and, beside it, its panels in rows of `MAPS_IN_A_ROW`."""
    from matplotlib.figure import Figure

    reduced_HW3 = _reduced(image_HW3)
    height, width = image_HW3.shape[:2]
    tall = min(max(MAP * height / width, 0.4), 2 * MAP)
    columns = 1 + min(len(heads), MAPS_IN_A_ROW)
    lines, line = -(-len(heads) // MAPS_IN_A_ROW), HEAD + tall + LINE
    wide = GAP + columns * (MAP + GAP)
    sentences = textwrap.wrap(f"{about}. {HOW_TO_READ}", int(LETTERS * wide))
    above = 0.5 + 0.2 * len(sentences)
    size = wide, above + len(rows) * lines * line + GAP
    figure = Figure(figsize=size, dpi=DPI)

    def axes_at(left: float, top: float) -> Axes:
        return figure.add_axes((left / size[0], 1 - (top + tall) / size[1], MAP / size[0], tall / size[1]))

    _write(figure, GAP, 0.33, title, 12)
    for place, sentence in enumerate(sentences):
        _write(figure, GAP, 0.57 + 0.2 * place, sentence, 9, color=FAINT)
    for number, (row, point, name) in enumerate(zip(rows, points, classes, strict=True)):
        top = above + number * lines * line + HEAD
        _write(figure, GAP, top - 0.08, f"{number + 1}  {clipped(name)} at {point[0]},{point[1]}", 10, va="bottom")
        image_axes = axes_at(GAP, top)
        image_axes.imshow(reduced_HW3, extent=(0, width, height, 0), aspect="auto")
        drawn = [image_axes]
        for place, (panel, text) in enumerate(zip(row, heads, strict=True)):
            left = GAP + (1 + place % MAPS_IN_A_ROW) * (MAP + GAP)
            upper = top + place // MAPS_IN_A_ROW * line
            _write(figure, left, upper - 0.08, text, 9, va="bottom", linespacing=1.35)
            drawn.append(axes_at(left, upper))
            _draw_keys(drawn[-1], reduced_HW3, panel, height, width)
            _write(figure, left, upper + tall + 0.18, panel.note, 8.5, color=FAINT)
        for axes in drawn:
            _mark(axes, point)
            axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return to_png(figure, DPI)


def _draw_keys(axes: Axes, image_HW3: Picture, panel: _Panel, height: int, width: int) -> None:
    """The photo in grey, under one flat patch of colour for each key: no more detail than the attention has."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    grey_HW = image_HW3.mean(axis=2)
    # A dark street's outlines must show through the colours too.
    dark, bright = np.percentile(grey_HW, (1, 99))
    room = 0.15 * (bright - dark) + 1
    shades: dict[str, Any] = {"cmap": "gray", "vmin": dark - room, "vmax": bright + room}
    axes.imshow(grey_HW, **shades, extent=(0, width, height, 0), aspect="auto")
    # The square root brings out what lies between the peak and nothing.
    level_hw = np.sqrt(panel.keys_hw / (panel.keys_hw.max() or 1.0))
    colors_hw4 = colormaps["inferno"](level_hw)
    colors_hw4[..., 3] = 0.45 + 0.4 * level_hw
    reach = panel.covered[0] * height, panel.covered[1] * width
    axes.imshow(colors_hw4, extent=(0, reach[1], reach[0], 0), interpolation="nearest", aspect="auto")
    style: dict[str, Any] = {"facecolor": "#00000080", "edgecolor": "#ffffff70", "hatch": "/////", "linewidth": 0.0}
    if reach[0] < height:
        axes.add_patch(Rectangle((0, reach[0]), width, height - reach[0], **style))
    if reach[1] < width:
        axes.add_patch(Rectangle((reach[1], 0), width - reach[1], reach[0], **style))


def _mark(axes: Axes, point: Point) -> None:
    x, y = point[0] + 0.5, point[1] + 0.5
    axes.plot(x, y, "o", ms=8, mfc="none", mec="black", mew=3.2, clip_on=False, zorder=5)
    axes.plot(x, y, "o", ms=8, mfc="none", mec=MARK, mew=1.6, clip_on=False, zorder=6)


def _reduced(image_HW3: Picture) -> Picture:
    import cv2

    height, width = image_HW3.shape[:2]
    factor = LARGEST_PICTURE / max(height, width)
    if factor >= 1:
        return image_HW3
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


# -- receptive fields -------------------------------------------------------------------------------------------------


def receptive_fields_png(fields: Sequence[ReceptiveField], images: int, model: str) -> bytes:
    """Draw the field of each map, from the first to the logits, and below them how they grow with the distance.

    Args:
        fields: one panel each.
        images: how many they are the mean of.
        model: the model's name.
    """
    from matplotlib.figure import Figure

    height, width = fields[0].share_HW.shape
    count = len(fields)
    tall = min(max(PANEL * height / width, 0.6), 2 * PANEL)
    chart, margin, bar = 2.3, 0.62, 0.75  # inches
    size = 2 * GAP + count * (PANEL + GAP) + bar, TITLE + HEAD + tall + 0.45 + chart + margin
    figure = Figure(figsize=size, dpi=DPI)

    def box(left: float, top: float, wide: float, high: float) -> tuple[float, float, float, float]:
        return left / size[0], 1 - (top + high) / size[1], wide / size[0], high / size[1]

    over = f"mean of {images} photos" if images > 1 else "one photo"
    title = f"Effective receptive field of the centre, {model}"
    _write(figure, GAP, 0.33, title, 12)
    lines = "inside the lines, drawn smooth, are 50% (white) and 95% (blue) of all contributions"
    line = f"{over}, window of {width} x {height} pixels; {lines}"
    _write(figure, GAP, 0.55, line, 8.5, color=FAINT)
    image: Any = None
    for place, field in enumerate(fields):
        left = GAP + place * (PANEL + GAP)
        _, _, cell_height, cell_width = field.cell
        half, most = (area_holding(field.share_HW, share) for share in (0.5, 0.95))
        unit = f"{field.name}, unit of {cell_width:.3g} x {cell_height:.3g} pixels"
        text = f"{unit}\n50% in {percent(half)}, 95% in {percent(most)}"
        _write(figure, left, TITLE + HEAD - 0.08, text, 9, va="bottom", linespacing=1.35)
        image = _draw_field(figure.add_axes(box(left, TITLE + HEAD, PANEL, tall)), field)
    left = GAP + count * (PANEL + GAP)
    bar_axes = figure.add_axes(box(left, TITLE + HEAD, 0.12, tall))
    colors = figure.colorbar(image, cax=bar_axes, ticks=range(-DECADES, 1))
    colors.ax.set_yticklabels(["1", *(f"1/{10**n:,}" for n in range(1, DECADES + 1))][::-1], fontsize=7.5, color=FAINT)
    colors.outline.set_visible(False)
    colors.ax.tick_params(length=0)
    _write(figure, left, TITLE + HEAD - 0.08, "of the\npeak", 8, va="bottom", color=FAINT)
    chart_box = box(GAP + 0.6, TITLE + HEAD + tall + 0.45, size[0] - 2.4, chart)
    _draw_growth(figure.add_axes(chart_box), fields)
    return to_png(figure, DPI)


def compared_fields_png(networks: Sequence[tuple[str, Sequence[ReceptiveField]]], images: int) -> bytes:
    """Draw networks side by side: of each the field of the encoder's last map above, that of the logits below.

    Args:
        networks: names, and two fields each.
        images: how many they are the mean of.
    """
    from matplotlib.figure import Figure

    height, width = networks[0][1][0].share_HW.shape
    title = (
        "What the middle of the result depends on: effective receptive fields\n"
        f"mean of {images} photos, window of {width} x {height} pixels; on a logarithmic scale, with 50% "
        "(white) and 95% (blue) of all contributions inside the lines"
    )
    bands, columns = -(-len(networks) // FIELDS_IN_A_ROW), min(len(networks), FIELDS_IN_A_ROW)
    figure = Figure(figsize=(2.6 * columns, 1.05 + bands * 5.4 * height / width), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, linespacing=1.4)
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (name, fields) in enumerate(networks):
        band, column = divmod(number, columns)
        for row, (field, what) in enumerate(zip(fields, ("last map", "result"), strict=True)):
            axes = grid[2 * band + row, column]
            axes.set_axis_on()
            _draw_field(axes, field)
            axes.set_aspect("equal")
            held = f"{what}: 50% in {percent(area_holding(field.share_HW, 0.5))}"
            title = f"{name}\n{held}" if row == 0 else held
            axes.set_title(title, loc="left", fontsize=9, color=INK, parse_math=False)
    return to_png(figure, 150, trimmed=True)


def _draw_field(axes: Axes, field: ReceptiveField) -> Any:
    """The contributions on a logarithmic scale, since they fall by powers of ten with the distance."""
    import cv2
    from matplotlib.patches import Rectangle

    height, width = field.share_HW.shape
    peak = float(field.share_HW.max()) or 1.0
    levels_HW = np.log10(np.maximum(field.share_HW / peak, 10.0 ** -(DECADES + 1)))
    extent = (0, width, height, 0)
    image = axes.imshow(levels_HW, cmap="magma", vmin=-DECADES, vmax=0, extent=extent, aspect="auto")
    # Single pixels alternate with the strides of the convolutions and with the photos' edges; a line through them all
    # would be a tangle.
    blurred = cv2.GaussianBlur(field.share_HW, (0, 0), max(height, width) / 64)
    smooth_HW = np.asarray(blurred, dtype=np.float32)
    if smooth_HW.max() > 0:
        middles = np.arange(width) + 0.5, np.arange(height) + 0.5
        for share, color in ((0.95, "#58b4ff"), (0.5, "white")):
            level = level_holding(smooth_HW, share)
            if smooth_HW.min() < level < smooth_HW.max():
                axes.contour(*middles, smooth_HW, levels=[level], colors=[color], linewidths=0.9)
    top, left, high, wide = field.cell
    axes.add_patch(Rectangle((left, top), wide, high, fill=False, edgecolor=MARK, linewidth=1.0))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return image


def _draw_growth(axes: Axes, fields: Sequence[ReceptiveField]) -> None:
    """Of each map, how much of all contributions lies within a distance of the unit."""
    height, width = fields[0].share_HW.shape
    radii = np.linspace(0, np.hypot(height, width) / 2, 200)[1:]
    for place, field in enumerate(fields):
        top, left, high, wide = field.cell
        center = top + high / 2, left + wide / 2
        shares = share_within(field.share_HW, center, radii) if field.share_HW.any() else np.zeros(len(radii))
        color = CURVES[-1] if place == len(fields) - 1 else CURVES[min(place, len(CURVES) - 2)]
        axes.plot(radii, 100 * shares, color=color, linewidth=1.8, label=field.name)
    axes.set(xlim=(0, radii[-1]), ylim=(0, 102))
    axes.set_xlabel("distance from the unit's middle, pixels", fontsize=9, color=INK)
    axes.set_ylabel("% of contributions within", fontsize=9, color=INK)
    plain_axes(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


# -- both -------------------------------------------------------------------------------------------------------------


def _write(figure: Figure, left: float, bottom: float, text: str, points: float, **style: Any) -> None:
    """Write text whose place is given in inches from the figure's upper left."""
    width, height = figure.get_size_inches()
    style = {"color": INK, **style}
    figure.text(left / width, 1 - bottom / height, text, fontsize=points, parse_math=False, **style)
