"""Files that a decoder makes a picture of although they are not whole."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tiffs import tiff
from PIL import Image

from terrazzo.data.masks import read_stored_mask
from terrazzo.errors import DatasetError, ImageError
from terrazzo.imaging.read import read_image

IMAGE = np.kron(np.random.default_rng(0).integers(0, 256, (30, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
IMAGE += np.random.default_rng(1).integers(0, 16, IMAGE.shape, dtype=np.uint8)

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "jpeg progressive": ("JPEG", {"progressive": True}),
    "jpeg restarts": ("JPEG", {"restart_marker_rows": 1}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
    "tiff lzma": ("TIFF", {"compression": "lzma"}),
}
MOST_ACCEPTED = {  # of 20 files with 64 random bytes; all the others are refused every time
    "jpeg": 2,
    "jpeg progressive": 19,
    "jpeg restarts": 19,
    "webp lossless": 19,
    "tiff lzw": 2,
    "tiff jpeg": 6,
}


def encoded(kind: str, image: np.ndarray = IMAGE) -> bytes:
    format_, options = KINDS[kind]
    file = io.BytesIO()
    Image.fromarray(image).save(file, format_, **options)
    return file.getvalue()


def accepted(data: bytes) -> bool:
    try:
        read_image(data)
    except ImageError as error:
        assert error.code in ("image-damaged", "image-truncated", "image-corrupt", "image-frames"), error.code
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_preallocated_download_is_recognised(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded(kind)
    assert accepted(data)
    for part in range(2, 20):
        end = len(data) * part // 20
        assert not accepted(data[:end] + bytes(len(data) - end)), f"{part}/20 of it"
    assert capfd.readouterr() == ("", ""), "a decoder's own lines reach nobody"


@pytest.mark.parametrize("kind", KINDS)
def test_random_bytes_inside(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, passed = encoded(kind), 0
    for seed in range(20):
        draw = random.Random(seed)
        wrong = bytearray(data)
        at = draw.randrange(len(wrong) // 10, len(wrong) - 100)
        wrong[at : at + 64] = draw.randbytes(64)
        passed += accepted(bytes(wrong))
    assert passed <= MOST_ACCEPTED.get(kind, 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive", "jpeg restarts", "webp"])
def test_a_hole_in_the_middle(kind: str) -> None:
    data = encoded(kind, np.tile(IMAGE, (2, 2, 1)))
    for part in (3, 8, 15):
        at = len(data) * part // 20
        assert not accepted(data[:at] + bytes(2048) + data[at + 2048 :])


def test_a_jpeg_is_told_what_is_wrong_with_it() -> None:
    data = encoded("jpeg")
    restarts = bytearray(encoded("jpeg restarts"))
    first = restarts.index(b"\xff\xd0")
    del restarts[first : restarts.index(b"\xff\xd1")]
    middle = len(data) // 2
    for wrong, said in (
        (data[:middle] + bytes(len(data) - middle), "its end is empty"),
        (data[:middle] + b"\xff\xd9" + data[middle:], "end too early"),
        (data[:middle] + b"\xff\xc4" + data[middle:], "marker C4 is out of place"),
        (data[:-2] + data[-200:], "go on after the last pixel"),
        (bytes(restarts), "restart markers"),
    ):
        with pytest.raises(ImageError, match=said) as caught:
            read_image(wrong)
        assert caught.value.code == "image-damaged" and "again" in caught.value.fix


def test_what_may_follow_a_jpeg_is_no_damage() -> None:
    data = encoded("jpeg")
    expected = read_image(data)
    for harmless in (data + bytes(5000), data + data, data[:-2], data[:-2] + b"\xff\xff\xff\xd9"):
        np.testing.assert_array_equal(read_image(harmless), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (17, 33), (64, 64)])
@pytest.mark.parametrize("fill", ["photo", "black", "half"])
def test_whole_files_of_every_kind_pass(shape: tuple[int, int], fill: str) -> None:
    image = IMAGE[: shape[0], : shape[1]].copy()
    image[0 if fill == "black" else shape[0] // 2 if fill == "half" else shape[0] :] = 0
    for format_, options in [
        *[("JPEG", {"quality": q, "progressive": p, "optimize": p, "subsampling": s}) for q in (1, 75, 100)
          for p in (False, True) for s in (0, 2)],
        *[("WEBP", {"quality": q, "method": m, "lossless": whole}) for q in (0, 80) for m in (0, 6)
          for whole in (False, True)],
        *[("TIFF", {"compression": c}) for c in ("jpeg", "tiff_adobe_deflate", "packbits", "zstd")],
    ]:  # fmt: skip
        file = io.BytesIO()
        Image.fromarray(image).save(file, format_, **options)
        assert read_image(file.getvalue()).shape == image.shape


def test_lines_of_libtiff_are_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded("tiff lzw"))
    data[2000:2064] = random.Random(1).randbytes(64)
    with pytest.raises(ImageError):
        read_image(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["png", "tiff deflate", "tiff lzw"])
def test_damaged_masks_are_refused_alike(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mask = np.random.default_rng(0).integers(0, 5, (60, 80), dtype=np.uint8)
    data = encoded(kind, mask)
    (tmp_path / "mask").write_bytes(data)
    np.testing.assert_array_equal(read_stored_mask(tmp_path / "mask").values, mask)
    middle = len(data) // 2
    for wrong in (data[:middle] + bytes(len(data) - middle), data[:middle] + b"\x01" * 64 + data[middle + 64 :]):
        (tmp_path / "mask").write_bytes(wrong)
        with pytest.raises(DatasetError) as caught:
            read_stored_mask(tmp_path / "mask")
        assert caught.value.code == "mask-damaged"
    assert capfd.readouterr() == ("", "")


# -- JPEG, marker by marker -------------------------------------------------------------------------------------------


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """The marker and content of each segment up to the first scan, whose compressed data follow its header."""
    found, position = [], 2
    while True:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        found.append((marker, data[position + 4 : position + 2 + length]))
        position += 2 + length
        if marker == 0xDA:
            return [*found, (0, data[position:-2])]


def joined(parts: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(
        content if not marker else bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
        for marker, content in parts
    )
    return b"\xff\xd8" + body + b"\xff\xd9"


def grey_jpeg(shape: tuple[int, int], **options: Any) -> list[tuple[int, bytes]]:
    file = io.BytesIO()
    Image.fromarray(IMAGE[: shape[0], : shape[1], 0]).save(file, "JPEG", **options)
    return segments(file.getvalue())


def in_three_scans(height: int, width: int) -> list[tuple[int, bytes]]:
    """A sequential JPEG whose components are compressed one after the other, colour at half the size."""
    every = {"restart_marker_blocks": 3}
    half = -(-height // 2), -(-width // 2)
    parts = [grey_jpeg(shape, **every) for shape in ((height, width), half, half)]
    head = [(marker, content) for marker, content in parts[0] if marker in (0xDB, 0xC4, 0xDD)]
    frame = bytes([8]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([3])
    frame += b"".join(bytes([number, 0x22 if number == 1 else 0x11, 0]) for number in (1, 2, 3))
    scans = [
        part for number, each in enumerate(parts, 1) for part in ((0xDA, bytes([1, number, 0, 0, 63, 0])), each[-1])
    ]
    return [*head, (0xC0, frame), *scans]


def without_last_restart(data: bytes) -> bytes:
    at = max(data.rfind(bytes([0xFF, 0xD0 + number])) for number in range(8))
    return data[:at] + data[at + 2 :]


def test_scans_of_single_components_have_their_own_number_of_blocks() -> None:
    parts = in_three_scans(42, 75)
    assert read_image(joined(parts)).shape == (42, 75, 3)
    for scan in (-5, -3, -1):
        wrong = [*parts]
        wrong[scan] = (0, without_last_restart(parts[scan][1]))
        with pytest.raises(ImageError, match=r"it has \d+ restart markers, and should have"):
            read_image(joined(wrong))
    assert not accepted(joined([*parts[:-1], (0, parts[-1][1][:40])])), "the last scan is cut"


def test_restart_markers_are_counted_in_turn() -> None:
    parts = grey_jpeg((64, 64), restart_marker_blocks=4)
    data = parts[-1][1]
    assert accepted(joined(parts))
    renumbered = bytearray(data)
    for at in range(len(data) - 1):
        if data[at] == 0xFF and 0xD0 <= data[at + 1] < 0xD8:
            renumbered[at + 1] = 0xD0 + (data[at + 1] - 0xD0 + 1) % 8
    second = data.index(b"\xff\xd1")
    wrong = {
        "out of order": [*parts[:-1], (0, bytes(renumbered))],
        "are out of order": [*parts[:-1], (0, data[: second + 1] + b"\xd5" + data[second + 2 :])],
        "and should not": [part for part in parts if part[0] != 0xDD],
        "and should have 15": [*parts[:-1], (0, without_last_restart(data))],
    }
    for said, damaged in wrong.items():
        with pytest.raises(ImageError, match=said):
            read_image(joined(damaged))


def test_what_stands_between_the_segments_of_a_jpeg() -> None:
    data = encoded("jpeg")
    expected, frame = read_image(data), data.index(b"\xff\xc0")
    np.testing.assert_array_equal(read_image(data[:frame] + b"\xff" + data[frame:]), expected)  # a fill byte
    progressive = encoded("jpeg progressive")
    again = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 2)
    header = progressive[(at := progressive.index(b"\xff\xc2")) : at + 19]
    for wrong, said, code in (
        (data[:frame] + b"\0" + data[frame:], "something else between its segments", "image-damaged"),
        (data[:frame] + b"\xff\xd0" + data[frame:], "marker D0 is out of place", "image-damaged"),
        (progressive[:again] + header + progressive[again:], "marker C2 is out of place", "image-damaged"),
        (data[: frame + 2] + b"\0\1" + data[frame + 4 :], "the image", "image-truncated"),
        (data[: len(data) // 2], "ends inside", "image-truncated"),
    ):
        with pytest.raises(ImageError, match=said) as caught:
            read_image(wrong)
        assert caught.value.code in (code, "image-corrupt")
    sampling = bytearray(data)
    sampling[frame + 11] = 0  # samples of no size
    assert not accepted(bytes(sampling))


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True}, {"optimize": True, "quality": 5}])
def test_an_empty_picture_is_no_hole(options: dict[str, Any]) -> None:
    """In which zeros stand for blocks without change, thousands of bytes of them."""
    for image in (np.zeros((1500, 1500, 3), np.uint8), np.zeros((1500, 1500), np.uint8)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", **options)
        assert read_image(file.getvalue()).max() < 10


def test_damaged_exif_does_no_harm() -> None:
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0")
    assert read_image(file.getvalue()).shape == IMAGE.shape


# -- other formats ----------------------------------------------------------------------------------------------------


def test_later_frames_of_a_png_have_checksums_too() -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(frame) for frame in (IMAGE, IMAGE[::-1].copy())]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    data = bytearray(file.getvalue())
    np.testing.assert_array_equal(read_image(bytes(data), frame=1), IMAGE[::-1])
    data[data.index(b"fdAT") + 60] ^= 1
    with pytest.raises(ImageError) as caught:
        read_image(bytes(data), frame=1)
    assert caught.value.code == "image-damaged"


def test_a_webp_behind_a_chunk_of_odd_length() -> None:
    for lossless in (True, False):
        file = io.BytesIO()
        Image.fromarray(IMAGE).save(file, "WEBP", lossless=lossless, icc_profile=bytes(range(129)))
        data = file.getvalue()
        assert accepted(data) and Image.open(io.BytesIO(data)).size == (160, 120)
        assert not accepted(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def test_a_mask_may_be_a_webp_without_loss(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (20, 30), dtype=np.uint8)
    for lossless in (True, False):
        Image.fromarray(np.dstack([mask] * 3)).save(tmp_path / "mask.webp", lossless=lossless, exact=True)
        if lossless:
            np.testing.assert_array_equal(read_stored_mask(tmp_path / "mask.webp").values, mask)
        else:
            with pytest.raises(DatasetError):
                read_stored_mask(tmp_path / "mask.webp")


def tiff_of(image: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "TIFF", **options)
    return file.getvalue()


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_deflate"])
def test_checksums_of_deflated_strips(compression: str) -> None:
    one_strip = {278: 1200}
    image = np.tile(IMAGE[..., 0], (10, 6))  # 1.15 million bytes, more than are inflated at once
    data = bytearray(tiff_of(image, compression=compression, tiffinfo=one_strip))
    np.testing.assert_array_equal(read_image(bytes(data))[..., 0], image)
    with Image.open(io.BytesIO(data)) as opened:
        (offset,), (length,) = opened.tag_v2[273], opened.tag_v2[279]  # type: ignore[attr-defined]
    data[offset + length - 1] ^= 1
    assert not accepted(bytes(data))


def test_tiles_have_checksums_too() -> None:
    data = bytearray(tiff(IMAGE, tile=32, deflate=True))
    np.testing.assert_array_equal(read_image(bytes(data)), IMAGE)
    with Image.open(io.BytesIO(data)) as opened:
        offset, length = opened.tag_v2[324][3], opened.tag_v2[325][3]  # type: ignore[attr-defined]
    data[offset + length - 1] ^= 1
    assert not accepted(bytes(data))


def test_what_libtiff_reports_and_reads_all_the_same_is_damage(capfd: pytest.CaptureFixture[str]) -> None:
    drawn = IMAGE[..., 0] > 128
    data, refused = tiff_of(drawn, compression="group4"), 0
    np.testing.assert_array_equal(read_image(data)[..., 0] > 0, drawn)
    for seed in range(20):
        wrong = bytearray(data)
        wrong[300 + seed * 20 : 310 + seed * 20] = random.Random(seed).randbytes(10)
        refused += not accepted(bytes(wrong))
    assert refused == 20
    assert capfd.readouterr() == ("", "")


def test_palettes_of_8_and_16_bits_are_one() -> None:
    indices = Image.fromarray(IMAGE[..., 0] % 3)
    indices.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    file = io.BytesIO()
    indices.save(file, "TIFF")
    data = bytearray(file.getvalue())
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[IMAGE[..., 0] % 3]
    np.testing.assert_array_equal(read_image(bytes(data)), expected)
    start = data.index(np.array([10, 40, 70], "<u2") * 256)
    shorts = np.frombuffer(data, "<u2", 768, start) // 256
    data[start : start + 1536] = shorts.astype("<u2").tobytes()
    np.testing.assert_array_equal(read_image(bytes(data)), expected)


def test_many_samples_are_told_without_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ImageError, match="9 bands"):
        read_image(tiff(np.zeros((4, 6, 9), np.uint8), photometric=1, extra=(0,) * 8))
    assert not caplog.records
