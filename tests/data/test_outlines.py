"""Objects painted into masks: which pixels are inside, what lies on top, and COCO's run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_layouts import RUN_MASK, RUNS
from numpy.typing import NDArray

from terrazzo.data.outlines import (
    IGNORED,
    Region,
    bitmap_region,
    decode_runs,
    disc,
    object_labels,
    paint,
    rectangle,
    region_of,
    stack,
    unpack_runs,
)
from terrazzo.errors import LabelError

few = settings(max_examples=50, deadline=None)
corners = st.floats(-4, 12, width=32).map(lambda x: round(x * 4) / 4 + 0.125)  # never on a pixel's centre


def drawn(region: Region, height: int, width: int) -> NDArray[np.uint16]:
    return paint([(1, region)], height, width)


def polygon(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(points, float)


def contains(points: NDArray[Any], x: float, y: float) -> bool:
    """The even-odd rule, for one place, edge by edge."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def test_a_pixel_is_inside_if_its_centre_is() -> None:
    region = region_of([polygon((1, 1), (4, 1), (4, 3), (1, 3))], 5, 6)
    assert drawn(region, 5, 6).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert drawn(region_of([polygon((1.4, 1.4), (3.6, 1.4), (3.6, 2.6), (1.4, 2.6))], 5, 6), 5, 6).sum() == 6
    assert drawn(region_of([polygon((1.6, 1.6), (3.4, 1.6), (3.4, 2.4), (1.6, 2.4))], 5, 6), 5, 6).sum() == 0
    triangle = region_of([polygon((0, 0), (4, 0), (0, 4))], 4, 4)
    assert drawn(triangle, 4, 4).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    """Also where their common edge runs through centres."""
    left = region_of([polygon((0, 0), (2.5, 0), (2.5, 4), (0, 4))], 4, 6)
    right = region_of([polygon((2.5, 0), (6, 0), (6, 4), (2.5, 4))], 4, 6)
    assert (drawn(left, 4, 6) + drawn(right, 4, 6) == 1).all()


@few
@given(st.lists(st.tuples(corners, corners), min_size=3, max_size=8))
def test_any_polygon_is_filled_by_the_even_odd_rule(points: list[tuple[float, float]]) -> None:
    found = drawn(region_of([polygon(*points)], 8, 7), 8, 7)
    expected = [[contains(polygon(*points), c + 0.5, r + 0.5) for c in range(7)] for r in range(8)]
    assert found.tolist() == np.array(expected, int).tolist()


@few
@given(st.lists(st.tuples(corners, corners), min_size=3, max_size=8))
def test_the_direction_and_the_first_corner_do_not_matter(points: list[tuple[float, float]]) -> None:
    first = drawn(region_of([polygon(*points)], 8, 7), 8, 7)
    assert (drawn(region_of([polygon(*points[::-1])], 8, 7), 8, 7) == first).all()
    assert (drawn(region_of([polygon(*points[1:], points[0])], 8, 7), 8, 7) == first).all()


def test_what_lies_outside_the_picture_is_cut_off() -> None:
    assert drawn(region_of([polygon((-9, -9), (99, -9), (99, 99), (-9, 99))], 3, 4), 3, 4).all()
    assert not drawn(region_of([polygon((50, 50), (60, 50), (60, 60))], 3, 4), 3, 4).any()
    assert not drawn(region_of([polygon((-5, 0), (-1, 0), (-1, 3))], 3, 4), 3, 4).any()
    assert drawn(region_of([polygon((-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9))], 3, 4), 3, 4).all()


def test_parts_of_one_object_are_joined_where_they_overlap() -> None:
    parts = [polygon((0, 0), (3, 0), (3, 2), (0, 2)), polygon((2, 0), (5, 0), (5, 2), (2, 2))]
    assert drawn(region_of(parts, 2, 5), 2, 5).all()


def test_a_ring_that_crosses_itself_leaves_a_hole() -> None:
    ring = polygon((0, 0), (5, 0), (5, 5), (0, 5), (0, 0), (1, 1), (1, 4), (4, 4), (4, 1), (1, 1))
    found = drawn(region_of([ring], 5, 5), 5, 5)
    assert found[1:4, 1:4].sum() == 0
    assert found.sum() == 16


def test_the_smaller_object_lies_on_top_and_what_is_ignored_below() -> None:
    large, small = Region(0, 0, np.ones((3, 4), bool)), Region(1, 1, np.ones((1, 2), bool))
    crowd, speck = Region(0, 0, np.ones((1, 1), bool)), Region(2, 3, np.ones((1, 1), bool))
    for order in ([(7, large), (8, small)], [(8, small), (7, large)]):
        assert paint(order, 3, 4).tolist() == [[7, 7, 7, 7], [7, 8, 8, 7], [7, 7, 7, 7]]
    assert paint([(IGNORED, crowd), (7, large)], 3, 4).tolist() == [[7] * 4] * 3
    assert paint([(IGNORED, large), (5, speck)], 3, 4)[2].tolist() == [IGNORED, IGNORED, IGNORED, 5]
    assert paint([(1, small), (2, small)], 3, 4)[1].tolist() == [0, 2, 2, 0]
    assert paint([], 2, 2).tolist() == [[0, 0], [0, 0]]


