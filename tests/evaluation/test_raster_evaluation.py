"""A raster is compared with a label raster or with polygons: the counts are those of the arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

rasterio = pytest.importorskip("rasterio")

from made_rasters import WINDOWS, box, brightest, predictor, scene, write, write_polygons  # noqa: E402

import terrazzo  # noqa: E402
from terrazzo.cli.main import main  # noqa: E402
from terrazzo.data.sources.region import parse_region  # noqa: E402
from terrazzo.errors import ConfigError, DatasetError  # noqa: E402
from terrazzo.evaluation.confusion import ConfusionMatrix  # noqa: E402
from terrazzo.inference.predictor import Predictor  # noqa: E402
from terrazzo.inference.raster import RasterOptions  # noqa: E402
from terrazzo.labels.spec import LabelSpec  # noqa: E402
from terrazzo.notes import TerrazzoWarning  # noqa: E402
from terrazzo.preprocess import Preprocess  # noqa: E402

IMAGE = scene()
TRUTH = scene(seed=1)[..., 0] % 3
OBJECTS = LabelSpec.from_names(["background", "hut", "pond"])
pytestmark = pytest.mark.filterwarnings("ignore:.*names no classes")


def counted(label: NDArray[Any], ignored: NDArray[Any] | None = None) -> NDArray[Any]:
    confusion = ConfusionMatrix(3, 255)
    label = label.copy()
    if ignored is not None:
        label[ignored] = 255
    confusion.update(predictor().segment([IMAGE], [None])[0].mask, label)
    return confusion.counts


def test_a_label_raster_in_the_same_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.inference.pipeline.BAND_PIXELS", 110 * 7)  # several bands
    path, truth = write(tmp_path / "scene.tif", IMAGE), write(tmp_path / "truth.tif", TRUTH)
    rows: list[tuple[int, int]] = []
    with pytest.warns(TerrazzoWarning, match=r"truth\.tif names no classes: the model's are taken in their order"):
        report = terrazzo.evaluate(predictor(), path, truth=truth, progress=lambda *done: rows.append(done))
    np.testing.assert_array_equal(report.confusion, counted(TRUTH))
    assert (report.dataset, report.split, report.images, report.protocol) == ("scene.tif", "all", 1, "mine")
    assert len(rows) > 3 and rows[-1] == (150, 150)


def test_nodata_of_raster_and_labels_does_not_count(tmp_path: Path) -> None:
    image, truth = IMAGE.copy(), TRUTH + 1
    image[:30, :40] = 0
    truth[100:, 50:] = 0
    labels = tmp_path / "labels.yaml"
    labels.write_text("names: [a, b, c]\nmap: {1: 0, 2: 1, 3: 2, 255: ignore}\n")
    path = write(tmp_path / "scene.tif", image, nodata=0)
    file = write(tmp_path / "truth.tif", truth, nodata=0)
    report = terrazzo.evaluate(predictor(), path, truth=file, labels=str(labels))
    ignored = (image == 0).all(-1) | (truth == 0)
    mask = predictor().segment([image], [None])[0].mask
    assert report.confusion.sum() == (~ignored).sum()
    # the network sees gaps in the mean colour, so that pixels near them may be others than those of the bare array
    far = ~ignored
    far[:64, :104] = False
    confusion = ConfusionMatrix(3, 255)
    confusion.update(mask, np.where(far, TRUTH, 255).astype(np.uint8))
    assert (report.confusion >= confusion.counts).all()


def test_labels_of_a_part_lie_where_they_lie(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", IMAGE)
    truth = write(tmp_path / "truth.tif", TRUTH[40:90, 20:].astype(np.uint16), top=40, left=20)
    outside = np.ones(TRUTH.shape, bool)
    outside[40:90, 20:] = False
    np.testing.assert_array_equal(terrazzo.evaluate(predictor(), path, truth=truth).confusion, counted(TRUTH, outside))


@pytest.mark.parametrize("kind", ["shifted", "scaled", "elsewhere", "reference system"])
def test_another_grid_is_refused_with_both(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", IMAGE)
    given: dict[str, Any] = {
        "shifted": {"transform": rasterio.Affine(0.5, 0, 733601.2, 0, -0.5, 3725139)},
        "scaled": {"transform": rasterio.Affine(0.502, 0, 733601, 0, -0.502, 3725139)},
        "elsewhere": {"top": 5000},
        "reference system": {"crs": "EPSG:32617"},
    }[kind]
    truth = write(tmp_path / "truth.tif", TRUTH, **given)
    with pytest.raises(DatasetError) as error:
        terrazzo.evaluate(predictor(), path, truth=truth)
    assert error.value.code == "raster-grid"
    if kind == "elsewhere":
        assert "does not overlap" in error.value.message
    else:
        assert "truth.tif is 110 x 150" in error.value.message and "scene.tif is 110 x 150" in error.value.message
        assert (
            "EPSG:32616" in error.value.message and "-te 733601 3725064 733656 3725139 -ts 110 150" in error.value.fix
        )


def test_polygons_of_classes(tmp_path: Path) -> None:
    """A pond within a hut's bounds lies on top; what is in no polygon is background."""
    path = write(tmp_path / "scene.tif", IMAGE)
    features = [box(50, 40, 60, 50, kind="pond"), box(10, 20, 100, 70, kind="Hut")]
    truth = write_polygons(tmp_path / "truth.geojson", features)
    label = np.zeros(TRUTH.shape, np.uint8)
    label[10:100, 20:70] = 1
    label[50:60, 40:50] = 2
    model = predictor(OBJECTS)
    report = terrazzo.evaluate(model, path, truth=truth, attribute="kind")
    np.testing.assert_array_equal(report.confusion, counted(label))
    region = RasterOptions(parse_region(f"{733601 + 20 / 2},{3725139 - 100 / 2},{733601 + 70 / 2},{3725139 - 10 / 2}"))
    part = terrazzo.evaluate(model, path, truth=truth, attribute="kind", raster=region)
    assert part.confusion.sum(1).tolist() == [0, 90 * 50 - 100, 100]
    with pytest.raises(DatasetError, match=r"2 of 2 polygons have no 'kin'") as error:
        terrazzo.evaluate(model, path, truth=truth, attribute="kin")
    assert "did you mean 'kind'?" in error.value.fix
    with pytest.raises(DatasetError, match="has polygons of 'pond', 'Hut', and the classes are"):
        terrazzo.evaluate(predictor(), path, truth=truth, attribute="kind")
    with pytest.raises(DatasetError, match="there are 2 classes beside the background: 'background', 'hut', 'pond'"):
        terrazzo.evaluate(model, path, truth=truth)


