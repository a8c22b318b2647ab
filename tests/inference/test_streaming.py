"""An image that is read and written in bands of rows has the mask of the same image in memory, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

import terrazzo
from terrazzo.data.sources.array import ArraySource
from terrazzo.data.sources.source import Source
from terrazzo.engines.engine import Engine
from terrazzo.errors import ConfigError, ImageError
from terrazzo.inference import legend, pipeline, protocols, result, scratch, streaming
from terrazzo.inference.overlay import Style
from terrazzo.inference.predict_folder import predict_folder
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.inference.streaming import Streamed
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess

AB = LabelSpec.from_names(["a", "b", "c"])
PLAIN = Preprocess(mean=(0, 0, 0), std=(255, 255, 255))


@dataclass
class Formula:
    """An image of any size that exists nowhere: each window is computed when it is asked for."""

    size: tuple[int, int]
    name: str = "formula"
    has_windows: bool = True
    bands: tuple[int, ...] = (1, 2, 3)
    about: Mapping[str, Any] = field(default_factory=lambda: {"nodata": 0})
    rows_read: int = 0

    def read(self) -> NDArray[np.uint8]:
        return self.read_window(slice(0, self.size[0]), slice(0, self.size[1]))

    def read_window(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        self.rows_read += rows.stop - rows.start
        y = np.arange(rows.start, rows.stop, dtype=np.uint32)[:, None]
        x = np.arange(columns.start, columns.stop, dtype=np.uint32)
        window = np.empty((y.size, x.size, 3), np.uint8)
        for band, (a, b) in enumerate(((7, 3), (5, 11), (3, 13))):
            window[..., band] = (a * (y >> 4) + b * (x >> 4) + (y * x >> 9)) & 255
        return window


def convolution(step: int = 4, num_classes: int = 3) -> Engine:
    weight = torch.randn(num_classes, 3, 5, 5, generator=torch.Generator().manual_seed(1))

    def engine(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        return F.conv2d(torch.from_numpy(np.ascontiguousarray(images_B3HW)), weight, stride=step, padding=2).numpy()

    return engine


def cheap(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every sixteenth pixel's colours."""
    return np.ascontiguousarray(images_B3HW[..., ::16, ::16])


def in_bands(predictor: Predictor, source: Source) -> NDArray[np.generic]:
    return np.concatenate([band.mask for band in predictor.bands(source)])


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 90),
    window=st.integers(16, 64),
    share=st.floats(0.3, 1),
    step=st.sampled_from([1, 4, 16]),
    preprocess=st.sampled_from(
        [
            PLAIN,
            Preprocess(short_side=40, antialias=True),
            Preprocess(short_side=30, long_side=45, multiple_of=8, antialias=True, interpolation="bicubic"),
            Preprocess(size=(50, 37), antialias=True),
            Preprocess(short_side=40),  # OpenCV's filter, for which all of the image is read
        ]
    ),
    band_pixels=st.sampled_from([1, 700, 1 << 24]),
)
def test_bands_are_the_mask_of_the_array_bit_for_bit(
    height: int, width: int, window: int, share: float, step: int, preprocess: Preprocess, band_pixels: int
) -> None:
    source = Formula((height, width))
    image = source.read()
    for protocol in (Protocol("mine", window=window, stride=max(1, int(window * share))), WHOLE):
        predictor = Predictor(convolution(step), preprocess, AB, protocol=protocol)
        (expected,) = predictor.masks([image])
        with mock.patch.object(pipeline, "BAND_PIXELS", band_pixels):
            np.testing.assert_array_equal(in_bands(predictor, source), expected)
            np.testing.assert_array_equal(in_bands(predictor, ArraySource(image)), expected)


def test_rows_are_read_once_although_windows_overlap() -> None:
    source = Formula((1000, 40))
    predictor = Predictor(convolution(), PLAIN, AB, protocol=Protocol("mine", window=100, stride=60))
    in_bands(predictor, source)
    assert source.rows_read == 1000


def test_a_resized_image_is_read_in_strips() -> None:
    """Of its rows some are read twice, where the filter reaches from one strip into the next."""
    source = Formula((4000, 64))
    predictor = Predictor(convolution(), Preprocess(short_side=32, antialias=True), AB)
    in_bands(predictor, source)
    assert 4000 <= source.rows_read < 8000


KINDS = ("mask", "color", "overlay", "confidence")


