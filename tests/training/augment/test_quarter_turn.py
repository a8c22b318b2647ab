"""Random quarter turn: each turn by hand, and how often each comes."""

from __future__ import annotations

from collections import Counter

import numpy as np
from augmenting import context, labelled

from terrazzo.training.augment.quarter_turn import RandomQuarterTurn


def test_image_and_mask_turn_together_by_each_angle_alike() -> None:
    image, mask = labelled(3, 5, 0)
    turns = {np.rot90(mask, count).tobytes() + bytes(count % 2): count for count in range(4)}
    rng, drawn = np.random.default_rng(0), Counter[int]()
    for _ in range(2000):
        new_image, new_mask = RandomQuarterTurn(p=0.75)(image, mask, context(rng))
        np.testing.assert_array_equal(new_image[..., 0], new_mask)
        drawn[turns[new_mask.tobytes() + bytes(new_mask.shape != mask.shape)]] += 1
    assert set(drawn) == {0, 1, 2, 3}
    assert all(abs(count - 500) < 80 for count in drawn.values())  # four standard deviations
