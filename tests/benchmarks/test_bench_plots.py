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
    from plots import PICTURES, Chart, read_charts

    text = (
        "| | ours, ms | step by step, ms | our peak, MB |\n| --- | --- | --- | --- |\n| mla | 6 / 5 | 12 / 11 | 3 |\n"
    )
    assert read_charts(text, PICTURES["setr_decoders"]) == [Chart("mla", (("ours", 6.0), ("step by step", 12.0)))]


def test_rows_that_begin_alike_become_a_chart() -> None:
    from plots import PICTURES, Chart, figures, read_charts

    rows = "| B0 | ours | 6 |\n| B0 | transformers | 2.5 |\n| B2 | ours | 2 |\n| B2 | transformers | 1 |\n"
    charts = read_charts(f"| step | side | images/s |\n| --- | --- | --- |\n{rows}", PICTURES["training_step"])
    assert charts == [
        Chart("B0", (("ours", 6.0), ("transformers", 2.5))),
        Chart("B2", (("ours", 2.0), ("transformers", 1.0))),
    ]
    assert figures(charts[0], PICTURES["training_step"]) == ["6  (2.4x)", "2.5"]


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
