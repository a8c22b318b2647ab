"""The PNG writer against two independent decoders."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from terrazzo.imaging import png
from terrazzo.imaging.png import encode_png


def decoded_by_pillow(data: bytes) -> NDArray[np.generic]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def decoded_by_opencv(data: bytes) -> NDArray[np.generic]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kind=st.sampled_from(["grey", "grey16", "rgb", "indexed"]),
    smooth=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_decoders_read_back_every_pixel(height: int, width: int, kind: str, smooth: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (height, width, 3) if kind == "rgb" else (height, width)
    top = 65536 if kind == "grey16" else 256
    pixels = rng.integers(0, top, shape, dtype=np.uint16 if kind == "grey16" else np.uint8)
    if smooth:
        pixels = np.sort(pixels, axis=0)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    data = encode_png(pixels, palette if kind == "indexed" else None)
    np.testing.assert_array_equal(decoded_by_pillow(data), pixels)
    np.testing.assert_array_equal(decoded_by_opencv(data), palette[pixels] if kind == "indexed" else pixels)


@pytest.mark.parametrize("strip_bytes", [1, 100, 1000])
def test_strips_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, strip_bytes: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 30, 3), dtype=np.uint8)
    whole = encode_png(pixels)
    monkeypatch.setattr(png, "STRIP_BYTES", strip_bytes)
    np.testing.assert_array_equal(decoded_by_opencv(encode_png(pixels)), pixels)
    np.testing.assert_array_equal(decoded_by_opencv(whole), pixels)


def test_an_indexed_png_shows_its_palette_and_keeps_its_indices() -> None:
    mask = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(mask, palette))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), mask)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[mask])


@pytest.mark.parametrize("view", [np.s_[::2, ::3], np.s_[::-1, :], np.s_[:, ::-1], np.s_[5:9, 7:8]])
def test_views_of_arrays(view: tuple[slice, slice]) -> None:
    pixels = np.random.default_rng(1).integers(0, 60000, (20, 30), dtype=np.uint16)[view]
    np.testing.assert_array_equal(decoded_by_opencv(encode_png(pixels)), pixels)


def test_masks_are_small() -> None:
    mask = np.zeros((1080, 1920), dtype=np.uint8)
    mask[300:700, 500:1500] = 7
    assert len(encode_png(mask)) < 10_000
