"""Areas that hold a share, and points to ask about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from terrazzo.interpret.measures import area_holding, level_holding, percent, share_within
from terrazzo.interpret.points import choose_points

SOME = arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 1e3, width=32))


def test_the_fullest_cells_are_counted_first() -> None:
    values = np.array([[1.0, 5.0], [3.0, 1.0]])
    assert [area_holding(values, share) for share in (0.5, 0.6, 0.8, 0.9, 1)] == [0.25, 0.5, 0.5, 0.75, 1]
    assert [level_holding(values, share) for share in (0.5, 0.8, 0.9)] == [5, 3, 1]
    assert area_holding(np.ones((10, 10)), 0.95) == 0.95
    assert area_holding(np.zeros((3, 3)), 0.5) == 0


@given(values=SOME, share=st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_the_area_holds_the_share_and_no_smaller_one_does(values: np.ndarray, share: float) -> None:
    area = area_holding(values, share)
    if not values.any():
        assert area == 0
        return
    count = round(area * values.size)
    descending = np.sort(values.astype(np.float64), axis=None)[::-1]
    assert descending[:count].sum() >= share * descending.sum() * (1 - 1e-9)
    assert descending[: count - 1].sum() < share * descending.sum() * (1 + 1e-9)
    assert level_holding(values, share) == descending[count - 1]


def test_the_share_within_a_distance() -> None:
    values = np.zeros((5, 5))
    values[2, 2], values[2, 4], values[0, 0] = 2, 1, 1
    np.testing.assert_allclose(share_within(values, (2.5, 2.5), np.array([0.5, 1.9, 2, 3])), [0.5, 0.5, 0.75, 1])


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100.0%"), (0.345, "34.5%"), (0.0026, "0.26%"), (0.00043, "0.043%"), (0, "0.000%")]
)
def test_small_shares_get_more_digits(share: float, text: str) -> None:
    assert percent(share) == text


def test_asks_at_the_centre_and_deep_inside_the_largest_classes() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:31, 50:71] = 4  # its middle is (60, 20)
    mask[59, 79] = 2  # too small to ask about
    first, background, square = choose_points(mask)
    assert first == (40, 30) and square == (60, 20)
    assert mask[background[1], background[0]] == 0 and background != first


@given(mask=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 9)))
@settings(max_examples=50, deadline=None)
def test_chosen_points_are_few_and_distinct_and_on_the_image(mask: np.ndarray) -> None:
    points = choose_points(mask)
    assert 1 <= len(points) == len(set(points)) <= 5
    assert all(0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] for x, y in points)
