"""A TIFF read in windows has the pixels of the TIFF read as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from terrazzo.data.sources.image_file import ImageFile
from terrazzo.data.sources.source import Source
from terrazzo.errors import ImageError
from terrazzo.imaging import tiff_windows
from terrazzo.imaging.read import ReadOptions

H, W = 70, 90


def pixels(seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (H // 5, W // 5, 3), dtype=np.uint8)
    return np.repeat(np.repeat(noise, 5, axis=0), 5, axis=1)


def written(folder: Path, image: Image.Image, **options: object) -> Path:
    path = folder / "image.tif"
    image.save(path, **options)
    return path


KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "raw strips": ("RGB", {"strip_size": W * 3 * 7}),
    "deflate strips": ("RGB", {"compression": "tiff_adobe_deflate", "strip_size": W * 3 * 16}),
    "predictor": ("RGB", {"compression": "tiff_lzw", "strip_size": W * 3 * 9, "tiffinfo": {317: 2}}),
    "jpeg": ("RGB", {"compression": "jpeg", "strip_size": W * 3 * 16}),
    "jpeg ycbcr": ("YCbCr", {"compression": "jpeg", "strip_size": W * 3 * 16}),
    "palette": ("P", {"compression": "packbits", "strip_size": W * 5}),
    "grey": ("L", {"strip_size": W}),
    "bilevel": ("1", {"compression": "group4", "strip_size": 12 * 20}),
    "sixteen bits": ("I;16", {"strip_size": W * 2 * 10}),
    "transparent": ("RGBA", {"strip_size": W * 4 * 10}),
    "big": ("RGB", {"strip_size": W * 3 * 7, "big_tiff": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_strips(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, options = KINDS[kind]
    monkeypatch.setattr(tiff_windows, "RAW_STRIP", 2000)  # which Pillow writes as a single strip
    image = Image.fromarray(pixels())
    image = Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    source: Source = ImageFile(written(tmp_path, image, **options))
    assert source.has_windows and source.size == (H, W)
    whole = source.read()
    for rows, columns in ((slice(0, H), slice(0, W)), (slice(13, 47), slice(5, 89)), (slice(69, 70), slice(0, 1))):
        np.testing.assert_array_equal(source.read_window(rows, columns), whole[rows, columns])


def tiled(array: NDArray[np.generic], tile: tuple[int, int], *, planes: bool = False, endian: str = "<") -> bytes:
    """A tiled TIFF without compression, as aerial images come: Pillow writes strips only."""
    h, w = array.shape[:2]
    bands = 1 if array.ndim == 2 else array.shape[2]
    grid = -(-h // tile[0]), -(-w // tile[1])
    padded = np.zeros((grid[0] * tile[0], grid[1] * tile[1], bands), array.dtype)
    padded[:h, :w] = array.reshape(h, w, bands)
    stored = padded.astype(array.dtype.newbyteorder(endian))
    layers = [stored[..., [b]] for b in range(bands)] if planes else [stored]
    data, offsets, lengths = bytearray((b"II*\0" if endian == "<" else b"MM\0*") + bytes(4)), [], []
    for layer in layers:
        for y in range(grid[0]):
            for x in range(grid[1]):
                part = layer[y * tile[0] : (y + 1) * tile[0], x * tile[1] : (x + 1) * tile[1]].tobytes()
                offsets.append(len(data))
                lengths.append(len(part))
                data += part
    from terrazzo.imaging.bands import with_tags

    photometric = 2 if bands >= 3 else 1
    tags = [(256, 4, (w,)), (257, 4, (h,)), (258, 3, (8 * array.dtype.itemsize,) * bands), (259, 3, (1,))]
    tags += [(262, 3, (photometric,)), (277, 3, (bands,)), (284, 3, (2 if planes else 1,)), (322, 4, (tile[1],))]
    tags += [(323, 4, (tile[0],)), (324, 4, tuple(offsets)), (325, 4, tuple(lengths))]
    if bands > 3:
        tags.append((338, 3, (0,) * (bands - 3)))
    return with_tags(bytes(data), sorted(tags))


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile=st.sampled_from([(16, 16), (16, 32), (48, 16)]),
    kind=st.sampled_from(["rgb", "planes", "grey16", "five bands", "five planes"]),
    endian=st.sampled_from(["<", ">"]),
    at_once=st.sampled_from([1, 2000, 1 << 24]),
)
def test_tiles(
    data: st.DataObject,
    height: int,
    width: int,
    tile: tuple[int, int],
    kind: str,
    endian: str,
    at_once: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(height * 100 + width)
    shape = {"grey16": (height, width), "rgb": (height, width, 3), "planes": (height, width, 3)}
    array = rng.integers(0, 255, shape.get(kind, (height, width, 5)), dtype=np.uint8)
    if kind == "grey16":
        array = array.astype(np.uint16) * 200
    path = tmp_path_factory.getbasetemp() / "tiled.tif"
    path.write_bytes(tiled(array, tile, planes="planes" in kind, endian=endian))
    source = ImageFile(path, reading=ReadOptions(bands=(5, 1, 3) if "five" in kind else None))
    assert source.bands == ((5, 1, 3) if "five" in kind else (1, 2, 3))
    expected = source.read()
    if "five" in kind:
        np.testing.assert_array_equal(expected, array[..., [4, 0, 2]])
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows = slice(top, data.draw(st.integers(top + 1, height)))
    columns = slice(left, data.draw(st.integers(left + 1, width)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_windows, "AT_ONCE", at_once)
        np.testing.assert_array_equal(source.read_window(rows, columns), expected[rows, columns])


def test_a_file_without_windows_is_decoded_and_cropped(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(pixels()).save(path)
    turned = written(
        tmp_path, Image.fromarray(pixels()), compression="tiff_lzw", strip_size=W * 3 * 7, tiffinfo={274: 6}
    )
    single = tmp_path / "single.tif"
    Image.fromarray(pixels()).save(single, compression="tiff_lzw", strip_size=W * 3 * H)
    for file in (path, turned, single):
        source = ImageFile(file)
        assert not source.has_windows
        np.testing.assert_array_equal(source.read_window(slice(3, 9), slice(4, 5)), source.read()[3:9, 4:5])


def test_the_chosen_page_is_read(tmp_path: Path) -> None:
    pages = [Image.fromarray(pixels(seed)) for seed in (0, 1)]
    path = written(
        tmp_path,
        pages[0],
        save_all=True,
        append_images=[pages[1].crop((0, 0, 40, 50))],
        compression="tiff_lzw",
        strip_size=900,
    )
    with pytest.raises(ImageError) as caught:
        _ = ImageFile(path).has_windows
    assert caught.value.code == "image-frames"
    source = ImageFile(path, reading=ReadOptions(frame=1))
    assert source.size == (50, 40) and source.has_windows
    np.testing.assert_array_equal(source.read_window(slice(20, 50), slice(1, 4)), pixels(1)[20:50, 1:4])


def test_a_damaged_strip_names_its_rows(tmp_path: Path) -> None:
    path = written(tmp_path, Image.fromarray(pixels()), compression="tiff_adobe_deflate", strip_size=W * 3 * 10)
    with Image.open(path) as image:
        offsets = image.tag_v2[273]  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[offsets[3] + 4 : offsets[3] + 14] = bytes(10)
    path.write_bytes(data)
    source = ImageFile(path)
    source.read_window(slice(0, 30), slice(0, W))
    with pytest.raises(ImageError, match=r"image\.tif: rows 30 to 40: .*damaged"):
        source.read_window(slice(30, 40), slice(0, W))
