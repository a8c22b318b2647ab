"""Rasters in Python, polygons in other forms, and work that overlaps."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

rasterio = pytest.importorskip("rasterio")

from made_rasters import ABC, WINDOWS, brightest, predictor, scene, write  # noqa: E402

import terrazzo  # noqa: E402
from terrazzo.errors import ConfigError, ImageError, MissingExtraError  # noqa: E402
from terrazzo.inference import pipeline, raster_polygons  # noqa: E402
from terrazzo.inference.predict_folder import predict_folder  # noqa: E402
from terrazzo.inference.predictor import Predictor  # noqa: E402
from terrazzo.inference.protocols import WHOLE  # noqa: E402
from terrazzo.inference.raster import RasterOptions  # noqa: E402
from terrazzo.ownership import is_unchanged  # noqa: E402
from terrazzo.preprocess import Preprocess  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*read and written in bands of rows")


@pytest.fixture
def gapped(tmp_path: Path) -> Path:
    image = scene()
    image[:40, :70] = 0
    return write(tmp_path / "scene.tif", image, nodata=0)


def test_python_reads_a_raster_as_the_command_does(gapped: Path, tmp_path: Path) -> None:
    """At its own resolution, in windows, and with gaps; a photo of the same size would be resized."""
    model = predictor(preprocess=Preprocess(short_side=32), protocol=WHOLE)
    (written,) = predict_folder(gapped, tmp_path / "out", model, save="mask,confidence").written
    with rasterio.open(written.files["mask"]) as file, rasterio.open(written.files["confidence"]) as confidence:
        expected, certain = file.read(1), confidence.read(1)
    assert (expected == 255).sum() == 40 * 70
    alone = terrazzo.predict(gapped, model, confidence=True)
    np.testing.assert_array_equal(alone.mask, expected)
    np.testing.assert_allclose(alone.confidence * 65535, certain, atol=0.51)
    with rasterio.open(gapped) as file:
        rest = (expected != 255)[..., None]
        np.testing.assert_array_equal(alone.image * rest, np.moveaxis(file.read(), 0, -1) * rest)
    for many in (terrazzo.predict([gapped, gapped], model), predict_folder(gapped, None, model)):
        for result in many:
            np.testing.assert_array_equal(result.mask, expected)
    large = terrazzo.predict(gapped, model, max_pixels=1000)  # too large for its image to be held
    np.testing.assert_array_equal(large.mask, expected)
    assert large.image is None
    assert terrazzo.predict(gapped, model, probabilities=True).probabilities.shape == (3, 150, 110)
    with pytest.raises(ConfigError, match="its probabilities would need all of it"):
        terrazzo.predict(gapped, model, max_pixels=1000, probabilities=True)


def test_without_rasterio_python_says_what_is_lost(gapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.inference.raster.has_rasterio", lambda: False)
    with pytest.warns(match="without rasterio a GeoTIFF is read as a plain image"):
        assert (terrazzo.predict(gapped, predictor()).mask != 255).all()


@pytest.mark.parametrize("simplify", [0.0, 2.0])
def test_polygons_as_a_geopackage(simplify: float, gapped: Path, tmp_path: Path) -> None:
    pyogrio, shapely = pytest.importorskip("pyogrio.raw"), pytest.importorskip("shapely")
    options = RasterOptions(simplify=simplify)
    files = (
        predict_folder(gapped, tmp_path, predictor(), save="mask,geopackage,polygons", raster=options).written[0].files
    )
    assert files["geopackage"] == tmp_path / "scene_polygons.gpkg" and is_unchanged(files["geopackage"], "predict")
    about, _, geometry, columns = pyogrio.read(files["geopackage"])
    assert about["crs"] == "EPSG:32616" and about["fields"].tolist() == ["class", "index", "pixels", "area"]
    features = json.loads(files["polygons"].read_text())["features"]
    assert [f["properties"]["pixels"] for f in features] == columns[2].tolist()
    with rasterio.open(files["mask"]) as file:
        mask = file.read(1)
    for index, name in enumerate(ABC.names):
        assert columns[2][columns[0] == name].sum() == (mask == index).sum()
        assert columns[3][columns[1] == index].sum() == (mask == index).sum() * 0.25
    shapes = shapely.from_wkb(geometry)
    corners = shapely.get_num_coordinates(shapes).sum()
    exact = sum(len(ring) for f in features for ring in f["geometry"]["coordinates"])
    assert corners == exact
    if simplify:
        assert shapely.coverage_is_valid(shapes) and shapely.is_valid(shapes).all()
        plain = predict_folder(gapped, tmp_path / "plain", predictor(), save="polygons").written[0].files["polygons"]
        plain_features = json.loads(plain.read_text())["features"]
        assert corners < 0.9 * sum(len(ring) for f in plain_features for ring in f["geometry"]["coordinates"])
        assert shapely.area(shapes).sum() == pytest.approx((mask != 255).sum() * 0.25, rel=0.01)
    again = predict_folder(gapped, tmp_path, predictor(), save="mask,geopackage,polygons", raster=options)
    assert not again.failures


def test_geopackages_without_their_library_or_a_raster(
    gapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    Image.fromarray(scene()).save(tmp_path / "photo.png")
    with pytest.raises(ConfigError, match="nothing called 'geopackage' to save"):
        predict_folder(tmp_path / "photo.png", tmp_path / "out", predictor(), save="geopackage")
    both = predict_folder([tmp_path / "photo.png", gapped], tmp_path / "b", predictor(), save="json,geopackage")
    assert set(both.written[0].files) == {"json"}

    def missing(name: str) -> Any:
        raise MissingExtraError(name, "geo")

    monkeypatch.setattr(raster_polygons, "_import", missing)
    (failure,) = predict_folder(gapped, tmp_path / "out", predictor(), save="mask,geopackage").failures
    assert isinstance(failure.error, MissingExtraError)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="cannot be simplified"):
            RasterOptions(simplify=wrong)


def test_the_share_within_a_raster_is_told(gapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BAND_PIXELS", 110 * 40)
    told: list[tuple[int, float, int]] = []
    other = write(tmp_path / "other.tif", scene(60, 60))
    predict_folder([gapped, other], tmp_path / "out", predictor(), save="mask", within=lambda *t: told.append(t))
    first = [share for number, share, count in told if number == 1 and count == 2]
    assert len(first) > 2 and first == sorted(first) and first[-1] == 1.0
    assert told[-1] == (2, 1.0, 2)


def test_reading_and_writing_do_not_wait_for_the_network(gapped: Path, tmp_path: Path) -> None:
    """While the network is at a window, the next ones are read: it waits here until they have been."""
    from terrazzo.data.sources.raster import Raster

    read = threading.Semaphore(0)
    original, threads = Raster.read_window, Counter[str]()

    def counted(self: Raster, rows: slice, columns: slice) -> Any:
        threads["main" if threading.current_thread() is threading.main_thread() else "other"] += 1
        try:
            return original(self, rows, columns)
        finally:
            read.release()

    windows = 0

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal windows
        windows += 1
        if windows == 1:
            for _ in range(2):  # the first strip, and the next: only a reader that is ahead comes to that
                assert read.acquire(timeout=60)
        return brightest(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Raster, "read_window", counted)
        patch.setattr("terrazzo.inference.protocols.PIXELS_AT_ONCE", 64 * 64)  # a strip holds a single window
        model = Predictor(network, Preprocess(), ABC, "toy", WINDOWS)
        (written,) = predict_folder(gapped, tmp_path / "out", model, save="mask").written
    assert threads["main"] == 0 and threads["other"] >= windows
    with rasterio.open(written.files["mask"]) as file:
        np.testing.assert_array_equal(file.read(1), terrazzo.predict(gapped, predictor()).mask)


def test_a_failure_while_writing_ends_the_run(gapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, rows: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("terrazzo.inference.raster_files.GeoTiffRows.write", full)
    (failure,) = predict_folder(gapped, tmp_path / "out", predictor(), save="mask").failures
    assert "the disk is full" in failure.error.message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_while_reading_ahead_names_the_window(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(200, 200), compress="deflate")
    with rasterio.open(path) as file:
        at = int(file.get_tag_item("BLOCK_OFFSET_3_3", "TIFF", 1))
    data = bytearray(path.read_bytes())
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"scene\.tif: rows 1\d\d to 200, columns \d+ to 200 cannot be read: "):
        terrazzo.predict(path, predictor(), max_pixels=1000)