@pytest.mark.parametrize("is_tall", [True, False])
def test_memory_does_not_grow_with_the_image(is_tall: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, most in (
        (scratch, "IN_MEMORY", 1 << 15),
        (scratch, "COMPRESSED_AT_ONCE", 1 << 15),
        (pipeline, "BAND_PIXELS", 1 << 15),
        (streaming, "OVERLAY_PIXELS", 1 << 15),
        (protocols, "PIXELS_AT_ONCE", 1 << 16),
    ):
        monkeypatch.setattr(module, name, most)
    monkeypatch.setattr(legend, "LARGEST_TEXT", 12)

    def peak(length: int) -> int:
        predictor = Predictor(cheap, PLAIN, AB, protocol=Protocol("mine", window=128, stride=96, blend="linear"))
        size = (length, 256) if is_tall else (256, length)
        streamed = Streamed(Formula(size), AB, predictor.bands)
        tracemalloc.start()
        streamed.write({kind: tmp_path / f"{length}_{kind}.png" for kind in KINDS}, overwrite=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2400)  # the axes are made once, and kept
    small, large = peak(600), peak(2400)
    assert large < small + 400_000  # a mask would be 460 kB more, and its image three times that


def test_the_first_bands_of_60000_by_40000_pixels_take_a_strip_of_memory() -> None:
    source = Formula((40_000, 60_000))
    predictor = Predictor(cheap, PLAIN, AB, protocol=Protocol("mine", window=64, stride=48))
    tracemalloc.start()
    bands = predictor.bands(source)
    first, second = next(bands).mask, next(bands).mask
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first.shape[1] == second.shape[1] == 60_000
    assert 64 + 48 <= source.rows_read <= 64 + 2 * 48  # the next strip may have been read ahead
    assert most < 150e6  # the image is 7,200 MB
    expected = Formula((112, 2000)).read().astype(np.float32)[::16, ::16].argmax(-1)
    corner = np.concatenate([first, second])[8:80:16, 8:1800:16]  # the pixels' centres lie half a step away
    assert (corner == expected[: corner.shape[0], : corner.shape[1]]).mean() > 0.6


@pytest.mark.slow
def test_60000_by_40000_pixels_go_from_file_to_file_in_constant_memory(tmp_path: Path) -> None:
    """2,400 million pixels: 7,200 MB as an image, 2,400 MB as a mask. It takes three minutes of a processor's time."""
    script = Path(__file__).with_name("gigapixel.py")
    command = [sys.executable, str(script), str(tmp_path), "40000", "60000", "mask,json"]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(done)
    assert done["pixels"] == 40_000 * 60_000
    assert done["peak_mb"] < 700
    with open(tmp_path / "out" / "scene_mask.png", "rb") as file:
        assert file.read(24)[16:] == (60_000).to_bytes(4, "big") + (40_000).to_bytes(4, "big")


# From file to file


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "scene.tif"
    Image.fromarray(Formula((150, 110)).read()).save(path, compression="tiff_adobe_deflate", strip_size=110 * 3 * 20)
    return path


SLIDE = Protocol("mine", window=32, stride=24)


def reading(pixels: int) -> Any:
    from terrazzo.imaging.read import ReadOptions

    return ReadOptions(max_pixels=pixels)


@pytest.mark.parametrize(("num_classes", "at_once"), [(3, 1 << 24), (300, 1 << 24), (3, 1500)])
def test_files_are_those_of_the_whole_image(
    num_classes: int, at_once: int, tiff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little at once, bands have a few rows, and what is put aside goes into temporary files."""
    monkeypatch.setattr(streaming, "OVERLAY_PIXELS", at_once)
    monkeypatch.setattr(pipeline, "BAND_PIXELS", at_once)
    monkeypatch.setattr(scratch, "IN_MEMORY", at_once)
    monkeypatch.setattr(scratch, "COMPRESSED_AT_ONCE", at_once)
    for module in (streaming, result):
        monkeypatch.setattr(module, "line_width", lambda size: 4)  # as of larger images
    labels = LabelSpec.from_names([f"class {n}" for n in range(num_classes)])
    predictor = Predictor(convolution(num_classes=num_classes), PLAIN, labels, "toy", SLIDE)
    kinds = ["mask", "color", "overlay", "cutout", "confidence", "entropy", "json"]
    style = Style(cutout=("class 1",))
    predict_folder(tiff, tmp_path / "whole", predictor, save=kinds, style=style)
    with pytest.warns(TerrazzoWarning, match=r"scene\.tif: 110 x 150 pixels are read and written in bands of rows$"):
        summary = predict_folder(tiff, tmp_path / "bands", predictor, save=kinds, style=style, reading=reading(10_000))
    assert not summary.failures
    (written,) = summary.written
    assert sorted(written.files) == sorted(kinds)
    for kind, path in written.files.items():
        expected = tmp_path / "whole" / path.name
        if kind == "json":
            one, other = (json.loads(p.read_text()) for p in (path, expected))
            assert one.pop("written_by") and other.pop("written_by") and one == other
        else:
            with Image.open(path) as one, Image.open(expected) as other:
                assert one.mode == other.mode and one.getpalette() == other.getpalette()
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    with pytest.warns(TerrazzoWarning, match="bands of rows"):  # they are known for results, and replaced
        assert predict_folder(tiff, tmp_path / "bands", predictor, save="mask", reading=reading(10_000)).written


def test_kinds_that_need_the_whole_image_are_left_out_and_told(tiff: Path, tmp_path: Path) -> None:
    predictor = Predictor(convolution(), PLAIN, AB, "toy", SLIDE)
    with pytest.warns(TerrazzoWarning, match="bands of rows, without probabilities$"):
        summary = predict_folder(tiff, tmp_path / "out", predictor, save="mask,probabilities", reading=reading(10_000))
    (written,) = summary.written
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene_mask.png"]
    assert sum(area.pixels for area in written.areas) == 150 * 110
    summary = predict_folder(tiff, tmp_path / "none", predictor, save="probabilities", reading=reading(10_000))
    (failure,) = summary.failures
    assert isinstance(failure.error, ConfigError) and "mask, color, overlay" in failure.error.fix


def test_predict_returns_the_mask_of_an_image_that_is_read_in_windows(tiff: Path) -> None:
    predictor = Predictor(convolution(), PLAIN, AB, "toy", SLIDE)
    expected = terrazzo.predict(tiff, predictor)
    result = terrazzo.predict(tiff, predictor, max_pixels=10_000)
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert expected.image is not None and result.image is None and result.path == tiff


def test_a_source_is_predicted_like_its_array() -> None:
    predictor = Predictor(convolution(), PLAIN, AB, "toy", SLIDE)
    source = Formula((70, 50))
    np.testing.assert_array_equal(
        terrazzo.predict(source, predictor).mask, terrazzo.predict(source.read(), predictor).mask
    )
    results = terrazzo.predict([source, source.read()], predictor)
    np.testing.assert_array_equal(results[0].mask, results[1].mask)


def test_protocols_that_need_the_whole_image_refuse_a_large_one(tiff: Path) -> None:
    for protocol in (WHOLE, Protocol("mine", short_side=40, window=32, stride=24), Protocol("two", ratios=(0.5, 1.0))):
        predictor = Predictor(convolution(), PLAIN, AB, "toy", protocol)
        with mock.patch("terrazzo.inference.protocols.MAX_PIXELS", 10_000), pytest.raises(ImageError) as caught:
            terrazzo.predict(tiff, predictor, max_pixels=10_000)
        assert caught.value.code == "image-too-large" and "--protocol slide" in caught.value.fix


def test_windows_are_not_advised_where_they_do_not_help(tiff: Path) -> None:
    enlarged = Preprocess(mean=PLAIN.mean, std=PLAIN.std, short_side=4000)  # by a filter that needs the whole image
    for preprocess, protocol in ((enlarged, WHOLE), (enlarged, SLIDE)):
        predictor = Predictor(convolution(), preprocess, AB, "toy", protocol)
        with pytest.raises(ImageError) as caught:
            terrazzo.predict(tiff, predictor, max_pixels=10_000)
        assert caught.value.code == "image-too-large"
        assert "slide" not in caught.value.fix and "cut it into tiles" in caught.value.fix
    masks = Predictor(convolution(), PLAIN, AB, "toy", WHOLE, output="mask")
    with pytest.raises(ImageError) as caught:
        terrazzo.predict(tiff, masks, max_pixels=10_000)
    assert "slide" not in caught.value.fix


def test_a_damaged_window_leaves_no_file(tiff: Path, tmp_path: Path) -> None:
    with Image.open(tiff) as image:
        start = image.tag_v2[273][5]  # type: ignore[attr-defined]
    data = bytearray(tiff.read_bytes())
    data[start + 4 : start + 14] = bytes(10)
    tiff.write_bytes(data)
    predictor = Predictor(convolution(), PLAIN, AB, "toy", SLIDE)
    with pytest.warns(TerrazzoWarning, match="bands of rows"):
        summary = predict_folder(tiff, tmp_path / "out", predictor, save="mask,json", reading=reading(10_000))
    (failure,) = summary.failures
    assert isinstance(failure.error, ImageError)
    assert "scene.tif: rows 80 to 120: " in failure.error.message and "damaged" in failure.error.message
    assert list((tmp_path / "out").iterdir()) == []
