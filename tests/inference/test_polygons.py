"""Polygons of a mask, filled again: each pixel lies in the polygon of its class and in no other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.errors import LabelError
from terrazzo.inference.polygons import Polygon
from terrazzo.inference.result import Segmentation
from terrazzo.labels.spec import LabelSpec

ABC = LabelSpec.from_names(["a", "b", "c"])


def filled(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside, by counting crossings."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, np.bool_)
    for ring in (polygon.outline, *polygon.holes):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (x0 == x1) != (y0 == y1)  # along the grid, and no corner twice
            inside ^= (min(y0, y1) < y) & (y < max(y0, y1)) & (x < x0)
    return inside


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 9999))
def test_filled_polygons_are_the_mask(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    again = np.full_like(mask, 255)
    polygons = Segmentation(mask, ABC).polygons()
    for polygon in polygons:
        inside = filled(polygon, mask.shape)
        assert inside.sum() == polygon.pixels
        assert (again[inside] == 255).all()
        again[inside] = polygon.index
    np.testing.assert_array_equal(again, mask)
    areas = sum(cv2.connectedComponents((mask == k).view(np.uint8), connectivity=4)[0] - 1 for k in range(3))
    assert len(polygons) == areas


def test_a_ring_has_a_hole_and_a_pixel_has_an_area() -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[2, 3] = 1
    around, within = Segmentation(mask, ABC).polygons()
    assert (around.name, around.pixels, within.name, within.pixels) == ("a", 29, "b", 1)
    assert around.outline.tolist() == [[0, 0], [6, 0], [6, 5], [0, 5]]
    assert [ring.tolist() for ring in around.holes] == [[[3, 2], [3, 3], [4, 3], [4, 2]]]
    assert within.outline.tolist() == [[3, 2], [4, 2], [4, 3], [3, 3]]
    document = within.to_geojson()
    assert document["properties"] == {"class": "b", "index": 1, "pixels": 1}
    assert document["geometry"]["coordinates"] == [[[3, 2], [4, 2], [4, 3], [3, 3], [3, 2]]]


def test_classes_and_sizes_are_chosen() -> None:
    mask = np.zeros((4, 9), np.uint8)
    mask[1:3, 1:3], mask[1, 7], mask[3, 5] = 1, 1, 2
    found = Segmentation(mask, ABC)
    assert [polygon.pixels for polygon in found.polygons("B")] == [4, 1]
    assert [polygon.pixels for polygon in found.polygons(["b", "c"], min_pixels=2)] == [4]
    with pytest.raises(LabelError, match="'d'"):
        found.polygons("d")
