"""Rasters as people have them: cut short, empty, tiny, with pages, other colours, and under odd names."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

rasterio = pytest.importorskip("rasterio")

from made_rasters import UTM, predictor, scene, write  # noqa: E402

import terrazzo  # noqa: E402
from terrazzo.cli.main import main  # noqa: E402
from terrazzo.errors import ImageError, TerrazzoError  # noqa: E402
from terrazzo.imaging.read import ReadOptions  # noqa: E402
from terrazzo.inference.predict_folder import predict_folder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*read and written in bands of rows")


def mask_of(path: Path, output: Path, **given: Any) -> NDArray[Any]:
    summary = predict_folder(path, output, predictor(), save="mask", **given)
    if summary.failures:
        assert not list(output.rglob("*.tif"))
        raise summary.failures[0].error
    written = summary.written[0].files["mask"].rename(output / "written.tif")  # whose name rasterio can open
    with rasterio.open(written) as file:
        mask: NDArray[Any] = file.read(1)
        return mask


def expected(image: NDArray[np.uint8]) -> NDArray[Any]:
    return predictor().segment([image], [None])[0].mask


@pytest.mark.parametrize("left", [0, 8, 300, 0.5, 0.95])
def test_cut_short(left: float, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(200, 200), compress="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if 0 < left < 1 else int(left)])
    with pytest.raises(ImageError, match=r"scene\.tif") as error:
        mask_of(path, tmp_path / "out")
    assert error.value.code.startswith("image-")


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_tiny_and_thin(size: tuple[int, int], tmp_path: Path) -> None:
    image = scene(*size)
    path = write(tmp_path / "scene.tif", image)
    np.testing.assert_array_equal(mask_of(path, tmp_path / "out"), expected(image))
    np.testing.assert_array_equal(terrazzo.predict(path, predictor()).mask, expected(image))


def test_a_header_of_30000_by_30000_without_pixels(tmp_path: Path) -> None:
    """Blocks that were never written are 0, and nodata: windows of them are not computed, and memory is not taken."""
    path = tmp_path / "empty.tif"
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True, "photometric": "rgb"}
    where = {"crs": UTM, "transform": rasterio.Affine(0.5, 0, 0, 0, -0.5, 0), "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", height=30000, width=30000, count=3, dtype="uint8", **tiles, **where):
        pass
    data = path.read_bytes()
    assert len(data) < 200_000
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"empty\.tif") as error:
        mask_of(path, tmp_path / "out")
    assert error.value.code == "image-corrupt"


def test_four_colours_of_ink(tmp_path: Path) -> None:
    """As GDAL turns them into red, green and blue: black ink alone gives greys."""
    ink = np.zeros((150, 110, 4), np.uint8)
    ink[..., 3] = scene(bands=1)[..., 0]
    path = write(tmp_path / "scene.tif", ink, photometric="cmyk")
    gray = np.repeat(255 - ink[..., 3:], 3, axis=2)
    np.testing.assert_array_equal(mask_of(path, tmp_path / "out"), expected(gray))


def test_grey_with_transparency_does_not_show_what_is_hidden(tmp_path: Path) -> None:
    gray, alpha = scene(bands=1)[..., 0], np.full((150, 110), 255, np.uint8)
    alpha[30:60, 20:50] = 0
    path = write(tmp_path / "scene.tif", np.dstack([gray, alpha]), photometric="minisblack", alpha="yes")
    mask = mask_of(path, tmp_path / "out")
    np.testing.assert_array_equal(mask == 255, alpha == 0)
    hidden = gray.copy()
    hidden[30:60, 20:50] = 7
    other = write(tmp_path / "other.tif", np.dstack([hidden, alpha]), photometric="minisblack", alpha="yes")
    np.testing.assert_array_equal(mask_of(other, tmp_path / "out2"), mask)


def test_several_pages_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene())
    with rasterio.open(path) as first:
        profile = first.profile
    with rasterio.open(path, "w", **{**profile, "APPEND_SUBDATASET": True}) as second:
        second.write(np.moveaxis(scene(seed=1), -1, 0))
    with pytest.raises(ImageError, match=r"scene\.tif: it has 2 pages") as error:
        mask_of(path, tmp_path / "out")
    assert error.value.code == "image-frames" and "--frame" in error.value.fix
    summary = predict_folder(path, tmp_path / "out", predictor(), save="mask", reading=ReadOptions(frame=0))
    assert summary.written[0].files["mask"].name == "scene_mask.png"


@pytest.mark.parametrize(
    "name", ["scene.jpg", "scene.png", "SCENE.TIFF", "scene", "größe ü.tif", "a b'c.tif", b"x\xff.tif"]
)
def test_names(name: str | bytes, tmp_path: Path) -> None:
    image, path = scene(), tmp_path / os.fsdecode(name)
    write(tmp_path / "made.tif", image).rename(path)
    np.testing.assert_array_equal(mask_of(path, tmp_path / "out"), expected(image))


def test_what_is_no_raster(tmp_path: Path) -> None:
    (tmp_path / "page.tif").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    os.mkfifo(tmp_path / "pipe.vrt")
    for name in ("page.tif", "folder.tif", "loop.tif", "pipe.tif", "pipe.vrt"):
        with pytest.raises(TerrazzoError):
            mask_of(tmp_path / name, tmp_path / "out")
        with pytest.raises(TerrazzoError):
            terrazzo.evaluate(predictor(), tmp_path / name)


def test_an_orientation_leaves_the_grid_as_it_is(tmp_path: Path) -> None:
    """Maps are placed by their transform: programs for maps do not turn them by the tag that cameras write."""
    image = scene()
    path = write(tmp_path / "scene.tif", image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "r+") as file:
            file.update_tags(TIFFTAG_ORIENTATION="6")
    np.testing.assert_array_equal(mask_of(path, tmp_path / "out"), expected(image))


def test_a_folder_with_a_bad_raster_does_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write(tmp_path / "in" / "good.tif", scene(40, 40)), write(tmp_path / "in" / "bad.tif", scene(40, 40))
    bad.write_bytes(bad.read_bytes()[:700])
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--save", "mask"])
    assert ended.value.code == 2 and good.exists()
    said = capsys.readouterr()
    assert "bad.tif" in said.err and "1 of 2 photos written" in said.out and "Traceback" not in said.err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good_mask.tif"]
