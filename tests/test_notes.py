"""Notes are warnings in Python, and lines of the command on stderr."""

from __future__ import annotations

import warnings

import pytest

import terrazzo
from terrazzo.notes import TerrazzoWarning, note, notes_printed


def test_a_note_is_a_warning_that_can_be_filtered() -> None:
    with pytest.warns(terrazzo.TerrazzoWarning, match="matched by name"):
        note("classes were matched by name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TerrazzoWarning)
        note("not shown")


def test_the_command_prints_each_note_once_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with notes_printed():
        for _ in range(3):
            note("a\nb \x1b[2J")
        note("another")
    assert capsys.readouterr().err.splitlines() == ["note: a b \\x1b[2J", "note: another"]


def test_other_warnings_stay_what_they_are() -> None:
    with pytest.raises(DeprecationWarning), notes_printed():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