def test_polygons_of_one_class_in_longitude_and_latitude(tmp_path: Path) -> None:
    from rasterio.warp import transform_geom

    path = write(tmp_path / "scene.tif", IMAGE)
    feature = box(10, 20, 100, 70)
    feature["geometry"] = transform_geom("EPSG:32616", "OGC:CRS84", feature["geometry"], precision=10)
    truth = write_polygons(tmp_path / "truth.geojson", [feature], "OGC:1.3:CRS84")
    two = LabelSpec.from_names(["background", "building"])
    model = Predictor(lambda images: brightest(images)[:, :2], Preprocess(), two, "toy", WINDOWS)
    report = terrazzo.evaluate(model, path, truth=truth)
    assert report.confusion.sum(1).tolist() == [150 * 110 - 90 * 50, 90 * 50]


def test_polygons_elsewhere_are_refused_with_both_places(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", IMAGE)
    truth = write_polygons(tmp_path / "truth.geojson", [box(1000, 0, 1010, 10, **{"class": "b"})])
    with pytest.raises(DatasetError, match=r"none of its 1 polygons touches scene\.tif: .*733601.*EPSG:32616") as error:
        terrazzo.evaluate(predictor(), path, truth=truth)
    assert error.value.code == "raster-labels"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"type": "Point", "coordinates": [1, 2]}', "holds no polygon"),
        ('{"type": "Polygon", "coordinates": [[1, 2], [3, 4], [5, 6]]}', "a polygon cannot be read: "),
        ('{"type": "Polygon", "coordinates": 7}', "in place of a list"),
        ('{"features": 3, "crs": {"properties": "x"}}', "holds no polygon"),
        ("{", "JSON"),
    ],
)
def test_polygons_that_are_none(text: str, says: str, tmp_path: Path) -> None:
    path, truth = write(tmp_path / "scene.tif", IMAGE), tmp_path / "truth.geojson"
    truth.write_text(text)
    with pytest.raises(DatasetError, match=says) as error:
        terrazzo.evaluate(predictor(), path, truth=truth)
    assert error.value.code == "raster-labels"


def test_labels_that_are_not_indices(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", IMAGE)
    for values in (TRUTH.astype(np.float32), IMAGE):
        with pytest.raises(DatasetError, match=r"truth\.tif: it holds .*, not class indices"):
            terrazzo.evaluate(predictor(), path, truth=write(tmp_path / "truth.tif", values))
    with pytest.raises(DatasetError, match=r"truth\.tif: rows 0 to .*holds? .*7"):
        terrazzo.evaluate(predictor(), path, truth=write(tmp_path / "truth.tif", TRUTH + 5))
    with pytest.raises(DatasetError, match="no pixel that is compared has a label"):
        terrazzo.evaluate(predictor(), path, truth=write(tmp_path / "truth.tif", np.full_like(TRUTH, 255)))


def test_rasters_and_photos_are_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", IMAGE)
    for given in ({}, {"truth": path, "only": "x"}):
        with pytest.raises(ConfigError) as error:
            terrazzo.evaluate(predictor(), path, **given)  # type: ignore[arg-type]
        assert error.value.code == "raster-truth"
    for given in ({"attribute": "x"}, {"truth": path}):
        with pytest.raises(ConfigError) as error:
            terrazzo.evaluate(predictor(), tmp_path, **given)  # type: ignore[arg-type]
        assert error.value.code == "raster-truth"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "scene.tif", scene(40, 40))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--data", str(path)])
    assert ended.value.code == 2 and "error[raster-truth]" in capsys.readouterr().err
    truth = write(tmp_path / "truth.tif", scene(40, 40, seed=1)[..., 0] % 11)
    main(["evaluate", "--data", str(path), "--truth", str(truth), "--json", str(tmp_path / "report.json")])
    assert "on scene.tif/all: 1 images, 11 classes, protocol slide" in capsys.readouterr().out
    assert (tmp_path / "report.json").stat().st_size
