"""Rows 1 to 20 of the list of bad inputs (6, huge images, has a path of its own), then the rest of the contract."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from terrazzo.errors import ImageError
from terrazzo.imaging.find_images import find_images
from terrazzo.imaging.read import image_size, read_image
from terrazzo.notes import TerrazzoWarning

SHARED = Path(__file__).parents[2] / "shared" / "data"
RED, BLUE, GREEN_KEY = (255, 0, 0), (0, 0, 255), (10, 200, 30)
# 10-pixel blocks of strong colours: compressible, and any grey filling shows
BLOCKS = np.kron(np.random.default_rng(0).integers(0, 256, (4, 5, 3)), np.ones((10, 10, 1))).astype(np.uint8)


def encoded(array: np.ndarray, format_: str, mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(file, format_, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, color: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def exif(orientation: int, kind: int = 3, order: str = "<") -> bytes:
    """The smallest EXIF with an orientation, as SHORT (3) or LONG (4)."""
    value = struct.pack(order + ("I" if kind == 4 else "HH"), *([orientation] if kind == 4 else [orientation, 0]))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, 1) + value + b"\0\0\0\0"


def refused(source: object, code: str, **options: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    return caught.value


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels may not be touched in this test."""

    def load(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


# --- rows 1 to 20 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lenient", [False, True], ids=["", "truncated-images-allowed-elsewhere"])
@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_row_01_truncated_is_refused(
    format_: str, options: dict[str, object], lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = encoded(BLOCKS, format_, **options)
    whole = read_image(data)
    refusals = []
    for length in range(1, len(data), max(len(data) // 150, 1)):
        try:
            part = read_image(data[:length])
        except ImageError as error:
            refusals.append(error.code)
        else:  # only what follows the last pixel is gone
            np.testing.assert_array_equal(part, whole)
            assert length > 0.9 * len(data)
    assert set(refusals) <= {"image-truncated", "image-corrupt", "image-format"}
    if format_ in ("JPEG", "PNG"):
        assert refusals.count("image-truncated") > 0.8 * len(refusals)


def test_row_01_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    data = encoded(BLOCKS, "JPEG")
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in refused(path, "image-truncated").message


def test_row_02_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "empty.png" in refused(tmp_path / "empty.png", "image-empty").message
    refused(b"", "image-empty")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF"])
def test_row_03_thin_images_keep_their_size(height: int, width: int, format_: str) -> None:
    array = np.full((height, width, 3), 200, np.uint8)
    data = encoded(array, format_)
    np.testing.assert_array_equal(read_image(data), array)
    assert image_size(data) == (height, width)


def test_row_04_30000_squared_in_69_bytes_is_refused_from_its_header(no_decoding: None) -> None:
    data = png(30000, 30000, 8, 2, b"\0")[:57] + bytes(12)
    assert len(data) == 69
    error = refused(data, "image-too-large")
    assert "30000 x 30000" in error.message


def test_row_05_13300_squared_png_is_refused_by_our_own_cap(no_decoding: None) -> None:
    data = png(13300, 13300, 1, 0, bytes((1 + (13300 + 7) // 8) * 13300))
    assert "tiles" in refused(data, "image-too-large").fix
    assert image_size(data) == (13300, 13300)


def test_row_05_the_cap_is_the_callers_to_set() -> None:
    data = encoded(BLOCKS, "PNG")
    refused(data, "image-too-large", max_pixels=BLOCKS.shape[0] * BLOCKS.shape[1] - 1)
    assert read_image(data, max_pixels=BLOCKS.shape[0] * BLOCKS.shape[1]).shape == BLOCKS.shape
    refused(BLOCKS, "image-too-large", max_pixels=100)


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "GIF", "PPM"])
def test_row_05_beyond_pillows_limits_no_warning_of_pillow_shows(
    format_: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # as if these 2000 pixels were 120 million
    warnings.simplefilter("always")
    assert read_image(encoded(BLOCKS, format_)).shape == BLOCKS.shape
    assert not recwarn.list


def test_row_07_cmyk_is_converted() -> None:
    inks = {(0, 255, 255, 0): RED, (255, 255, 0, 0): BLUE, (0, 0, 0, 255): (0, 0, 0), (0, 0, 0, 0): (255, 255, 255)}
    for ink, color in inks.items():
        for format_ in ("JPEG", "TIFF"):
            file = io.BytesIO()
            Image.new("CMYK", (16, 8), ink).save(file, format_)
            rgb = read_image(file.getvalue())
            assert rgb.shape == (8, 16, 3)
            assert np.abs(rgb.astype(int) - color).max() <= 3


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_row_08_16_bit_is_divided_by_256(format_: str) -> None:
    rgb = read_image(encoded(RAMP, format_))
    np.testing.assert_array_equal(rgb, np.stack([RAMP >> 8] * 3, -1))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_row_08_16_bit_colour_is_divided_by_256(suffix: str) -> None:
    deep = np.stack([RAMP, RAMP.T, RAMP[::-1]], -1)
    data = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(read_image(data), deep >> 8)
    if suffix == ".png":  # Pillow keeps 8 bits of it
        refused(data, "image-value-range", value_range=(0, 1000))
    else:
        expected = np.rint(np.clip(deep / 1000 * 255, 0, 255))
        np.testing.assert_array_equal(read_image(data, value_range=(0, 1000)), expected)


def test_row_08_a_stated_range_takes_the_place_of_the_rule() -> None:
    rgb = read_image(encoded(RAMP, "TIFF"), value_range=(1000, 3000))[..., 0].ravel()
    assert rgb[0] == rgb[1000] == 0 and rgb[3000] == rgb[65535] == 255 and rgb[2000] == 128
    refused(encoded(RAMP, "TIFF"), "image-value-range", value_range=(5, 5))


@pytest.mark.filterwarnings("ignore:.*comes out dark")
def test_row_08_big_endian_tiff_and_planar_layout() -> None:
    for mode, order, head in (("I;16", "<", b"II*\0"), ("I;16B", ">", b"MM\0*")):
        tags = [(256, 4, 1), (257, 4, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1)]
        tags += [(279, 4, 2), (284, 3, 2)]
        entries = b"".join(
            struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(order + ("I" if kind == 4 else "HH"), *values)
            for tag, kind, values in ((t, k, [v] if k == 4 else [v, 0]) for t, k, v in tags)
        )
        data = head + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + struct.pack(f"{order}H", 0x1234)
        assert data[122:] == struct.pack(f"{order}H", 0x1234), mode
        assert read_image(data).tolist() == [[[0x12] * 3]]


def test_row_09_hidden_colours_never_leak() -> None:
    hidden = np.zeros((2, 2, 4), np.uint8)
    hidden[..., 0] = 255  # red, wholly transparent
    hidden[0, 0, 3] = 255
    for format_ in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
        rgb = read_image(encoded(hidden, format_, **options))
        assert rgb[0, 0].tolist() == [255, 0, 0]
        assert (rgb.reshape(-1, 3)[1:] == 255).all(), "white unless told otherwise"
    rgb = read_image(hidden, background=(1, 2, 3))
    assert rgb[1, 1].tolist() == [1, 2, 3]
    assert read_image(Image.fromarray(hidden))[1, 1].tolist() == [255, 255, 255]


def test_row_09_half_transparent_is_a_mixture() -> None:
    half = np.array([[[0, 0, 0, 128]]], np.uint8)
    assert abs(int(read_image(half)[0, 0, 0]) - 127) <= 1


def test_row_09_grey_with_alpha() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA").save(file, "PNG")
    assert read_image(file.getvalue(), background=RED).tolist() == [[[7, 7, 7], [255, 0, 0]]]


@pytest.mark.parametrize(("format_", "transparency"), [("PNG", 1), ("PNG", bytes([255, 0])), ("GIF", 1)])
def test_row_09_palette_with_transparency(format_: str, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([*RED, *GREEN_KEY])
    file = io.BytesIO()
    image.save(file, format_, transparency=transparency)
    assert read_image(file.getvalue(), background=BLUE).tolist() == [[list(RED), list(BLUE)]]


@pytest.mark.filterwarnings("ignore:.*comes out dark")
@pytest.mark.parametrize(
    ("depth", "color", "key", "row"),
    [
        (1, 0, (1,), b"\x40"),
        (2, 0, (1,), b"\x10"),
        (4, 0, (1,), b"\x01"),
        (8, 0, (9,), b"\0\x09"),
        (16, 0, (0x0503,), b"\0\0\x05\x03"),
        (8, 2, GREEN_KEY, bytes([0, 0, 0, *GREEN_KEY])),
        (16, 2, (0x501, 0x602, 0x703), bytes([0, 0, 0, 0, 0, 0, 5, 1, 6, 2, 7, 3])),
    ],
)
def test_row_09_a_transparent_key_colour_at_every_depth(
    depth: int, color: int, key: tuple[int, ...], row: bytes
) -> None:
    data = png(2, 1, depth, color, b"\0" + row, before=chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    assert read_image(data, background=(11, 12, 13)).tolist() == [[[0, 0, 0], [11, 12, 13]]]


FRAMES = [np.full((6, 8, 3), value, np.uint8) for value in (10, 120, 240)]


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_row_10_several_frames_need_a_choice(format_: str, recwarn: pytest.WarningsRecorder) -> None:
    options = {"lossless": True} if format_ == "WEBP" else {}
    more = [Image.fromarray(frame) for frame in FRAMES[1:]]
    data = encoded(FRAMES[0], format_, save_all=True, append_images=more, **options)
    assert "3 frames" in refused(data, "image-frames").message
    for i, frame in enumerate(FRAMES):
        np.testing.assert_array_equal(read_image(data, frame=i), frame)
    refused(data, "image-frames", frame=3)
    refused(data, "image-frames", frame=-1)
    assert image_size(data) == (6, 8)
    assert not recwarn.list


def test_row_10_one_frame_is_frame_0() -> None:
    data = encoded(FRAMES[1], "PNG")
    np.testing.assert_array_equal(read_image(data, frame=0), FRAMES[1])
    refused(data, "image-frames", frame=1)


def test_row_10_reduced_copies_and_phone_extras_are_no_pages() -> None:
    overview = TiffImagePlugin.ImageFileDirectory_v2()
    overview[254] = 1
    small = Image.fromarray(FRAMES[1][::2, ::2])
    small.encoderinfo = {"tiffinfo": overview}
    data = encoded(FRAMES[0], "TIFF", save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_image(data), FRAMES[0])
    file = io.BytesIO()
    Image.fromarray(BLOCKS).save(file, "MPO", save_all=True, append_images=[Image.fromarray(FRAMES[2])])
    assert read_image(file.getvalue()).shape == BLOCKS.shape


def test_row_10_an_open_image_stands_at_its_frame() -> None:
    data = encoded(FRAMES[0], "TIFF", save_all=True, append_images=[Image.fromarray(FRAMES[1])])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        np.testing.assert_array_equal(read_image(image), FRAMES[1])


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of stored rows, from the EXIF standard: where row 0 and column 0 belong."""
    a = array.swapaxes(0, 1) if orientation >= 5 else array
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    return a[:, ::-1] if orientation in (2, 3, 6, 7) else a


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_row_11_orientation_is_what_the_viewer_shows(orientation: int, format_: str) -> None:
    options = {"lossless": True} if format_ == "WEBP" else {"quality": 100} if format_ == "JPEG" else {}
    plain = read_image(encoded(BLOCKS, format_, **options))
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encoded(BLOCKS, format_, exif=tags, **options)
    rgb = read_image(data)
    np.testing.assert_array_equal(rgb, turned(plain, orientation))
    assert image_size(data) == rgb.shape[:2]
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(rgb, np.asarray(ImageOps.exif_transpose(image)))
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(read_image(image), rgb)


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_row_11_orientation_after_the_pixels_of_a_png(kind: int, order: str) -> None:
    data = png(2, 1, 8, 0, b"\0\x01\x02", after=chunk(b"tIME", bytes(7)) + chunk(b"eXIf", exif(6, kind, order)))
    assert image_size(data) == (2, 1)
    assert read_image(data)[:, 0, 0].tolist() == [1, 2]


def test_row_11_damaged_exif_is_as_stored(recwarn: pytest.WarningsRecorder) -> None:
    for damaged in (exif(6)[:-9], exif(99), b"II*\0" + b"\xff" * 9, b"nonsense"):
        data = encoded(BLOCKS, "JPEG", exif=b"Exif\0\0" + damaged)
        assert read_image(data).shape == BLOCKS.shape
        assert image_size(data) == BLOCKS.shape[:2]
    assert not recwarn.list


def test_row_12_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(encoded(BLOCKS, "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "really.jpg"), BLOCKS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\xef\xbb\xbf\n  <HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"Not found", "text, beginning 'not found'"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x00\x01\x02\x03random", "unknown"),
    ],
)
def test_row_13_a_web_page_named_jpg_is_called_so(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    error = refused(tmp_path / "photo.jpg", "image-format")
    assert says in error.message and "photo.jpg" in error.message


def test_row_14_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "image-directory")


def test_row_15_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(BLOCKS, "PNG"))

    def forbidden(file: object) -> io.FileIO:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(io, "FileIO", forbidden)  # the superuser, who often runs tests, may read anything
    assert "Permission denied" in refused(path, "image-unreadable").message


def test_row_15_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "no.png", tmp_path / "no" / "no.png", "a\0b.png"):
        refused(path, "image-missing")
    assert "download" in refused("https://example.org/a.jpg", "image-missing").fix


def test_row_16_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    try:
        with open(folder + b"/caf\xe9.png", "wb") as file:
            file.write(encoded(BLOCKS, "PNG"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    path = Path(os.fsdecode(folder + b"/caf\xe9.png"))
    np.testing.assert_array_equal(read_image(path), BLOCKS)
    assert find_images(tmp_path) == [path]
    path.write_bytes(b"")
    refused(path, "image-empty").message.encode("utf-8")  # the message can be printed


@pytest.mark.parametrize("value", [0.5, np.nan, 1e30])
def test_row_17_float_is_refused_without_a_range(value: float) -> None:
    array = np.full((4, 5), 0.25, np.float32)
    array[0, 0] = value
    data = encoded(array, "TIFF")
    assert "value_range" in refused(data, "image-value-range").fix
    refused(array, "image-value-range")
    for source in (data, array):
        rgb = read_image(source, value_range=(0, 1), background=(9, 8, 7))
        assert (rgb[1:] == 64).all()
        expected = {0.5: [128] * 3, 1e30: [255] * 3}.get(value, [9, 8, 7])
        assert rgb[0, 0].tolist() == expected


def test_row_17_signed_and_32_bit_are_refused_without_a_range() -> None:
    data = encoded(np.full((2, 2), -5, np.int32), "TIFF")
    refused(data, "image-value-range")
    assert (read_image(data, value_range=(-10, 0)) == 128).all()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypisom", "video"),
        (b"PK\3\4", "ZIP"),
        (b"\0\0\1\0\1\0", "ICO"),
    ],
)
def test_row_18_not_on_the_list_of_formats(content: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    assert name in refused(content + bytes(100), "image-format").message


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_row_19_png_text_bomb(where: str, kind: bytes) -> None:
    bomb = zlib.compress(bytes(16 << 20))
    text = b"Comment\0\0" + bomb if kind == b"zTXt" else b"Comment\0\1\0\0\0" + bomb
    error = refused(png(1, 1, 8, 0, b"\0\0", **{where: chunk(kind, text)}), "image-corrupt")
    assert "large" in error.message


def test_row_20_pipes_devices_and_circles_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "image-not-a-file")
    if Path("/dev/zero").exists():
        refused("/dev/zero", "image-not-a-file")
        (tmp_path / "link.jpg").symlink_to("/dev/zero")
        refused(tmp_path / "link.jpg", "image-not-a-file")
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert "circle" in refused(tmp_path / "a.png", "image-not-a-file").message
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        server.bind("s.png")
        refused("s.png", "image-not-a-file")


# --- the rest of the contract -----------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_array(tmp_path: Path) -> None:
    data = encoded(BLOCKS, "PNG")
    path = tmp_path / "blocks.png"
    path.write_bytes(data)
    with Image.open(path) as image:
        for source in (path, str(path), data, image, BLOCKS):
            rgb = read_image(source)
            np.testing.assert_array_equal(rgb, BLOCKS)
            assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous and rgb.flags.writeable


@pytest.mark.parametrize("shape", [(700, 401), (3, 140_000), (140_000, 3)])
def test_large_images_arrive_whole(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(encoded(array, "PPM")), array)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "LAB", "CMYK"])
def test_every_common_mode_is_read(mode: str) -> None:
    file = io.BytesIO()
    image = Image.new("LAB", (5, 4), (128, 128, 128)) if mode == "LAB" else Image.fromarray(BLOCKS).convert(mode)
    image.save(file, "TIFF")
    rgb = read_image(file.getvalue())
    assert rgb.shape == (image.height, image.width, 3)
    if mode not in ("LAB", "YCbCr"):
        np.testing.assert_array_equal(rgb, np.asarray(image.convert("RGB")))


def test_plain_text_ppm_is_read_to_its_last_digit() -> None:
    assert read_image(b"P2 2 1 255 7 9").tolist() == [[[7] * 3, [9] * 3]]
    refused(b"P2 2 2 255 7 9", "image-truncated")


def test_arrays() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(read_image(grey), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(read_image(grey.astype(np.uint16) << 8), np.stack([grey] * 3, -1))
    for wrong in (grey[0], np.zeros((2, 2, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((2, 2), bool)):
        refused(wrong, "image-array")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_hostile_bytes_give_an_image_or_an_image_error(format_: str, data: st.DataObject) -> None:
    """Whatever is flipped, put in or cut out."""
    content = bytearray(encoded(BLOCKS, format_))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "insert", "cut"])):
            case "flip":
                content[at] = data.draw(st.integers(0, 255))
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case _:
                del content[at : at + data.draw(st.integers(1, 8))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Invalid APNG")
        warnings.simplefilter("ignore", TerrazzoWarning)  # what is remarkable about such an image
        try:
            rgb = read_image(bytes(content), max_pixels=1_000_000)
        except ImageError as error:
            assert error.code.startswith("image-")
        else:
            assert rgb.ndim == 3 and rgb.dtype == np.uint8


def test_nothing_of_pillow_is_changed() -> None:
    script = (
        "import numpy\nfrom PIL import Image, ImageFile\n"
        "before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)\n"
        "import warnings; filters = list(warnings.filters)\n"
        "from terrazzo.imaging.read import read_image; read_image(b'P2 1 1 255 7')\n"
        "assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)\n"
        "assert filters == warnings.filters\n"
        "import sys; assert 'torch' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_find_images_sorts_as_people_count_and_skips_what_is_hidden(tmp_path: Path) -> None:
    names = ["img10.jpg", "img2.jpg", "IMG1.PNG", "img002b.jpg", "sub/a.tif", "notes.txt", ".hidden.jpg", ".git/x.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)]
    assert found == ["IMG1.PNG", "img2.jpg", "img002b.jpg", "img10.jpg", "sub/a.tif"]


def test_find_images_takes_files_folders_and_patterns_once(tmp_path: Path) -> None:
    for name in ("a[1].jpg", "b.jpg", "c.dat", "d/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path / "c.dat", str(tmp_path / "*.jpg"), tmp_path]) == [
        tmp_path / name for name in ("c.dat", "a[1].jpg", "b.jpg", "d/e.png")
    ]
    assert find_images(str(tmp_path / "a[1].jpg")) == [tmp_path / "a[1].jpg"]
    assert find_images([str(tmp_path / "**" / "*.png")]) == [tmp_path / "d" / "e.png"]


def test_find_images_keeps_bad_ones_to_be_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_images([tmp_path]) == [tmp_path / "broken.jpg"]


@pytest.mark.parametrize(
    ("name", "code"), [("", "image-none-found"), ("*.jpg", "image-none-found"), ("x", "image-missing")]
)
def test_find_images_finding_nothing_is_an_error(name: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        find_images([tmp_path / name])
    assert caught.value.code == code


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared development data")
def test_real_files_are_read() -> None:
    assert read_image(SHARED / "photos" / "china.jpg").shape == (427, 640, 3)
    with pytest.warns(TerrazzoWarning, match="--value-range 0,8191"):
        assert read_image(SHARED / "geo" / "spacenet_pan_uint16_utm16n.tif").shape == (900, 900, 3)
