"""Bar charts of the committed tables, one file for each, drawn from the Markdown.

    python benchmarks/plots.py                  all tables that are there
    python benchmarks/plots.py engines          one of them

Every benchmark draws its own with --write. Each row (or each table, if the rows are what is compared) is a small chart
with its own axis, since a B5 takes thirty times as long as a B0.
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
    "segformer_eager_1024x2048": Picture("A pass of SegFormer at 1024 x 2048 in PyTorch, ms", r", ms$"),
    "segformer_eager_19_classes": Picture("A pass of SegFormer with 19 classes in PyTorch, ms", r", ms$"),
    "engines": Picture("A pass of SegFormer at 512 x 512, ms", r"^ms$", by_row=True),
    "engines_compiled": Picture("A pass of SegFormer at 512 x 512, with torch.compile, ms", r"^ms$", by_row=True),
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
RATIO = re.compile(r"times as fast|ratio")


@dataclass(frozen=True)
class Bar:
    """A value, and how many times as fast as the peer the table says it is."""

    label: str
    value: float
    times: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.label.startswith("ours")

    def __str__(self) -> str:
        return f"{self.value:g}  ({self.times}x)" if self.ours and self.times else f"{self.value:g}"


@dataclass(frozen=True)
class Chart:
    """Bars under a heading."""

    heading: str
    bars: tuple[Bar, ...]


def main() -> None:
    names = sys.argv[1:] or [name for name in PICTURES if (RESULTS / f"{name}.md").exists()]
    for name in names:
        print(draw(name))


def draw(name: str) -> Path:
    """Draw a table's picture beside it and return the file."""
    picture = PICTURES[name]
    charts = read_charts((RESULTS / f"{name}.md").read_text(encoding="utf-8"), picture)
    longest = max(len(bar.label) for chart in charts for bar in chart.bars)
    columns = min(len(charts), 2)
    rows = -(-len(charts) // columns)
    bars = max(len(chart.bars) for chart in charts)
    title = f"{picture.title} ({'longer' if picture.more_is_better else 'shorter'} is better)"
    width = max(columns * (3.4 + 0.085 * longest), 0.09 * len(title))
    figure = Figure(figsize=(width, 0.95 + rows * (0.42 + 0.27 * bars)), layout="constrained", dpi=144)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    figure.supxlabel(
        "in brackets, from the table: times as fast as the first grey bar", x=0.01, ha="left", fontsize=8, color=QUIET
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(charts) :]:
        axis.set_visible(False)
    for axis, chart in zip(axes.flat, charts, strict=False):
        places, values = range(len(chart.bars)), [bar.value for bar in chart.bars]
        axis.barh(places, values, color=[OURS if bar.ours else PEERS for bar in chart.bars], height=0.72)
        axis.set_yticks(places, [bar.label for bar in chart.bars], fontsize=8.5, color=INK)
        axis.invert_yaxis()
        axis.set_xlim(0, max(values) * 1.3)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        for place, bar in zip(places, chart.bars, strict=True):
            axis.text(bar.value + max(values) * 0.015, place, str(bar), va="center", fontsize=8.5, color=QUIET)
        axis.set_title(chart.heading, loc="left", fontsize=9.5, color=INK, fontweight="bold")
    path = RESULTS / f"{name}.png"
    figure.savefig(path, metadata={"Software": None})
    return path


def read_charts(text: str, picture: Picture) -> list[Chart]:
    """Read the charts from a result's Markdown, without cells that have no number and without charts of one bar."""
    charts = []
    for heading, rows in read_tables(text):
        columns, *body = rows
        wanted = [number for number, column in enumerate(columns) if re.search(picture.columns, column)]
        if not wanted:
            continue
        ratio = next((number for number, column in enumerate(columns) if RATIO.search(column)), None)
        if picture.grouped:
            for name in dict.fromkeys(row[0] for row in body):
                bars = [_bar(row[1], row[wanted[0]], row, ratio) for row in body if row[0] == name]
                charts.append(Chart(name, _drawn(bars)))
        elif picture.by_row:
            charts.append(Chart(heading, _drawn([_bar(row[0], row[wanted[0]], row, ratio) for row in body])))
        else:
            for row in body:  # the ratio is that of the first column, which is ours
                bars = [
                    _bar(columns[number].removesuffix(", ms"), row[number], row, ratio if number == wanted[0] else None)
                    for number in wanted
                ]
                charts.append(Chart(row[0], _drawn(bars)))
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


def _bar(label: str, cell: str, row: list[str], ratio: int | None) -> Bar | None:
    """Return a bar for the first number of a cell: the median, where a least time follows."""
    value, times = NUMBER.match(cell), None if ratio is None else NUMBER.match(row[ratio])
    return None if value is None else Bar(label, float(value[0]), times[0] if times else "")


def _drawn(bars: list[Bar | None]) -> tuple[Bar, ...]:
    return tuple(bar for bar in bars if bar is not None)


if __name__ == "__main__":
    main()
