"""A georeferenced raster has the mask of its pixels as an array, in the same place on the map."""

from __future__ import annotations

import json
import resource
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

rasterio = pytest.importorskip("rasterio")

from rasterio.transform import Affine  # noqa: E402

import terrazzo  # noqa: E402
from terrazzo.cli.main import main  # noqa: E402
from terrazzo.data.sources import raster as raster_source  # noqa: E402
from terrazzo.data.sources.region import parse_region  # noqa: E402
from terrazzo.errors import ConfigError, ImageError, MissingExtraError, OutputError  # noqa: E402
from terrazzo.imaging.band_rule import BandRule  # noqa: E402
from terrazzo.imaging.read import ReadOptions  # noqa: E402
from terrazzo.inference.predict_folder import Written, predict_folder  # noqa: E402
from terrazzo.inference.predictor import Predictor  # noqa: E402
from terrazzo.inference.protocols import Protocol  # noqa: E402
from terrazzo.inference.raster import RasterOptions  # noqa: E402
from terrazzo.labels.spec import LabelSpec  # noqa: E402
from terrazzo.notes import TerrazzoWarning  # noqa: E402
from terrazzo.preprocess import Preprocess  # noqa: E402

ABC = LabelSpec.from_names(["a", "b", "c"])
WINDOWS = Protocol("mine", window=64, stride=48, blend="linear")
UTM = "EPSG:32616"
NORTH_UP = Affine(0.5, 0, 733601, 0, -0.5, 3725139)
pytestmark = pytest.mark.filterwarnings("ignore:.*read and written in bands of rows")


class Brightest:
    """A network whose class is the brightest band, at a quarter of the resolution; it counts its windows."""

    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.windows += len(images)
        images = images if images.shape[1] == 3 else np.concatenate([images, -images, 0 * images], 1)[:, :3]
        return np.ascontiguousarray(images[:, :, ::4, ::4], np.float32)


def predictor(**given: Any) -> Predictor:
    values: dict[str, Any] = {"preprocess": Preprocess(), "labels": ABC, "model": "toy", "protocol": WINDOWS}
    return Predictor(Brightest(), **{**values, **given})


