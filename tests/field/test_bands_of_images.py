"""Bands, transparency and depths: what a file does not say is asked for, and what was read is told."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from made_tiffs import tiff
from PIL import Image

from terrazzo.cli.main import main
from terrazzo.data.check import check_dataset
from terrazzo.errors import ImageError
from terrazzo.imaging.read import ReadOptions, image_size, read_image
from terrazzo.notes import TerrazzoWarning

H, W = 20, 30
BANDS = np.random.default_rng(3).integers(0, 256, (H, W, 6), dtype=np.uint8)


def refused(source: object, code: str, **options: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)
    return caught.value


def test_a_near_infrared_band_is_not_transparency() -> None:
    for data in (tiff(BANDS[..., :4], extra=(0,)), tiff(BANDS[..., :4])):  # unspecified; not even mentioned
        error = refused(data, "image-bands")
        assert "4 bands" in error.message and "--bands 1,2,3" in error.fix
        with pytest.raises(ImageError, match="4 bands"):
            image_size(data)
        np.testing.assert_array_equal(read_image(data, bands=(1, 2, 3)), BANDS[..., :3])
        np.testing.assert_array_equal(read_image(data, bands=(4, 3, 2)), BANDS[..., [3, 2, 1]])


def test_a_band_marked_as_transparency_by_gdal_alone_is_not_it() -> None:
    noted = '<GDALMetadata>\n  <Item name="COLORINTERP" sample="3" role="colorinterp">Undefined</Item>\n</GDALMetadata>'
    named = '<GDALMetadata>\n  <Item name="DESCRIPTION" sample="3" role="description">nir</Item>\n</GDALMetadata>'
    assert "4 bands" in refused(tiff(BANDS[..., :4], extra=(2,), metadata=noted), "image-bands").message
    assert "nir" in refused(tiff(BANDS[..., :4], extra=(2,), metadata=named), "image-bands").message
    assert "half transparent" in refused(tiff(BANDS[..., :4], extra=(2,)), "image-bands").message


def test_declared_transparency_is_put_on_white() -> None:
    values = BANDS[..., :4].copy()
    values[..., 3] = np.where(np.arange(W) < 10, 0, 255)
    rgb = read_image(tiff(values, extra=(2,)))
    assert (rgb[:, :10] == 255).all()
    np.testing.assert_array_equal(rgb[:, 10:], values[:, 10:, :3])
    grey = read_image(tiff(values[..., 2:], photometric=1, extra=(2,)))
    assert (grey[:, :10] == 255).all() and (grey[:, 10:] == values[:, 10:, 2:3]).all()


def test_transparency_over_much_of_a_image_is_told() -> None:
    values = BANDS[..., :4].copy()
    values[..., 3] = np.where(np.arange(W) < 6, 100, 255)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    with pytest.warns(TerrazzoWarning, match=r"20% of its pixels are half transparent.*--bands 1,2,3"):
        read_image(file.getvalue())
    np.testing.assert_array_equal(read_image(file.getvalue(), bands=(1, 2, 3)), values[..., :3])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"order": ">"},
        {"planar": True},
        {"tile": 16},
        {"tile": 16, "planar": True},
        {"big": True},
        {"deflate": True, "predictor": 2},
        {"deflate": True, "predictor": 2, "order": ">"},
        {"deflate": True, "predictor": 2, "tile": 16},
        {"deflate": True, "predictor": 2, "planar": True, "tile": 16},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_any_three_of_six_bands_however_they_are_stored(how: dict[str, object], kind: str) -> None:
    if kind == "f4" and how.get("predictor"):
        pytest.skip("differences of whole numbers only")
    values = BANDS.astype(kind)
    data = tiff(values, photometric=1, extra=(0,) * 5, **how)  # type: ignore[arg-type]
    assert "6 bands" in refused(data, "image-bands").message
    value_range = None if kind == "u1" else (0, 255)
    rgb = read_image(data, bands=(5, 1, 6), value_range=value_range)
    np.testing.assert_array_equal(rgb, BANDS[..., [4, 0, 5]])
    np.testing.assert_array_equal(read_image(data, bands=(2,), value_range=value_range), BANDS[..., [1, 1, 1]])


def test_bands_that_are_not_there() -> None:
    data = tiff(BANDS[..., :4], extra=(0,))
    assert "no band 5 among its 4" in refused(data, "image-bands", bands=(1, 2, 5)).message
    refused(data, "image-bands", bands=(0, 1, 2))
    refused(data, "image-bands", bands=(1, 2))
    refused(BANDS, "image-bands", bands=(1, 2, 7))
    np.testing.assert_array_equal(read_image(BANDS, bands=(1, 2, 6)), BANDS[..., [0, 1, 5]])


def test_two_grey_bands_are_asked_about() -> None:
    data = tiff(BANDS[..., :2], photometric=1, extra=(0,))
    refused(data, "image-bands")
    np.testing.assert_array_equal(read_image(data, bands=(2,)), BANDS[..., [1, 1, 1]])


def test_three_bands_without_declared_colours_are_rgb_and_that_is_told() -> None:
    values = BANDS[..., :3].astype(np.uint16) * 257
    with pytest.warns(TerrazzoWarning, match="read as red, green and blue"):
        rgb = read_image(tiff(values, photometric=1, extra=(0, 0)))
    np.testing.assert_array_equal(rgb, BANDS[..., :3])


def test_12_bits_in_a_file_of_16_are_told_with_the_range() -> None:
    values = (BANDS[..., :3].astype(np.uint16) * 16) + 15
    values[0, 0] = 4095
    for data in (tiff(values[..., :1], photometric=1), tiff(values)):
        with pytest.warns(TerrazzoWarning, match="4095.*--value-range 0,4095"):
            assert read_image(data).max() == 15
        rgb = read_image(data, value_range=(0, 4095))
        expected = np.rint(values * (255 / 4095))
        np.testing.assert_array_equal(rgb[..., 0], expected[..., 0])
    full = np.full((2, 2, 1), 65535, np.uint16)
    assert read_image(tiff(full, photometric=1)).max() == 255  # without a note


def test_a_range_for_floating_point_is_offered() -> None:
    data = tiff(np.linspace(0.25, 0.5, H * W, dtype=np.float32).reshape(H, W, 1), photometric=1)
    assert "--value-range 0.25,0.5" in refused(data, "image-value-range").fix


def test_options_are_checked_at_once() -> None:
    with pytest.raises(ImageError, match="2 bands"):
        ReadOptions(bands=(1, 2)).for_model(None)
    with pytest.raises(ImageError, match="empty"):
        ReadOptions(value_range=(3, 3))


@pytest.fixture
def near_infrared(tmp_path: Path) -> Path:
    """A data set of one pair for each split, whose photos have four bands."""
    for number, split in enumerate(("train", "val")):
        for kind in ("images", "masks"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        data = tiff(np.roll(BANDS[..., :4], number, 0), extra=(0,))
        (tmp_path / "set" / split / "images" / "a.tif").write_bytes(data)
        mask = np.zeros((H, W), np.uint8)
        mask[:4] = 1
        Image.fromarray(mask).save(tmp_path / "set" / split / "masks" / "a.png")
    return tmp_path / "set"


def test_check_data_refuses_four_bands_until_three_are_chosen(
    near_infrared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check-data", str(near_infrared)])
    said = capsys.readouterr().out
    assert ended.value.code == 2 and "Not ready to train" in said and "--bands 1,2,3" in said
    main(["check-data", str(near_infrared), "--bands", "1,2,3"])
    assert "Ready to train" in capsys.readouterr().out


def test_check_data_tells_of_dark_images(near_infrared: Path) -> None:
    for split in ("train", "val"):
        values = BANDS[..., :3].astype(np.uint16) * 16
        values[0, 0] = 4000
        (near_infrared / split / "images" / "a.tif").write_bytes(tiff(values))
    found = check_dataset(near_infrared)
    assert [problem.code for problem in found.warnings].count("photo-reading") == 2
    assert "--value-range 0,4095" in found.warnings[0].message
    found = check_dataset(near_infrared, reading=ReadOptions(value_range=(0, 4095)))
    assert not [problem for problem in found.problems if problem.code == "photo-reading"]


def test_the_command_takes_bands_frame_and_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(BANDS[..., :4].astype(np.uint16), extra=(0,)))
    wished = [str(tmp_path / "a.tif"), "--output", str(tmp_path / "out"), "--save", "mask"]
    with pytest.raises(SystemExit):
        main(["predict", *wished])
    assert "--bands 1,2,3" in capsys.readouterr().err
    main(["predict", *wished, "--bands", "1,2,3", "--value-range", "0,255", "--frame", "0"])
    with Image.open(tmp_path / "out" / "a_mask.png") as mask:
        assert mask.size == (W, H)
    for wrong in (["--bands", "red"], ["--value-range", "9"], ["--value-range", "9,8"]):
        with pytest.raises(SystemExit) as ended:
            main(["predict", *wished, *wrong])
        assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["predict", *wished, "--bands", "1,2,3", "--value-range", "0,255", "--frame", "1"])
    assert "no frame 1" in capsys.readouterr().err


def test_a_real_aerial_image_with_near_infrared(shared_data: Path) -> None:
    path = shared_data / "geo" / "naip_rgbn_utm14n.tif"
    assert "4 bands" in refused(path, "image-bands").message
    bands = [read_image(path, bands=(band,))[..., 0] for band in (1, 2, 3, 4)]
    with Image.open(path) as image:
        stored = np.asarray(image)
    np.testing.assert_array_equal(np.stack(bands, -1), stored)
