"""Random affine: its four parts by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from augmenting import context, labelled

from terrazzo.training.augment.affine import RandomAffine


class Script:
    """A generator that draws the bound that is asked for: `low` or `high` for all of them."""

    def __init__(self, high: bool) -> None:
        self.high = high

    def random(self) -> float:
        return 0.0

    def uniform(self, low: float, high: float, size: int | None = None) -> Any:
        value = high if self.high else low
        return value if size is None else np.full(size, value)


def moved(high: bool, **values: Any) -> Any:
    image, mask = labelled(9, 11, 0)
    off: dict[str, Any] = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0), "shear": 0.0}
    result = RandomAffine(p=1.0, **{**off, **values})(image, mask, context(Script(high)))
    return mask, result


def test_all_off_changes_nothing() -> None:
    mask, (image, new_mask) = moved(True)
    np.testing.assert_array_equal(new_mask, mask)
    np.testing.assert_array_equal(image[..., 0], mask)


def test_a_shift_leaves_a_border_without_labels() -> None:
    mask, (image, new_mask) = moved(True, translate=0.34)  # 3.06 rows and 3.74 columns: to the nearest 3 and 4
    np.testing.assert_array_equal(new_mask[3:, 4:], mask[:-3, :-4])
    assert (new_mask[:3] == 255).all() and (new_mask[:, :4] == 255).all() and (image != 255).all()


def test_half_a_turn_is_a_rotation_about_the_middle_pixel() -> None:
    mask, (image, new_mask) = moved(True, degrees=180.0)
    np.testing.assert_array_equal(new_mask, mask[::-1, ::-1])
    np.testing.assert_array_equal(image[..., 0], mask[::-1, ::-1])


@pytest.mark.parametrize(("high", "direction"), [(True, 1), (False, -1)])
def test_a_shear_moves_rows_by_their_distance_from_the_middle(high: bool, direction: int) -> None:
    mask, (_, new_mask) = moved(high, shear=math.degrees(math.atan(1.0)))
    np.testing.assert_array_equal(new_mask[4], mask[4])
    for row in range(9):
        shift = direction * (row - 4)
        to, start = (slice(max(shift, 0), 11 + min(shift, 0)), slice(max(-shift, 0), 11 + min(-shift, 0)))
        np.testing.assert_array_equal(new_mask[row, to], mask[row, start])


def test_a_scale_of_one_half_has_every_second_pixel_and_nothing_around() -> None:
    mask, (_, new_mask) = moved(False, scale=(0.5, 2.0))
    np.testing.assert_array_equal(new_mask[2:7, 3:8], mask[::2, 1::2])  # about (4, 5)
    assert (new_mask[:2] == 255).all() and (new_mask[7:] == 255).all() and (new_mask[:, 8:] == 255).all()
