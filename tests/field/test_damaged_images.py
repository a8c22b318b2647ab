"""Files that a decoder makes a picture of although they are not whole."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
