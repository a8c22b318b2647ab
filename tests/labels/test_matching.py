"""Two lists of class names: the same, in another order, numbers only, or different classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.labels.matching import match_classes, only_numbered, reordered, side_by_side
from terrazzo.labels.spec import LabelSpec, bundled_names

STREET = ("Sky", "Traffic Light", "Road")


@pytest.mark.parametrize("data", [STREET, ("sky", "traffic_light", "ROAD"), ("s-k-y", "trafficlight", "road ")])
def test_case_spaces_underscores_and_hyphens_do_not_count(data: tuple[str, ...]) -> None:
    matching = match_classes(data, STREET)
    assert matching is not None and matching.table is None and matching.note is None and matching.names == data


def test_a_composed_and_a_decomposed_letter_are_one() -> None:
    matching = match_classes(("b\u00e4ume", "x"), ("x", "ba\u0308ume"))
    assert matching is not None and matching.table == (1, 0)


def test_another_order_is_mapped_and_said() -> None:
    matching = match_classes(("road", "sky", "traffic-light"), STREET)
    assert matching is not None and matching.table == (2, 0, 1)
    assert matching.names == ("sky", "traffic-light", "road")
    assert matching.note is not None and "'road' 0 -> 2" in matching.note


@pytest.mark.parametrize(
    "numbers",
    [
        ("class 0", "class 1", "class 2"),
        ("class_0", "class_1", "class_2"),
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("0", "1", "2"),
        ("1", "2", "3"),
        ("class-0", "class-1", "class-2"),
    ],
)
def test_numbers_say_nothing_but_the_order(numbers: tuple[str, ...]) -> None:
    for pair in ((numbers, STREET), (STREET, numbers)):
        matching = match_classes(*pair)
        assert matching is not None and matching.table is None and matching.names == STREET
        assert matching.note is not None and "only numbers" in matching.note
    assert only_numbered(numbers) and not only_numbered(STREET)


def test_numbers_on_both_sides_are_matched_by_these() -> None:
    by_text = ("class 0", "class 1", "class 10", "class 2")  # as sorting them as text gives them
    matching = match_classes(by_text, ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_10"))
    assert matching is not None and matching.table == (0, 1, 3, 2)
    matching = match_classes(("class 0", "class 1"), ("LABEL_0", "LABEL_1"))
    assert matching is not None and matching.table is None and "by their numbers" in str(matching.note)
    assert match_classes(("class 3", "class 2", "class 0"), ("LABEL_0", "LABEL_1", "LABEL_2")) is None


def test_the_guess_for_two_values_is_a_number_too() -> None:
    guessed = ("background", "foreground")
    matching = match_classes(guessed, ("background", "nucleus"))
    assert matching is not None and matching.note is not None and matching.names == ("background", "nucleus")
    assert only_numbered(guessed)
    assert match_classes(guessed, ("nucleus", "background")) is None  # the background is not where it would have to be


def test_numbers_after_a_background() -> None:
    matching = match_classes(("background", "0", "1"), ("Background", "car", "tree"))
    assert matching is not None and matching.names == ("background", "car", "tree")


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (("sky", "road", "tree"), STREET),
        (("sky", "road"), STREET),
        ((*STREET, "tree"), STREET),
        (("2", "0", "1"), STREET),
        (("class 1", "class 2", "class 3"), ("class 0", "class 1", "class 2")),
        (("road", "class 1", "class 2"), STREET),
    ],
)
def test_different_classes_are_no_match(data: tuple[str, ...], model: tuple[str, ...]) -> None:
    assert match_classes(data, model) is None


def test_names_that_differ_by_a_hyphen_alone_are_told_apart_where_both_lists_have_them() -> None:
    matching = match_classes(("a-b", "ab", "c"), ("ab", "a-b", "c"))
    assert matching is not None and matching.table == (1, 0, 2)
    assert match_classes(("a-b", "ab", "c"), ("ab", "c", "a b")) is None
    assert match_classes(("a-b", "ab", "c"), ("ab", "a b", "c")) is None
    assert match_classes(("a-b", "ab", "c"), ("a-b", "ab", "c")) is not None
    assert match_classes(("a b", "ab"), ("a_b", "a-b")) is None


def test_guessed_names_are_no_better_than_numbers() -> None:
    names = ("x", "y", "z")
    assert match_classes(names, STREET) is None
    matching = match_classes(names, STREET, guessed=True)
    assert matching is not None and matching.table is None and matching.names == names and matching.note


def test_both_lists_side_by_side() -> None:
    shown = side_by_side(("sky", "car"), STREET)
    assert "0 'sky' | 'Sky'; 1 'car' | 'Traffic Light'; 2 - | 'Road'" in shown
    assert shown.endswith("; only in the data: 'car'; only in the model: 'Traffic Light', 'Road'")
    many = [f"name {k}" for k in range(150)]
    assert side_by_side([*many[:99], "other", *many[100:]], many).count(" | ") == 2  # the heading, and what differs


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_lists_match_themselves_in_any_order(name: str) -> None:
    names = LabelSpec.bundled(name).names
    turned = (*names[3:], *names[:3])
    matching = match_classes([other.upper() for other in turned], names)
    assert matching is not None and matching.table is not None
    assert [names[place] for place in matching.table] == list(turned)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5))
def test_reordered_labels_read_the_same_masks_into_the_models_order(order: list[int], ignored: int) -> None:
    model = tuple("abcdef")
    palette = [(k, 2 * k, 3 * k + 1) for k in range(6)]
    names = [model[k] for k in order]
    stored = np.array([[0, 1, 2, 3, 4, 5, 255]], np.uint8)
    plain = LabelSpec.from_names(names, palette)
    mapped = LabelSpec.from_names(names, palette, id_map={**{k: k for k in range(6)}, ignored: "ignore", 255: "ignore"})
    for labels in (plain, mapped):
        matching = match_classes(names, model)
        assert matching is not None
        ours = reordered(labels, matching)
        assert ours.names == model
        for before, after in zip(labels.encode(stored)[0], ours.encode(stored)[0], strict=True):
            assert (before, after) == (255, 255) or labels.names[before] == ours.names[after]
        colours = labels.colorize(labels.encode(stored))
        assert np.array_equal(ours.encode_rgb(colours), ours.encode(stored))
