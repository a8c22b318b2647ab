"""Photos whose stored values mean other colours than they seem to: inverted, far from sRGB, transparent, raw."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from terrazzo.errors import ImageError
from terrazzo.imaging.read import image_size, read_image
from terrazzo.notes import TerrazzoWarning

GRAY = np.random.default_rng(5).integers(0, 256, (20, 30), dtype=np.uint8)
RGB = np.random.default_rng(6).integers(0, 256, (20, 30, 3), dtype=np.uint8)
PRIMARIES = {  # X, Y and Z of red, green and blue under D50, and the gamma
    "srgb": ((0.436, 0.222, 0.014, 0.385, 0.717, 0.097, 0.143, 0.061, 0.714), 2.2),
    "display-p3": ((0.515, 0.241, -0.001, 0.292, 0.692, 0.042, 0.157, 0.067, 0.784), 2.2),
    "prophoto": ((0.798, 0.288, 0.0, 0.135, 0.712, 0.0, 0.031, 0.0, 0.825), 1.8),
    "linear": ((0.436, 0.222, 0.014, 0.385, 0.717, 0.097, 0.143, 0.061, 0.714), 1.0),
}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tagged(array: np.ndarray, tags: dict[int, int | tuple[int, ...]]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    return encoded(Image.fromarray(array), "TIFF", tiffinfo=info)


def profile(name: str) -> bytes:
    """Write an ICC profile of three primaries and a gamma."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    xyz, gamma = PRIMARIES[name]
    tags = {key: b"XYZ \0\0\0\0" + fixed(*xyz[3 * i : 3 * i + 3]) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"wtpt": b"XYZ \0\0\0\0" + fixed(0.964, 1, 0.825)}
    head = bytearray(128)
    head[8:24], head[36:40], head[68:80] = b"\x02\x10\0\0mntrRGB XYZ ", b"acsp", fixed(0.964, 1, 0.825)
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value
    content = bytes(head) + table + body
    return struct.pack(">I", len(content)) + content[4:]


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


def test_16_bits_that_count_from_white() -> None:
    stored = ~(GRAY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tagged(stored, {262: 0}))[..., 0], GRAY)
    # With a range, it is the stored values that are black and white.
    ranged = read_image(tagged(stored, {262: 0}), value_range=(0, 65535))
    np.testing.assert_array_equal(ranged[..., 0], 255 - GRAY)


def test_a_palette_of_8_bits_in_a_tiff_is_not_black() -> None:
    levels = tuple(range(256))
    of_16_bits = tuple(257 * level for level in levels)
    for palette in (levels, of_16_bits):
        file = bytearray(encoded(Image.fromarray(GRAY).convert("P"), "TIFF"))
        where = file.find(struct.pack("<HHI", 320, 3, 768))
        (offset,) = struct.unpack_from("<I", file, where + 8)
        struct.pack_into("<768H", file, offset, *(3 * palette))
        np.testing.assert_array_equal(read_image(bytes(file))[..., 1], GRAY)


@pytest.mark.parametrize(
    "tags", [{254: 1, 330: (4000,)}, {50706: (1, 4, 0, 0)}, {262: 32803}], ids=["preview", "dng", "mosaic"]
)
def test_raw_files_of_cameras_are_not_taken_for_their_preview(tags: dict[int, int]) -> None:
    file = tagged(GRAY, tags)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match="camera's raw file") as caught:
            read(file)
        assert caught.value.code == "image-format" and "develop" in caught.value.fix


def test_numbers_of_64_bits_are_called_so() -> None:
    file = bytearray(tagged(np.zeros((4, 5), np.float32), {339: 3}))
    file[file.find(struct.pack("<HHI", 258, 3, 1)) + 8] = 64
    with pytest.raises(ImageError, match="floating-point numbers of 64 bits") as caught:
        read_image(bytes(file))
    assert "Float32" in caught.value.fix


def test_a_image_that_is_transparent_all_over_is_told() -> None:
    hidden = Image.fromarray(np.dstack([RGB, np.zeros((20, 30), np.uint8)]))
    for kind in ("PNG", "TIFF"):
        with pytest.warns(TerrazzoWarning, match="all of its pixels are transparent.* --bands 1,2,3"):
            assert read_image(encoded(hidden, kind)).min() == 255
        np.testing.assert_array_equal(read_image(encoded(hidden, kind), bands=(1, 2, 3)), RGB)


@pytest.mark.parametrize("name", PRIMARIES)
def test_a_colour_profile_far_from_srgb_is_told(name: str) -> None:
    file = encoded(Image.fromarray(RGB), "PNG", icc_profile=profile(name))
    if name in ("prophoto", "linear"):
        with pytest.warns(TerrazzoWarning, match="colour profile is far from sRGB"):
            np.testing.assert_array_equal(read_image(file), RGB)
    else:
        np.testing.assert_array_equal(read_image(file), RGB)


def test_a_gamma_far_from_srgb_is_told() -> None:
    png = encoded(Image.fromarray(RGB), "PNG")
    linear, usual = (with_chunk(png, b"gAMA", struct.pack(">I", value)) for value in (100_000, 45_455))
    with pytest.warns(TerrazzoWarning, match="gamma of 1 is far"):
        read_image(linear)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(usual)
        read_image(with_chunk(linear, b"sRGB", b"\0"))


def test_a_damaged_profile_or_one_for_other_pixels_is_passed_over() -> None:
    for broken in (b"x", profile("prophoto")[:150], profile("prophoto")[:-40]):
        read_image(encoded(Image.fromarray(RGB), "PNG", icc_profile=broken))
    read_image(encoded(Image.fromarray(GRAY), "PNG", icc_profile=profile("prophoto")))