def scene(height: int = 150, width: int = 110, bands: int = 3, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Blurred noise, (H, W, bands), without a pixel that is 0."""
    coarse = np.random.default_rng(seed).integers(1, 255, (height // 10 + 1, width // 10 + 1, bands))
    return coarse.repeat(10, 0).repeat(10, 1)[:height, :width].astype(dtype)


def place(column: int, row: int) -> Affine:
    """`NORTH_UP` of a part that begins there."""
    return Affine(0.5, 0, 733601 + 0.5 * column, 0, -0.5, 3725139 - 0.5 * row)


def write(path: Path, image_HWC: NDArray[Any], transform: Affine = NORTH_UP, **profile: Any) -> Path:
    height, width, count = image_HWC.shape
    values = {"crs": UTM, "transform": transform, "tiled": True, "blockxsize": 64, "blockysize": 64, **profile}
    if count == 3:
        values.setdefault("photometric", "rgb")
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=image_HWC.dtype.name, **values
    ) as file:
        file.write(np.moveaxis(image_HWC, -1, 0))
    return path


def predicted(path: Path, output: Path, model: Predictor | None = None, save: str = "mask", **given: Any) -> Written:
    summary = predict_folder(path, output, model or predictor(), save=save, **given)
    if summary.failures:
        raise summary.failures[0].error
    (written,) = summary.written
    return written


def opened(path: Path) -> tuple[NDArray[Any], Any]:
    with rasterio.open(path) as file:
        return file.read(1), file


@pytest.mark.parametrize(
    ("transform", "profile"),
    [
        (NORTH_UP, {}),
        (Affine(0.5, 0, 733601, 0, 0.5, 3725000), {}),  # south-up
        (Affine(0.4, 0.2, 733601, 0.2, -0.4, 3725139), {}),
        (NORTH_UP, {"BIGTIFF": "YES", "compress": "lzw", "predictor": 2}),
        (NORTH_UP, {"tiled": False, "blockxsize": None, "blockysize": 7, "interleave": "band"}),
        (NORTH_UP, {"blockxsize": 128, "blockysize": 256}),
    ],
)
def test_the_mask_lies_where_the_raster_does(tmp_path: Path, transform: Affine, profile: dict[str, Any]) -> None:
    image = scene()
    profile = {key: value for key, value in profile.items() if value is not None}
    written = predicted(write(tmp_path / "scene.tif", image, transform, **profile), tmp_path / "out")
    assert written.files == {"mask": tmp_path / "out" / "scene_mask.tif"}
    with rasterio.open(written.files["mask"]) as file:
        np.testing.assert_array_equal(file.read(1), predictor().segment([image], [None])[0].mask)
        assert file.crs == rasterio.CRS.from_string(UTM) and file.transform.almost_equals(transform, 1e-9)
        assert file.nodata == ABC.ignore_index and file.profile["tiled"] and file.profile["compress"] == "deflate"
        assert file.block_shapes == [(256, 128) if profile.get("blockxsize") == 128 else (512, 512)]
        assert [file.colormap(1)[index][:3] for index in range(3)] == [tuple(color) for color in ABC.palette]


def test_gaps_are_nodata_and_do_not_go_through_the_network(tmp_path: Path) -> None:
    image = scene(300, 300)
    image[:200] = 0
    image[250, 250] = (0, 0, 7)  # one dark band is a measurement
    model = predictor()
    written = predicted(write(tmp_path / "scene.tif", image, nodata=0), tmp_path / "out", model, save="mask,json")
    mask, _ = opened(written.files["mask"])
    np.testing.assert_array_equal(mask == 255, (image == 0).all(-1))
    engine: Any = model.engine
    assert engine.windows == 1 + 3 * 6  # the first, which tells the logits' shape, and the rows from 144, 192 and 236
    assert sum(area.share for area in written.areas) == pytest.approx(1)
    values = json.loads(written.files["json"].read_text())
    assert values["ignored_pixels"] == 200 * 300 and values["crs"] == UTM


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_masked_and_transparent_pixels_are_gaps(tmp_path: Path, kind: str) -> None:
    image, valid = scene(), np.full((150, 110), 255, np.uint8)
    valid[20:50, 30:60] = 0
    if kind == "alpha":
        path = write(tmp_path / "s.tif", np.dstack([image, valid]), photometric="rgb", alpha="yes")
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            path = write(tmp_path / "s.tif", image)
            with rasterio.open(path, "r+") as file:
                file.write_mask(valid)
    mask, _ = opened(predicted(path, tmp_path / "out").files["mask"])
    np.testing.assert_array_equal(mask == 255, valid == 0)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_deep_rasters_take_a_range(tmp_path: Path, dtype: str) -> None:
    image = scene(bands=1, dtype=dtype) * 4
    if dtype != "uint16":
        image[:20, :20] = np.nan
    path = write(tmp_path / "scene.tif", image)
    reading = ReadOptions(value_range=(0, 1020))
    mask, _ = opened(predicted(path, tmp_path / "out", reading=reading).files["mask"])
    np.testing.assert_array_equal(mask == 255, np.isnan(image[..., 0]))
    if dtype == "uint16":
        with pytest.warns(TerrazzoWarning, match=r"in its first rows its 16-bit values reach only 10\d\d, .*0,1023"):
            predicted(path, tmp_path / "out")
    else:
        with pytest.raises(ImageError, match=r"scene\.tif: pixels are float32 numbers") as error:
            predicted(path, tmp_path / "out")
        assert error.value.code == "image-value-range"


def test_a_model_of_bands_reads_them_at_full_depth(tmp_path: Path) -> None:
    image = scene(bands=4, dtype="uint16")
    image[40:60] = 0
    rule = BandRule((4,), "uint16", ranges=((0.0, 500.0),))
    model = predictor(preprocess=Preprocess(mean=(9.0,), std=(3.0,), bands=rule))
    mask, _ = opened(predicted(write(tmp_path / "s.tif", image, nodata=0), tmp_path / "out", model).files["mask"])
    whole = rule.scaled(image[..., 3:], 0)
    expected = model.segment([whole], [None])[0].mask
    np.testing.assert_array_equal(mask[:40], expected[:40])
    assert (mask[40:60] == 255).all()
    with pytest.raises(ImageError, match=r"s8\.tif: its numbers are uint8"):
        predicted(write(tmp_path / "s8.tif", scene(bands=4)), tmp_path / "out", model)


def test_bands_that_are_not_declared_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(bands=4), photometric="minisblack")
    with pytest.raises(ImageError, match=r"scene\.tif: it has 4 bands, and does not say") as error:
        predicted(path, tmp_path / "out")
    assert error.value.code == "image-bands"
    image, mask = (
        scene(bands=4),
        opened(predicted(path, tmp_path / "out", reading=ReadOptions((3, 2, 1))).files["mask"]),
    )
    np.testing.assert_array_equal(mask[0], predictor().segment([image[..., 2::-1]], [None])[0].mask)


def test_a_mosaic_is_one_raster(tmp_path: Path) -> None:
    image = scene()
    write(tmp_path / "left.tif", image[:, :60])
    write(tmp_path / "right.tif", image[:, 60:], place(60, 0))
    bands = ""
    for band, color in enumerate(("Red", "Green", "Blue"), 1):
        bands += f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{color}</ColorInterp>'
        for name, x, size in (("left", 0, 60), ("right", 60, 50)):
            bands += (
                f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>{band}'
                f'</SourceBand><SrcRect xOff="0" yOff="0" xSize="{size}" ySize="150"/>'
                f'<DstRect xOff="{x}" yOff="0" xSize="{size}" ySize="150"/></SimpleSource>'
            )
        bands += "</VRTRasterBand>"
    vrt = tmp_path / "all.vrt"
    geo = ", ".join(map(str, NORTH_UP.to_gdal()))
    vrt.write_text(
        f'<VRTDataset rasterXSize="110" rasterYSize="150"><SRS>{UTM}</SRS><GeoTransform>{geo}</GeoTransform>{bands}'
        "</VRTDataset>"
    )
    mask, file = opened(predicted(vrt, tmp_path / "out").files["mask"])
    expected = predictor().segment([image], [None])[0].mask
    np.testing.assert_array_equal(mask, expected)
    assert file.transform == NORTH_UP
    np.testing.assert_array_equal(terrazzo.predict(vrt, predictor()).mask, expected)  # Python, without files


def test_a_region_by_bounds_or_by_an_outline(tmp_path: Path) -> None:
    image = scene()
    path = write(tmp_path / "scene.tif", image)
    left, top, right, bottom = 733611, 3725119, 733646, 3725079
    region = parse_region(f"{left},{bottom},{right},{top}")
    mask, file = opened(predicted(path, tmp_path / "out", raster=RasterOptions(region)).files["mask"])
    assert mask.shape == (80, 70) and file.transform.almost_equals(place(20, 40), 1e-9)
    np.testing.assert_array_equal(mask, predictor().segment([image[40:120, 20:90]], [None])[0].mask)

    triangle = {"type": "Polygon", "coordinates": [[(left, top), (right, top), (left, bottom), (left, top)]]}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    outline = tmp_path / "field.geojson"
    outline.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": triangle, "crs": crs}))
    region = parse_region(str(outline))
    mask, file = opened(predicted(path, tmp_path / "out", raster=RasterOptions(region)).files["mask"])
    assert mask.shape == (80, 70)
    assert (mask == 255).mean() == pytest.approx(0.5, abs=0.01) and mask[0, 0] != 255 and mask[-1, -1] == 255


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3", "neither four numbers nor a file"),
        ("5,1,2,9", "is empty"),
        ("nan,1,2,9", "neither four numbers nor a file"),
    ],
)
def test_regions_that_are_none(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_region(text)


def test_a_region_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene())
    with pytest.raises(ImageError, match=r"scene\.tif: the region does not touch it") as error:
        predicted(path, tmp_path / "out", raster=RasterOptions(parse_region("0,0,1,1")))
    assert "733601,3725064,733656,3725139" in error.value.fix
    (tmp_path / "x.geojson").write_text('{"type": "Point", "coordinates": [1, 2]}')
    with pytest.raises(ConfigError, match=r"x\.geojson holds no polygon"):
        parse_region(str(tmp_path / "x.geojson"))


def test_a_damaged_block_is_named_and_no_half_mask_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(200, 200), compress="deflate")
    earlier = predicted(path, tmp_path / "out").files["mask"].read_bytes()
    with rasterio.open(path) as file:
        at = int(file.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", 1))
    data = bytearray(path.read_bytes())
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(
        ImageError, match=r"scene\.tif: rows 1\d\d to 1\d\d, columns 0 to 200 cannot be read: "
    ) as error:
        predicted(path, tmp_path / "out")
    assert error.value.code == "image-corrupt"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene_mask.tif"]
    assert (tmp_path / "out" / "scene_mask.tif").read_bytes() == earlier


def test_results_are_known_and_what_was_changed_is_not_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "scene.tif", scene()) if (tmp_path / "in").mkdir() is None else Path()
    mask = predicted(path, tmp_path / "in").files["mask"]
    with pytest.warns(TerrazzoWarning, match="left out 1 result of earlier runs"):
        summary = predict_folder(tmp_path / "in", tmp_path / "in", predictor(), save="mask")
    assert [written.path for written in summary.written] == [path] and not summary.failures
    with rasterio.open(mask, "r+") as file:
        file.write((file.read() + 1) % 3)
    with pytest.raises(OutputError, match=r"scene_mask\.tif would be replaced"):
        predicted(path, tmp_path / "in")


def test_polygons_have_class_and_area(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene())
    files = predicted(path, tmp_path / "out", save="polygons,mask").files
    document, (mask, _) = json.loads(files["polygons"].read_text()), opened(files["mask"])
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32616" and document["written_by"]
    for index, name in enumerate(ABC.names):
        of_class = [f["properties"] for f in document["features"] if f["properties"]["class"] == name]
        assert sum(p["pixels"] for p in of_class) == (mask == index).sum()
        assert sum(p["area"] for p in of_class) == pytest.approx((mask == index).sum() * 0.25)
    points = np.concatenate([f["geometry"]["coordinates"][0] for f in document["features"]])
    np.testing.assert_allclose([points.min(0), points.max(0)], [(733601, 3725064), (733656, 3725139)])
    assert [p.name for p in predicted(path, tmp_path / "only", save="polygons").files["polygons"].parent.iterdir()] == [
        "scene_polygons.geojson"
    ]


def test_confidence_colours_overviews_and_cloud_optimised_files(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(530, 270), nodata=0)
    plain = predicted(path, tmp_path / "plain", save="mask,color,confidence,entropy").files
    cog = predicted(path, tmp_path / "cog", save="mask,color,confidence", raster=RasterOptions(is_cog=True)).files
    for kind, file in cog.items():
        with rasterio.open(file) as one, rasterio.open(plain[kind]) as other:
            assert one.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert one.overviews(1) and other.overviews(1) == [2, 4]
            np.testing.assert_array_equal(one.read(), other.read())
            assert one.transform == other.transform == NORTH_UP
    predicted(path, tmp_path / "cog", raster=RasterOptions(is_cog=True))  # they are known for results, and replaced
    with rasterio.open(plain["color"]) as file:
        colors = np.moveaxis(file.read(), 0, -1)
    np.testing.assert_array_equal(colors, ABC.colorize(opened(plain["mask"])[0]))


def test_without_rasterio_a_geotiff_is_a_plain_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scene.tif", scene())
    monkeypatch.setattr("terrazzo.inference.raster.has_rasterio", lambda: False)
    with pytest.warns(TerrazzoWarning, match=r"scene\.tif: without rasterio .* lose their georeference"):
        assert predicted(path, tmp_path / "out").files["mask"].name == "scene_mask.png"

    def missing() -> Any:
        raise MissingExtraError("rasterio", "geo")

    monkeypatch.setattr(raster_source, "rasterio_env", missing)
    (tmp_path / "all.vrt").write_text("<VRTDataset/>")
    with pytest.raises(MissingExtraError, match="rasterio is not installed"):
        predicted(tmp_path / "all.vrt", tmp_path / "out")


def test_protocols_that_need_all_of_it_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene())
    with pytest.raises(ConfigError, match="would need all of the raster") as error:
        predicted(path, tmp_path / "out", predictor(protocol=Protocol("both", flip=True)))
    assert error.value.code == "raster-protocol"
    for name in ("not a mosaic.vrt", "cut short.tif"):
        (tmp_path / name).write_bytes(b"<VRTDataset" if name.endswith("vrt") else path.read_bytes()[:900])
        with pytest.raises(ImageError, match=name):
            predicted(tmp_path / name, tmp_path / "out")


def test_resizes_of_photos_do_not_apply(tmp_path: Path) -> None:
    """Whole photos are shown as the weights say, and rasters at their own resolution."""
    image = scene()
    model = predictor(preprocess=Preprocess(short_side=32), protocol=terrazzo.inference.protocols.WHOLE)
    mask, _ = opened(predicted(write(tmp_path / "scene.tif", image), tmp_path / "out", model).files["mask"])
    plain = predictor(protocol=terrazzo.inference.protocols.PROTOCOLS["slide"])
    np.testing.assert_array_equal(mask, plain.segment([image], [None])[0].mask)


@pytest.mark.parametrize("name", ["naip_rgbn_utm14n.tif", "spacenet_pan_uint16_utm16n.tif"])
def test_real_rasters_keep_their_place(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "geo" / name
    reading = ReadOptions((1, 2, 3)) if "naip" in name else ReadOptions(value_range=(0, 2047))
    model = predictor(protocol=Protocol("mine", window=512, stride=384, blend="linear"))
    written = predicted(path, tmp_path, model, reading=reading)
    with rasterio.open(path) as source, rasterio.open(written.files["mask"]) as file:
        assert (file.crs, file.transform, file.shape) == (source.crs, source.transform, source.shape)
        valid = source.read([1, 2, 3][: source.count]).any(0)
        np.testing.assert_array_equal(file.read(1) == 255, valid == 0)


class Ended(BaseException):
    """As if the process were killed."""


@pytest.mark.parametrize("ended_at", [12, 30, 47])
def test_a_run_that_was_ended_goes_on(ended_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 64 with a stride of 48 on 400 x 300: 8 rows of 6."""
    monkeypatch.setattr("terrazzo.inference.raster.KEPT_FROM", 0)
    monkeypatch.setattr("terrazzo.inference.pipeline.BAND_PIXELS", 300 * 13)  # so that bands end within rows of windows
    image = scene(400, 300)
    image[120:180, :100] = 0
    path, kinds = write(tmp_path / "scene.tif", image, nodata=0), "mask,confidence,json"
    whole = predicted(path, tmp_path / "whole", save=kinds).files

    model = predictor()
    engine: Any = model.engine

    def until_ended(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if engine.windows == ended_at:
            raise Ended
        return engine(images)

    with pytest.raises(Ended):
        predicted(path, tmp_path / "out", Predictor(until_ended, Preprocess(), ABC, "toy", WINDOWS), save=kinds)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".scene_mask.tif.resume"]
    model = predictor()
    with pytest.warns(TerrazzoWarning, match=r"scene\.tif: goes on at row \d+ of 400, where an earlier run ended"):
        files = predicted(path, tmp_path / "out", model, save=kinds).files
    resumed: Any = model.engine
    assert resumed.windows <= 48 - ended_at + 2 * 6 + 3  # at most two rows of windows again, and two to see the weights
    for kind in ("mask", "confidence"):
        np.testing.assert_array_equal(opened(files[kind])[0], opened(whole[kind])[0])
    assert len(list((tmp_path / "out").iterdir())) == 3
    one, other = (json.loads(found["json"].read_text())["classes"] for found in (files, whole))
    assert one == other


@pytest.mark.parametrize("change", ["weights", "raster", "foreign", "cut short"])
def test_what_was_kept_for_something_else_is_not_used(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrazzo.inference.raster.KEPT_FROM", 0)
    path, model = write(tmp_path / "scene.tif", scene(300, 100)), predictor()
    brightest: Any = model.engine

    def until_ended(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if brightest.windows == 9:
            raise Ended
        return brightest(images)

    with pytest.raises(Ended):
        predicted(path, tmp_path / "out", Predictor(until_ended, Preprocess(), ABC, "toy", WINDOWS))
    kept = tmp_path / "out" / ".scene_mask.tif.resume"
    model = predictor()
    if change == "weights":
        model = Predictor(lambda images: -brightest(images), Preprocess(), ABC, "toy", WINDOWS)
    elif change == "raster":
        write(path, scene(300, 100, seed=1))
    elif change == "foreign":
        kept.write_bytes(b"a file of mine")
    else:
        kept.write_bytes(kept.read_bytes()[:-5])
    with rasterio.open(path) as file:
        image = np.moveaxis(file.read(), 0, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TerrazzoWarning)
        mask = opened(predicted(path, tmp_path / "out", model).files["mask"])[0]
    np.testing.assert_array_equal(mask, model.segment([image], [None])[0].mask)
    assert kept.exists() == (change == "foreign")


@pytest.mark.parametrize("shape", [(530, 90), (90, 90)])
@pytest.mark.parametrize("is_cog", [False, True])
def test_a_full_disk_leaves_nothing(shape: tuple[int, int], is_cog: bool, tmp_path: Path) -> None:
    """GDAL does not say that the last bytes were not written, so files are read before they are put in place."""
    path, options = write(tmp_path / "scene.tif", scene(*shape)), RasterOptions(is_cog=is_cog)
    complete = predicted(path, tmp_path / "whole", raster=options).files["mask"].stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, complete // 3, complete - 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (complete - missing, limits[1]))
        try:
            with pytest.raises(OutputError, match=r"scene_mask\.tif could not be written"):
                predicted(path, tmp_path / "out", raster=options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list((tmp_path / "out").iterdir()) == []


def test_ground_control_points_are_taken_over(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint

    image, path = scene(), tmp_path / "scene.tif"
    points = [GroundControlPoint(r, c, -84 + c * 1e-3, 33 - r * 1e-3) for r, c in ((0, 0), (0, 110), (150, 0))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", height=150, width=110, count=3, dtype="uint8", photometric="rgb"
        ) as file:
            file.write(np.moveaxis(image, -1, 0))
            file.gcps = points, rasterio.CRS.from_epsg(4326)
    files = predicted(path, tmp_path / "out", save="mask,json").files
    with rasterio.open(files["mask"]) as file:
        assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]
        assert file.gcps[1].to_epsg() == 4326
    assert json.loads(files["json"].read_text())["crs"] == "EPSG:4326"


def test_a_mosaic_of_files_on_the_web_is_refused(tmp_path: Path) -> None:
    source = "<SimpleSource><SourceFilename>/vsicurl/http://127.0.0.1:9/x.tif</SourceFilename></SimpleSource>"
    (tmp_path / "web.vrt").write_text(
        f'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand band="1">{source}</VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(ImageError, match="nothing is downloaded unasked") as error:
        predicted(tmp_path / "web.vrt", tmp_path / "out")
    assert error.value.code == "image-address"


def test_complex_numbers_and_palettes(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"c\.tif: its numbers are complex"):
        predicted(write(tmp_path / "c.tif", scene(bands=1, dtype="complex64")), tmp_path / "out")
    indices = scene(bands=1) % 3
    path = write(tmp_path / "palette.tif", indices)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (9, 0, 0, 255), 1: (0, 9, 0, 255), 2: (0, 0, 9, 255)})
    mask, _ = opened(predicted(path, tmp_path / "out").files["mask"])
    image = np.eye(3, dtype=np.uint8)[indices[..., 0]] * 9
    np.testing.assert_array_equal(mask, predictor().segment([image], [None])[0].mask)


def test_a_region_of_photos_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene()).save(tmp_path / "photo.png")
    with pytest.raises(ConfigError, match="no image is a raster") as error:
        predicted(tmp_path / "photo.png", tmp_path / "out", raster=RasterOptions(is_cog=True))
    assert error.value.code == "raster-none"
    monkeypatch.setattr("terrazzo.inference.raster.has_rasterio", lambda: False)
    with pytest.raises(MissingExtraError):
        predicted(tmp_path / "photo.png", tmp_path / "out", raster=RasterOptions(is_cog=True))


def test_photos_have_polygons_too(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "photo.png")
    written = predicted(tmp_path / "photo.png", tmp_path / "out", save="polygons,mask")
    document = json.loads(written.files["polygons"].read_text())
    mask = np.asarray(Image.open(written.files["mask"]))
    pixels = [(f["properties"]["class"], f["properties"]["pixels"]) for f in document["features"]]
    assert {name: sum(p for n, p in pixels if n == name) for name in ABC.names} == {
        name: int((mask == index).sum()) for index, name in enumerate(ABC.names)
    }


def test_the_command_takes_a_region(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "scene.tif", scene(90, 90))
    given = ["predict", str(path), "--output", str(tmp_path / "out"), "--save", "mask", "--cog"]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--region", "1,2,3"])
    assert ended.value.code == 2 and "error[raster-region]" in capsys.readouterr().err
    with suppress(SystemExit):
        main([*given, "--region", "733611,3725104,733631,3725119"])
    mask = tmp_path / "out" / "scene_mask.tif"
    assert str(mask) in capsys.readouterr().out
    with rasterio.open(mask) as file:
        assert file.shape == (30, 40) and file.transform == place(20, 40) and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]
