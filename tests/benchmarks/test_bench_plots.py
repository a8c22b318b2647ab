"""The pictures are drawn from the committed tables, and every table has one that its reader finds."""

from __future__ import annotations

from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BY_ROW = """\
## B0

| | ms | GFLOP |
| --- | --- | --- |
| ours, PyTorch | 10 / 9 | 6.2 |
| transformers, eager | 35 / 34 | 21 |

## B1

| | ms | GFLOP |
| --- | --- | --- |
| ours, PyTorch | 20.5 / 9 | 6.2 |
| transformers, eager | failed | 21 |
"""


def test_rows_become_bars_and_gaps_are_left_out() -> None:
    from plots import PICTURES, Chart, figures, read_charts

    charts = read_charts(BY_ROW, PICTURES["engines"])
    assert charts == [Chart("B0", (("ours, PyTorch", 10.0), ("transformers, eager", 35.0)))]  # B1 has one bar only
    assert figures(charts[0], PICTURES["engines"]) == ["10  (3.5x)", "35"]


def test_columns_become_bars() -> None:
    from plots import PICTURES, Chart, figures, read_charts

    text = "| photos | ours, images/s | transformers, images/s |\n| --- | --- | --- |\n| small | 6 | 2.5 |\n"
    (chart,) = read_charts(text, PICTURES["training_step"])
    assert chart == Chart("small", (("ours", 6.0), ("transformers", 2.5)))
    assert figures(chart, PICTURES["training_step"]) == ["6  (2.4x)", "2.5"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_every_result_is_found_from_the_readme_with_its_picture(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plots

    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert f"results/{path.name}" in readme
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
