"""The progress bar: on terminals only, and never in the way of what is printed."""

from __future__ import annotations

import sys

import pytest

from terrazzo.cli.progress import progress_bar


def test_elsewhere_it_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rich.progress", raising=False)
    with progress_bar("predict") as progress:
        progress(1, 2)
        print("a result")
    assert tuple(capsys.readouterr()) == ("a result\n", "")
    assert "rich.progress" not in sys.modules


def test_on_a_terminal_it_shows_itself_on_stderr_and_leaves_redirected_results_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress_bar("predict") as progress:
        progress(1, 2)
        print("a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert "predict" in err and "1/2" in err and "a result" not in err
