"""Text from outside cannot break a line or steer a terminal."""

from __future__ import annotations

import pytest

from terrazzo.text import did_you_mean, list_names, nearest, printable, said_by, show, shown_path


@pytest.mark.parametrize("text", ["sky", "ciel é", "a\nb", "\x1b[2Jgone", "\u202eflipped", "\x00", "\ud800"])
def test_whatever_comes_in_is_one_printable_line(text: str) -> None:
    for shown in (printable(text), show(text), shown_path(text), list_names([text] * 20)):
        assert shown.isprintable()


def test_nothing_of_an_ordinary_text_changes() -> None:
    assert printable("Straße, 道路") == "Straße, 道路"
    assert shown_path("Straße/a b.png") == "Straße/a b.png"


def test_spaces_around_a_name_can_be_seen() -> None:
    assert [shown_path(path) for path in (" ", "runs ", "")] == ["' '", "'runs '", "''"]


def test_long_and_nested_values_are_cut() -> None:
    assert len(show("x" * 10_000)) < 250
    assert show({"a": 1}) == "a dict" and show(10**20) == "an int"
    assert shown_path("x" * 4990 + "/mask.png").endswith("x/mask.png") and len(shown_path("x" * 5000)) < 1010
    assert list_names(f"c{i}" for i in range(20)).endswith("'c7' and 12 more")


def test_nearest_finds_what_was_meant() -> None:
    assert nearest("bicyle", ["car", "bicycle"]) == "bicycle"
    assert nearest("zebra", ["car", "bicycle"]) is None


def test_what_an_error_says_is_one_line() -> None:
    assert said_by(ValueError("two\n lines\x1b[2J")) == "two lines\\x1b[2J"
    assert said_by(KeyError()) == "KeyError" and len(said_by(ValueError("x" * 999), 200)) == 200


def test_the_nearest_name_begins_a_fix() -> None:
    assert did_you_mean("filp", ["crop", "flip"]) == "did you mean flip? "
    assert did_you_mean("zzz", ["crop"]) == did_you_mean(3, ["crop"]) == ""
