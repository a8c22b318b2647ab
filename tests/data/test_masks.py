"""Mask files: what they store comes back as it is, and what is no mask is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from terrazzo.data.masks import MaskFile, class_of_stored, count_stored, read_mask, read_stored_mask
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def saved(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def gray_png(path: Path, depth: int, rows: list[bytes], width: int) -> Path:
    """Write a greyscale PNG of less than 8 bits, which Pillow itself cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "pgm"])
def test_8_bit_values_come_back(tmp_path: Path, suffix: str) -> None:
    stored = read_stored_mask(saved(tmp_path / f"m.{suffix}", VALUES))
    np.testing.assert_array_equal(stored.values, VALUES)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_values_come_back(tmp_path: Path, suffix: str) -> None:
    values = VALUES.astype(np.uint16) * 5000
    stored = read_stored_mask(saved(tmp_path / f"m.{suffix}", values)).values
    np.testing.assert_array_equal(stored, values)
    assert stored.dtype == np.uint16


def test_1_bit_is_0_and_1(tmp_path: Path) -> None:
    stored = read_stored_mask(saved(tmp_path / "m.png", VALUES > 5)).values
    np.testing.assert_array_equal(stored, (VALUES > 5).astype(np.uint8))


def test_2_and_4_bit_indices_are_not_spread_over_the_greys(tmp_path: Path) -> None:
    four = read_stored_mask(gray_png(tmp_path / "4.png", 4, [bytes([0x01, 0x2F])], 4)).values
    two = read_stored_mask(gray_png(tmp_path / "2.png", 2, [bytes([0b00011011])], 4)).values
    assert four.tolist() == [[0, 1, 2, 15]]
    assert two.tolist() == [[0, 1, 2, 3]]


def test_signed_and_whole_float_values_come_back(tmp_path: Path) -> None:
    signed = VALUES.astype(np.int32) - 3
    np.testing.assert_array_equal(read_stored_mask(saved(tmp_path / "s.tif", signed)).values, signed)
    floats = read_stored_mask(saved(tmp_path / "f.tif", VALUES.astype(np.float32))).values
    np.testing.assert_array_equal(floats, VALUES)
    assert floats.dtype.kind == "i"


def test_a_palette_is_left_alone(tmp_path: Path) -> None:
    image = Image.frombytes("P", (4, 3), VALUES.tobytes())
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(tmp_path / "m.png", transparency=3)
    stored = read_stored_mask(tmp_path / "m.png")
    np.testing.assert_array_equal(stored.values, VALUES)
    assert stored.has_palette


def test_colours_come_back_without_an_opaque_alpha(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    rgba = np.concatenate([rgb, np.full((3, 4, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_stored_mask(saved(tmp_path / "a.png", rgb)).values, rgb)
    np.testing.assert_array_equal(read_stored_mask(saved(tmp_path / "b.png", rgba)).values, rgb)


def test_refused(tmp_path: Path) -> None:
    rgb = np.zeros((8, 8, 3), np.uint8)
    cases = {
        "mask-lossy": [
            saved(tmp_path / "a.jpg", rgb),
            saved(tmp_path / "a.webp", rgb),
            saved(tmp_path / "jpeg_inside.tif", rgb, compression="jpeg"),
        ],
        "mask-mode": [
            saved(tmp_path / "alpha.png", np.zeros((8, 8, 4), np.uint8)),
            saved(tmp_path / "la.png", np.zeros((8, 8, 2), np.uint8)),
            saved(tmp_path / "half.tif", np.full((8, 8), 0.5, np.float32)),
            saved(tmp_path / "nan.tif", np.full((8, 8), np.nan, np.float32)),
            saved(tmp_path / "large.tif", np.full((8, 8), 1e20, np.float32)),
            saved(tmp_path / "negative.tif", np.full((8, 8), -1, np.float32)),
        ],
        "mask-damaged": [tmp_path / "missing.png", tmp_path / "empty.png", tmp_path / "page.png", tmp_path / "cut.png"],
    }
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.png").write_text("<html>not found</html>")
    whole = saved(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 9, (64, 64), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:500])
    for code, paths in cases.items():
        for path in paths:
            with pytest.raises(DatasetError) as caught:
                read_stored_mask(path)
            assert caught.value.code == code, path
            assert caught.value.message.startswith(f"{path}: ")
            assert caught.value.fix


def test_read_mask_names_the_file_and_the_values(tmp_path: Path) -> None:
    labels = LabelSpec.from_names(["a", "b"])
    path = saved(tmp_path / "m.png", np.array([[0, 1, 7], [7, 255, 1]], np.uint8))
    with pytest.raises(DatasetError, match=r"m\.png: .* 7 \(2 pixels\)") as caught:
        read_mask(MaskFile(path), labels)
    assert caught.value.code == "mask-values"


def test_read_mask_follows_the_map_and_the_colours(tmp_path: Path) -> None:
    mapped = LabelSpec.from_names(["a", "b"], id_map={10: 0, 20: 1, 0: "ignore"})
    assert read_mask(MaskFile(saved(tmp_path / "m.png", np.array([[0, 10, 20]], np.uint8))), mapped).tolist() == [
        [255, 0, 1]
    ]
    colors = LabelSpec.from_names(["a", "b"], colors={(9, 8, 7): 0, (1, 2, 3): 1})
    rgb = np.array([[[1, 2, 3], [9, 8, 7]]], np.uint8)
    assert read_mask(MaskFile(saved(tmp_path / "c.png", rgb)), colors).tolist() == [[1, 0]]


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
    )
)
def test_count_stored_counts_every_pixel(values: NDArray[Any]) -> None:
    counts = count_stored(values)
    assert counts == {value: int((values == value).sum()) for value in set(values.ravel().tolist())}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)), elements=st.integers(250, 255))
)
def test_count_stored_counts_every_colour(rgb: NDArray[np.uint8]) -> None:
    pixels = [tuple(color) for color in rgb.reshape(-1, 3).tolist()]
    assert count_stored(rgb) == {color: pixels.count(color) for color in set(pixels)}


def test_class_of_stored_covers_values_and_colours() -> None:
    labels = LabelSpec.from_names(["a", "b"], [(1, 1, 1), (2, 2, 2)], id_map={5: 1, 6: "ignore"})
    counts = {5: 1, 6: 1, -1: 1, 70000: 1, (2, 2, 2): 1, (0, 0, 0): 1, (9, 9, 9): 1}
    assert class_of_stored(counts, labels) == {
        5: 1, 6: 255, -1: None, 70000: None, (2, 2, 2): 1, (0, 0, 0): 255, (9, 9, 9): None,
    }  # fmt: skip
    assert class_of_stored({}, labels) == {}
