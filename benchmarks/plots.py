"""Pictures of the committed tables: one file for each, drawn from the Markdown itself.

    python benchmarks/plots.py                  all tables that are there
    python benchmarks/plots.py engines          one of them

Every benchmark draws its own when it is run with --write. Each row (or, where the rows are the things compared, each
table) gets a small chart with an axis of its own, for a B5 takes thirty times as long as a B0.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
OURS, PEERS = "#0f766e", "#b8bec7"
INK, QUIET = "#1f2937", "#6b7280"


@dataclass(frozen=True)
class Picture:
    """How a table becomes bars.

    Attributes:
        title: what the bars show.
        columns: a pattern; the columns that match it are a row's bars. Or, with `by_row`, the one column whose cells
            are the bars, a row each.
        by_row: see above.
        grouped: with `by_row`, rows that begin alike are a chart, and their second cells name the bars.
        more_is_better: speed rather than time.
    """

    title: str
    columns: str
    by_row: bool = False
    grouped: bool = False
    more_is_better: bool = False


PICTURES = {
    "segformer_eager": Picture("A pass of SegFormer in PyTorch, ms", r", ms$"),
    "engines": Picture("A pass of SegFormer at 512 x 512, ms", r"^ms$", by_row=True),
    "engines_19_classes": Picture("A pass of SegFormer at 512 x 512 with 19 classes, ms", r"^ms$", by_row=True),
    "engines_1024x2048": Picture("A pass of SegFormer at 1024 x 2048, ms", r"^ms$", by_row=True),
    "engines_setr": Picture("A pass of SETR at 512 x 512, ms", r"^ms$", by_row=True),
    "photo_to_mask": Picture("Photo file to mask file, ms", r"^ms, median / least$", by_row=True),
    "directory": Picture("A directory of photos, processor time a photo, ms", r"ms a photo$", by_row=True),
    "postprocess": Picture("Logits to mask, ms", r"^ours, classes last$|^resize"),
    "training_step": Picture(
        "Training steps, images a second", r"^images/s$", by_row=True, grouped=True, more_is_better=True
    ),
    "setr_decoders": Picture("SETR's decoders, ms", r", ms$"),
}
NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Chart:
    """Bars under a heading."""

    heading: str
    bars: tuple[tuple[str, float], ...]


def main() -> None:
    names = sys.argv[1:] or [name for name in PICTURES if (RESULTS / f"{name}.md").exists()]
    for name in names:
        print(draw(name))


def draw(name: str) -> Path:
    """Draw a table's picture beside it and return the file."""
    picture = PICTURES[name]
    charts = read_charts((RESULTS / f"{name}.md").read_text(encoding="utf-8"), picture)
    longest = max(len(label) for chart in charts for label, _ in chart.bars)
    columns = min(len(charts), 2)
    rows = -(-len(charts) // columns)
    bars = max(len(chart.bars) for chart in charts)
    width = columns * (3.4 + 0.085 * longest)
    figure = Figure(figsize=(width, 0.95 + rows * (0.42 + 0.27 * bars)), layout="constrained", dpi=144)
    better = "longer" if picture.more_is_better else "shorter"
    figure.suptitle(f"{picture.title} ({better} is better)", x=0.01, ha="left", fontsize=11, color=INK)
    figure.supxlabel("in brackets: times as fast as the first grey bar", x=0.01, ha="left", fontsize=8, color=QUIET)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(charts) :]:
        axis.set_visible(False)
    for axis, chart in zip(axes.flat, charts, strict=False):
        labels, values = zip(*chart.bars, strict=True)
        places = range(len(labels))
        axis.barh(places, values, color=[OURS if label.startswith("ours") else PEERS for label in labels], height=0.72)
        axis.set_yticks(places, labels, fontsize=8.5, color=INK)
        axis.invert_yaxis()
        axis.set_xlim(0, max(values) * 1.3)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        for place, text in zip(places, figures(chart, picture), strict=True):
            axis.text(values[place] + max(values) * 0.015, place, text, va="center", fontsize=8.5, color=QUIET)
        axis.set_title(chart.heading, loc="left", fontsize=9.5, color=INK, fontweight="bold")
    path = RESULTS / f"{name}.png"
    figure.savefig(path, metadata={"Software": None})
    return path


def figures(chart: Chart, picture: Picture) -> list[str]:
    """Return what stands at the end of each bar: its value, and how it compares with the first bar that is not ours."""
    peer = next((value for label, value in chart.bars if not label.startswith("ours")), None)
    texts = []
    for label, value in chart.bars:
        if label.startswith("ours") and peer is not None:
            texts.append(f"{value:g}  ({value / peer if picture.more_is_better else peer / value:.1f}x)")
        else:
            texts.append(f"{value:g}")
    return texts


def read_charts(text: str, picture: Picture) -> list[Chart]:
    """Find the charts in a result's Markdown; cells without a number are left out, and charts of a single bar too."""
    charts = []
    for heading, rows in read_tables(text):
        columns, *body = rows
        wanted = [number for number, column in enumerate(columns) if re.search(picture.columns, column)]
        if not wanted:
            continue
        if picture.grouped:
            for name in dict.fromkeys(row[0] for row in body):
                charts.append(Chart(name, _bars([(row[1], row[wanted[0]]) for row in body if row[0] == name])))
        elif picture.by_row:
            charts.append(Chart(heading, _bars([(row[0], row[wanted[0]]) for row in body])))
        else:
            for row in body:
                charts.append(Chart(row[0], _bars([(_short(columns[number]), row[number]) for number in wanted])))
    return [chart for chart in charts if len(chart.bars) > 1]


def read_tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Return each table's heading and its rows, the head first, the line under the head left out."""
    tables: list[tuple[str, list[list[str]]]] = []
    heading, inside = "", False
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("|"):
            if not inside:
                tables.append((heading, []))
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if set("".join(cells)) != {"-"}:
                tables[-1][1].append(cells)
        inside = line.startswith("|")
    return tables


def _bars(cells: list[tuple[str, str]]) -> tuple[tuple[str, float], ...]:
    """The first number of each cell: of a median and a least, the median."""
    found = [(label, NUMBER.match(cell)) for label, cell in cells]
    return tuple((label, float(number[0])) for label, number in found if number is not None)


def _short(column: str) -> str:
    return column.removesuffix(", ms")


if __name__ == "__main__":
    main()
