"""Whole-slide images: the level nearest to the resolution that is asked for, in windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

openslide = pytest.importorskip("openslide")
rasterio = pytest.importorskip("rasterio")

from made_rasters import predictor, scene  # noqa: E402

from terrazzo.errors import ConfigError, ImageError  # noqa: E402
from terrazzo.inference.predict_folder import predict_folder  # noqa: E402
from terrazzo.inference.raster import RasterOptions  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*bands of rows"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


def write_slide(path: Path, mpp: float | None = 0.5) -> Path:
    """A pyramid of three levels, as a tiled TIFF: 320 x 240, 160 x 120 and 80 x 60."""
    image = scene(60, 80).repeat(4, 0).repeat(4, 1)
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "photometric": "rgb"}
    with rasterio.open(path, "w", driver="GTiff", height=240, width=320, count=3, dtype="uint8", **tiles) as file:
        file.write(np.moveaxis(image, -1, 0))
        if mpp is not None:
            per_cm = str(1e4 / mpp)
            file.update_tags(TIFFTAG_XRESOLUTION=per_cm, TIFFTAG_YRESOLUTION=per_cm, TIFFTAG_RESOLUTIONUNIT="3")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    return path


@pytest.mark.parametrize(("mpp", "level"), [(0.5, 0), (0.9, 1), (2.2, 2)])
def test_the_nearest_level_is_read(mpp: float, level: int, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.tif")
    image = scene(60, 80).repeat(4 >> level, 0).repeat(4 >> level, 1)
    with pytest.warns(match=rf"slide\.tif: level {level} is read, of {0.5 * 2**level:g} micrometres a pixel"):
        summary = predict_folder(path, tmp_path / "out", predictor(), save="mask", raster=RasterOptions(mpp=mpp))
    assert not summary.failures
    mask = np.asarray(Image.open(summary.written[0].files["mask"]))
    np.testing.assert_array_equal(mask, predictor().segment([image], [None])[0].mask)
    with pytest.warns(match="is read"):
        (result,) = predict_folder(path, None, predictor(), raster=RasterOptions(mpp=mpp))
    np.testing.assert_array_equal(result.mask, mask)


def test_resolutions_and_files_that_will_not_do(tmp_path: Path) -> None:
    def failure(path: Path, mpp: float | None) -> ImageError:
        (failed,) = predict_folder(path, tmp_path / "out", predictor(), raster=RasterOptions(mpp=mpp)).failures
        assert isinstance(failed.error, ImageError)
        return failed.error

    error = failure(write_slide(tmp_path / "slide.tif"), 8)
    assert error.code == "slide-mpp" and "near 8 micrometres a pixel: there are 0.5, 1, 2" in error.message
    assert "does not say how many micrometres" in failure(write_slide(tmp_path / "bare.tif", None), 1).message
    (tmp_path / "text.svs").write_text("no slide")
    assert failure(tmp_path / "text.svs", 1).code == "image-corrupt"
    assert "--mpp 0.5" in failure(tmp_path / "text.svs", None).fix
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match="are no resolution"):
            RasterOptions(mpp=wrong)
