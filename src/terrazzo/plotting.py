"""What all figures share: colours of lines and text, plain axes, names cut to fit an axis, and the finished PNG.

Figures are drawn without pyplot, which has global state and may need a display.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FAINT", "GRID", "INK", "clipped", "name_lines", "plain_axes", "to_png"]

INK, FAINT, GRID = "#222222", "#6a6a6a", "#e6e6e6"
NAME_HEIGHT = 0.062  # of a line's name, of its chart's height


def clipped(text: str, longest: int = 26) -> str:
    """Return a text, or the beginning of a longer one."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def plain_axes(axes: Axes, title: str = "", grid: Literal["both", "x", "y"] = "both") -> None:
    """Give a chart its title, a pale grid, and lines on the left and below alone."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")


def name_lines(
    axes: Axes, ends: Sequence[tuple[str, float]], colors: Sequence[str], scale: Callable[[float], Any]
) -> None:
    """Write the names of a chart's lines beside their right ends, moved apart where they would overlap.

    Args:
        axes: the chart.
        ends: each line's name, and its last value.
        colors: the lines', repeated where there are more.
        scale: what the chart's vertical axis does with a value, such as its logarithm.
    """
    low, high = map(scale, axes.get_ylim())
    places = [float((scale(end) - low) / (high - low)) for _, end in ends]
    order, height = sorted(range(len(ends)), key=places.__getitem__), min(NAME_HEIGHT, 1 / len(ends))
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + height)
    places[order[-1]] = min(places[order[-1]], 1 - height / 2)
    for above, below in pairwise(order[::-1]):
        places[below] = min(places[below], places[above] - height)
    for place, (name, _), color in zip(places, ends, cycle(colors), strict=False):
        style: dict[str, Any] = {"color": color, "va": "center", "fontsize": 9, "parse_math": False}
        axes.annotate(name, (1.01, place), xycoords="axes fraction", annotation_clip=False, **style)


def to_png(figure: Figure, dpi: int, *, trimmed: bool = False) -> bytes:
    """Return a figure as a PNG file, `trimmed` to what is drawn and a narrow edge around it."""
    import matplotlib
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    for legend in figure.findobj(Legend):
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called $x$
    for text in figure.findobj(Text):
        text.set_usetex(
            False
        )  # a matplotlibrc in the working folder may ask for LaTeX, which is a programming language
    edge: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if trimmed else {}
    picture = io.BytesIO()
    with matplotlib.rc_context({"text.usetex": False}), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the other files hold it as it is.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(picture, format="png", dpi=dpi, **edge)
    return picture.getvalue()
