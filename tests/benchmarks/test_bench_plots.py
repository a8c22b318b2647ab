"""The pictures are drawn from the committed tables, and every table has one that its reader finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BY_ROW = """\
## B0

| | ms | times as fast as transformers, PyTorch | GFLOP |
| --- | --- | --- | --- |
| ours, PyTorch | 10 / 9 | 3.32 / 3.4 | 6.2 |
| transformers, PyTorch | 35 / 34 | 1.00 | 21 |

## B1

| | ms | times as fast as transformers, PyTorch | GFLOP |
| --- | --- | --- | --- |
| ours, PyTorch | 20.5 / 9 | 2 | 6.2 |
| transformers, PyTorch | failed | 1.00 | 21 |
"""


def texts(chart: Any) -> list[str]:
    return [str(bar) for bar in chart.bars]


def test_rows_become_bars_and_gaps_are_left_out() -> None:
    from plots import PICTURES, Bar, Chart, read_charts

    charts = read_charts(BY_ROW, PICTURES["engines"])
    # B1 has one bar only.
    assert charts == [Chart("B0", (Bar("ours, PyTorch", 10.0, "3.32"), Bar("transformers, PyTorch", 35.0, "1.00")))]
    assert texts(charts[0]) == ["10  (3.32x)", "35"]  # the table's ratio, and not that of the medians


def test_columns_become_bars() -> None:
    from plots import PICTURES, read_charts

    head = "| | ours, ms | step by step, ms | ratio | our peak, MB |\n| --- | --- | --- | --- | --- |\n"
    (chart,) = read_charts(f"{head}| mla | 6 / 5 | 12 / 11 | 2.10 | 3 |\n", PICTURES["setr_decoders"])
    assert chart.heading == "mla"
    assert [bar.label for bar in chart.bars] == ["ours", "step by step"]
    assert texts(chart) == ["6  (2.10x)", "12"]


def test_rows_that_begin_alike_become_a_chart() -> None:
    from plots import PICTURES, read_charts

    rows = "".join(
        f"| {model} | {side} |\n" for model in ("B0", "B2") for side in ("ours | 6 | 2.4", "theirs | 2.5 | 1")
    )
    head = "| step | side | images/s | ratio |\n| --- | --- | --- | --- |\n"
    charts = read_charts(head + rows, PICTURES["training_step"])
    assert [chart.heading for chart in charts] == ["B0", "B2"]
    assert [texts(chart) for chart in charts] == [["6  (2.4x)", "2.5"]] * 2


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_every_result_is_found_from_the_readme_with_its_picture(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plots

    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert f"results/{path.name}" in readme or path.stem.startswith("ablation_")  # those are docs/claims.md's
    if path.stem in plots.PICTURES:
        assert path.with_suffix(".png").is_file() and f"results/{path.stem}.png" in readme
        monkeypatch.setattr(plots, "RESULTS", tmp_path)
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        assert plots.draw(path.stem).stat().st_size > 5000


def test_links_of_the_readme_lead_somewhere_or_are_said_to_be_missing() -> None:
    import re

    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((results/[^)]+)\)", readme):
        assert (RESULTS.parent / link).is_file(), link
