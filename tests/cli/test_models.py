"""`terrazzo models`: what ships, with its record, and what can be trained."""

from __future__ import annotations

import pytest

from terrazzo.cli.models import describe, models, table
from terrazzo.models import list_models
from terrazzo.weights.catalog import HUB, PUBLISHED, bundled_names

CONFIG = {
    "architecture": "segformer_b0",
    "labels": {"names": ["sky", *(f"thing number {number}" for number in range(10))]},
    "record": {
        "data": "streets",
        "hours": 1.75,
        "val_mIoU": 67.1,
        "licence": "Apache-2.0",
        "note": "a research data set, " * 8,
        "recipe": {"epochs": 90},
    },
}


def test_a_model_is_described_by_every_plain_value_of_its_record() -> None:
    text = describe("segformer_b0.streets", CONFIG)
    lines = text.splitlines()
    assert lines[0] == "  segformer_b0.streets"
    assert "    val mIoU      67.1" in lines and "    licence       Apache-2.0" in lines
    assert "    classes       11: sky, thing number 0" in text
    assert "epochs" not in text
    assert max(map(len, lines)) <= 80
    continued = [line for line in lines[1:] if line.startswith("     ")]
    assert continued and all(line.startswith(" " * 18) and line[18] != " " for line in continued)


def test_the_list_has_what_ships_and_what_can_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    models()
    text = capsys.readouterr().out
    assert all(name in text for name in [*bundled_names(), *list_models()])
    assert "  segformer_b0              3.72 M\n" in text and "  segformer_b5             84.61 M\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(f"  {weights.name} ") == 1 for weights in PUBLISHED)
    assert text.index("segformer_b0.camvid") < text.index("nvidia/") < text.index("SETR pup_large")
    told = " ".join(text.split())
    assert "non-commercial use only" in told and "11 of its 26 links are empty" in told


def test_what_is_gone_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    models()
    lines = capsys.readouterr().out.splitlines()
    gone = {line[2:].split("  ")[0] for line in lines if line.endswith("  gone")}
    assert gone == {weights.name for weights in PUBLISHED if weights.link is None}
    assert {"SETR pup_deit_base: Cityscapes, 80k", "SETR mla_large: ADE20K, 160k, batch 16"} < gone
    assert "  SETR naive_large: ADE20K, 160k                      305.7 M 48.06  48.80" in lines


def test_cached_weights_come_first() -> None:
    rows = [weights for weights in PUBLISHED if weights.where == HUB]
    cached = {rows[5].name}
    lines = table(HUB, sorted(rows, key=lambda weights: weights.name not in cached), cached).splitlines()
    assert [line for line in lines if line.endswith("cached")] == [lines[lines.index("") + 2]]
    assert rows[5].name in lines[lines.index("") + 2]
