"""Resizing against Pillow: every filter gives its pixels, grey level for grey level."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from terrazzo.imaging.resize import Interpolation, resize_image

PILLOWS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
SIZES = st.tuples(st.integers(1, 80), st.integers(1, 80))


def noise(height: int, width: int, kind: str = "grey") -> NDArray[np.uint8]:
    """Grey levels, or black and white only: filters with negative weights overshoot there, and are clipped."""
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image if kind == "grey" else image // 128 * 255


def by_pillow(image: NDArray[np.uint8], size: tuple[int, int], interpolation: Interpolation) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(size[::-1], PILLOWS[interpolation]))


@settings(max_examples=300, deadline=None)
@given(SIZES, SIZES, st.sampled_from(list(PILLOWS)), st.sampled_from(["grey", "bw"]))
@example((1, 1), (7, 5), "lanczos", "grey")
@example((80, 1), (1, 80), "bicubic", "bw")
@example((72, 72), (60, 60), "bilinear", "grey")  # a hundredth of the values lie between two grey levels
def test_pillows_pixels(
    source: tuple[int, int], size: tuple[int, int], interpolation: Interpolation, kind: str
) -> None:
    image = noise(*source, kind)
    resized, expected = resize_image(image, size, interpolation, antialias=True), by_pillow(image, size, interpolation)
    assert resized.shape == expected.shape and resized.dtype == np.uint8
    # Bilinear enlarging is left to OpenCV.
    allowed = 1 if interpolation == "bilinear" and size[0] >= source[0] and size[1] >= source[1] else 0
    assert np.abs(resized.astype(int) - expected).max() <= allowed


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((1080, 1920), (384, 683)),
        ((1920, 1080), (683, 384)),
        ((1201, 90), (30, 91)),  # rows first
        ((3, 5000), (2, 37)),  # long filters
        ((2, 3001), (1, 1)),
        ((2, 3), (1, 4000)),
        ((1500, 1500), (1499, 1)),  # more than one strip
    ],
)
def test_pillows_pixels_of_large_images(source: tuple[int, int], size: tuple[int, int]) -> None:
    image = noise(*source)
    assert np.array_equal(resize_image(image, size, "bilinear", antialias=True), by_pillow(image, size, "bilinear"))


@pytest.mark.parametrize("interpolation", PILLOWS)
def test_parts_of_an_image_that_may_not_be_written(interpolation: Interpolation) -> None:
    image = noise(60, 90)
    image.setflags(write=False)
    part = image[5:50, 80:10:-2]
    expected = by_pillow(np.ascontiguousarray(part), (20, 18), interpolation)
    assert np.array_equal(resize_image(part, (20, 18), interpolation, antialias=True), expected)


def test_strips_of_any_height_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(101, 203)
    whole = resize_image(image, (37, 71), "bicubic", antialias=True)
    monkeypatch.setattr("terrazzo.imaging.resize.STRIP", 203 * 7)
    monkeypatch.setattr("terrazzo.imaging.resize.PRODUCT", 1)
    assert np.array_equal(resize_image(image, (37, 71), "bicubic", antialias=True), whole)


def test_an_image_of_the_size_is_returned_itself() -> None:
    image = noise(8, 9)
    assert resize_image(image, (8, 9), "bilinear", antialias=True) is image