def test_labels_of_objects() -> None:
    labels = object_labels(["leaf", "bug", "leaf", "Background"])
    assert labels.names == ("background", "leaf", "bug")
    assert labels.encode(np.array([[0, 1, 2, IGNORED]], np.uint16)).tolist() == [[0, 1, 2, 255]]
    assert labels.unknown_values(np.array([[3, 255]], np.uint16)) == {3: 1, 255: 1}
    with pytest.raises(LabelError):
        object_labels([])


def test_run_lengths_of_another_program() -> None:
    assert decode_runs(unpack_runs(RUNS), 7, 9).astype(int).tolist() == RUN_MASK.tolist()
    assert decode_runs([1, 2, 3], 3, 2).tolist() == [[False, False], [True, False], [True, False]]


def packed(runs: list[int]) -> str:
    """COCO's text for run lengths."""
    text = ""
    for place, run in enumerate(runs):
        number = run - (runs[place - 2] if place > 2 else 0)
        while True:
            code, number = number & 31, number >> 5
            done = number == (-1 if code & 16 else 0)
            text += chr(48 + (code if done else code | 32))
            if done:
                break
    return text


@few
@given(st.lists(st.integers(0, 10**6), max_size=12))
def test_packed_run_lengths_come_back(runs: list[int]) -> None:
    assert unpack_runs(packed(runs)) == runs


@pytest.mark.parametrize(
    ("text", "message"), [("?4\x00", "hold"), ("?4é", "hold"), ("o", "end inside"), ("o" * 40, "hold")]
)
def test_damaged_texts_of_run_lengths(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_runs(text)


@pytest.mark.parametrize("runs", [[3], [13], [20, -8], []])
def test_run_lengths_that_do_not_fit(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="run lengths add up"):
        decode_runs(runs, 3, 4)


# -- shapes of labelling tools ----------------------------------------------------------------------------------------


@few
@given(st.floats(-5, 15), st.floats(-5, 15), st.floats(0, 12))
def test_a_disc_is_the_pixels_whose_centres_are_inside(x: float, y: float, radius: float) -> None:
    region = disc(np.array([x, y]), radius, 8, 10)
    rows, columns = np.mgrid[:8, :10] + 0.5
    np.testing.assert_array_equal(drawn(region, 8, 10), (columns - x) ** 2 + (rows - y) ** 2 < radius**2)


@few
@given(st.integers(-6, 12), st.integers(-6, 12), st.integers(1, 5), st.integers(1, 5))
def test_a_bitmap_is_cut_off_at_the_borders(top: int, left: int, h: int, w: int) -> None:
    inside = np.ones((h, w), bool)
    wide = np.zeros((40, 40), np.uint16)
    wide[10 + top : 10 + top + h, 10 + left : 10 + left + w] = 1
    np.testing.assert_array_equal(drawn(bitmap_region(inside, top, left, 8, 10), 8, 10), wide[10:18, 10:20])


def test_rectangles_in_any_direction_and_holes() -> None:
    expected = np.zeros((8, 10), np.uint16)
    expected[2:6, 1:4] = 1
    for first, second in (((1, 2), (4, 6)), ((4, 6), (1, 2)), ((1, 6), (4, 2))):
        np.testing.assert_array_equal(drawn(rectangle(polygon(first, second), 8, 10), 8, 10), expected)
    hole = polygon((2, 3), (3, 3), (3, 9), (2, 9))  # partly beyond what it is cut out of
    expected[3:6, 2] = 0
    outer = polygon((1, 2), (4, 2), (4, 6), (1, 6))
    np.testing.assert_array_equal(drawn(region_of([outer], 8, 10, holes=[hole]), 8, 10), expected)


def test_a_stack_has_its_own_order() -> None:
    small, large = (rectangle(polygon((0, 0), (n, n)), 4, 4) for n in (2, 4))
    assert stack([(1, small), (2, large)], 4, 4).tolist() == [[2] * 4] * 4
    assert stack([(2, large), (IGNORED, small)], 4, 4)[0].tolist() == [IGNORED, IGNORED, 2, 2]


def test_an_outline_that_would_fill_memory() -> None:
    zigzag = polygon(*((k % 2, 4000 * (k % 2)) for k in range(5000)))
    with pytest.raises(ValueError, match="its edges cross"):
        region_of([zigzag], 4000, 2)
