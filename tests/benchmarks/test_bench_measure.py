"""What the benchmarks share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def test_sides_are_called_in_turn_after_one_unmeasured_call() -> None:
    from measure import alternate

    calls: list[str] = []
    times = alternate([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert calls == ["a", "b"] * 4
    assert [len(side.seconds) for side in times] == [3, 3]


def test_short_calls_get_more_rounds() -> None:
    from measure import alternate

    (times,) = alternate([lambda: sum(range(20_000))], 2, least_seconds=0.02)
    assert len(times.seconds) > 2 and sum(times.seconds) >= 0.02


def test_ratios_and_shares_are_those_of_the_middle_round() -> None:
    from measure import GEMM_OPERATIONS, Times, gemm_speed, matrix_product, ratio, share_of_peak

    # In the second round the machine was half as fast, in the third somebody else's program hit one side.
    ours, theirs, product = Times((1.0, 2.0, 1.0)), Times((3.0, 6.0, 9.0)), Times((0.5, 1.0, 0.5))
    assert ratio(theirs, ours) == "3.00"
    assert share_of_peak(GEMM_OPERATIONS, ours, product) == "50%"
    assert gemm_speed(product) == GEMM_OPERATIONS / 0.5
    assert matrix_product()().shape == (1536, 1536)


def test_a_process_apart_answers_or_says_that_it_died() -> None:
    from measure import apart

    assert apart(os.path.join, "a", "b") == "a/b"
    with pytest.raises(RuntimeError, match="ended with status 3"):
        apart(os._exit, 3)


def test_the_header_says_where_and_with_what() -> None:
    from measure import header

    text = header("A title", "python x.py", ("onnx", "no-such-package-here"))
    assert text.startswith("# A title\n\n`python x.py`, 20")
    for word in ("commit ", "thread", "torch ", "onnx ", "python ", "load average "):
        assert word in text
    assert "no-such-package-here" not in text


def test_publishing_writes_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import measure
    import plots

    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    text = measure.table(["", "ours, ms", "transformers, ms"], [["B0", "1 / 1", "3 / 2"]])
    measure.publish("segformer_eager", text, write=False)
    assert not list(tmp_path.iterdir())
    measure.publish("segformer_eager", text, write=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["segformer_eager.md", "segformer_eager.png"]
