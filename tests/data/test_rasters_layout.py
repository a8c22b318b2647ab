"""Rasters with labels beside them as a data set: windows that do not overlap, each with its mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio")

from made_rasters import box, scene, write, write_polygons

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.layouts import rasters
from terrazzo.data.rules import DataRules
from terrazzo.data.sources.raster_window import RasterWindow
from terrazzo.data.splits import SplitRule
from terrazzo.errors import DatasetError, ImageError
from terrazzo.imaging.read import ReadOptions

IMAGE = scene(150, 110)
HUTS = [box(0, 0, 40, 30), box(100, 90, 150, 110)]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasters, "SIDE", 50)
    monkeypatch.setattr(rasters, "GRID", 10)
    monkeypatch.setattr(rasters, "LEAST", 20)


def mask_of_huts() -> np.ndarray:
    mask = np.zeros((150, 110), np.uint8)
    mask[:40, :30] = mask[100:, 90:] = 1
    return mask


def windows(root: Path, split: str) -> list[RasterWindow]:
    found = [sample.image for sample in open_dataset(root, split).samples]
    assert all(isinstance(image, RasterWindow) for image in found)
    return found  # type: ignore[return-value]


def test_all_of_a_raster_in_windows(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", IMAGE)
    write_polygons(tmp_path / "scene.geojson", HUTS)
    (tmp_path / "labels.yaml").write_text("names: [background, hut]\n")
    layout = find_layout(tmp_path)
    assert (layout.name, layout.splits) == ("rasters with labels without splits", ("all",))
    dataset = open_dataset(tmp_path, "all")
    assert dataset.labels.names == ("background", "hut") and len(dataset) == 9
    image, mask, seen = np.zeros_like(IMAGE), np.full((150, 110), 9, np.uint8), np.zeros((150, 110), int)
    for index, window in enumerate(windows(tmp_path, "all")):
        w = window.window
        place = slice(w.top, w.top + w.height), slice(w.left, w.left + w.width)
        image[place], mask[place] = dataset.read(index)
        seen[place] += 1
        assert window.name == f"scene_r{w.top}_c{w.left}.tif" and window.size == (50, w.width) and w.width in (36, 37)
    assert (seen == 1).all()
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(mask, mask_of_huts())


def test_val_by_an_outline_takes_nothing_from_train_but_its_pixels(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", IMAGE)
    write_polygons(tmp_path / "scene.geojson", HUTS)
    write_polygons(tmp_path / "val.geojson", [box(60, 40, 110, 110), box(0, 60, 45, 110), box(9000, 0, 9001, 9)])
    assert find_layout(tmp_path).splits == ("train", "val")
    seen = {}
    for split in ("train", "val"):
        seen[split] = np.zeros((150, 110), int)
        for image in windows(tmp_path, split):
            w = image.window
            seen[split][w.top : w.top + w.height, w.left : w.left + w.width] += 1
    expected = np.zeros((150, 110), bool)
    expected[60:110, 40:] = expected[:45, 60:] = True
    np.testing.assert_array_equal(seen["val"], expected.astype(int))
    assert seen["train"].max() == 1 and not (seen["train"] & seen["val"]).any()
    # rows 45 to 60 beside the upper outline are narrower than a window may be
    narrow = np.zeros((150, 110), bool)
    narrow[45:60, :] = True
    assert (seen["train"] + seen["val"] + narrow >= 1).all()


def test_folders_and_shares_split_too(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write(tmp_path / "folders" / split / "scene.tif", IMAGE)
        write_polygons(tmp_path / "folders" / split / "scene.geojson", HUTS)
    assert find_layout(tmp_path / "folders").splits == ("train", "val")
    train = tmp_path / "folders" / "train"
    rule = DataRules(split=SplitRule(val=0.3))
    with pytest.warns(match="split by seed 0, in photos: 6 photos in train, 3 in val"):
        counts = [len(open_dataset(train, split, rules=rule)) for split in ("train", "val")]
    assert counts == [6, 3]


def test_classes_of_polygons(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", IMAGE)
    write_polygons(
        tmp_path / "scene.geojson", [box(0, 0, 40, 30, **{"class": "hut"}), box(50, 0, 90, 90, **{"class": "sea"})]
    )
    dataset = open_dataset(tmp_path, "all")
    assert dataset.labels.names == ("background", "hut", "sea")
    masks = [dataset.read(index)[1] for index in range(len(dataset))]
    assert [sum(int((mask == k).sum()) for mask in masks) for k in range(3)] == [16500 - 1200 - 3600, 1200, 3600]
    (tmp_path / "labels.yaml").write_text(
        "names: [sea, hut, sand]\n"
    )  # without a background: elsewhere nothing is known
    dataset = open_dataset(tmp_path, "all")
    masks = [dataset.read(index)[1] for index in range(len(dataset))]
    assert [sum(int((mask == k).sum()) for mask in masks) for k in (0, 1, 2, 255)] == [3600, 1200, 0, 16500 - 4800]
    write_polygons(tmp_path / "scene.geojson", [box(0, 0, 40, 30, **{"class": "hut"}), box(50, 0, 90, 90)])
    with pytest.raises(DatasetError, match=r"scene\.geojson: 1 of 2 polygons have no 'class'"):
        open_dataset(tmp_path, "all")


def test_label_rasters_and_gaps(tmp_path: Path) -> None:
    image, truth = IMAGE.copy(), scene(seed=3)[..., 0] % 3
    image[:50, :37] = 0  # a whole window, as windows lie outside of val
    image[60:70, 10:20] = 0
    write(tmp_path / "scene.tif", image, nodata=0)
    write(tmp_path / "scene_labels.tif", truth.astype(np.uint16), nodata=9)
    write_polygons(tmp_path / "val.geojson", [box(100, 0, 150, 110)])
    dataset = open_dataset(tmp_path, "train")
    assert len(dataset) == 5
    found = np.zeros((150, 110), int)
    for index, window in enumerate(windows(tmp_path, "train")):
        w = window.window
        found[w.top : w.top + w.height, w.left : w.left + w.width] = dataset.read(index)[1].astype(int) + 1
    expected = truth.astype(int) + 1
    expected[60:70, 10:20] = 256
    expected[:50, :36] = expected[100:] = 0
    np.testing.assert_array_equal(found[:, :36], expected[:, :36])
    np.testing.assert_array_equal(found[50:, 36:], expected[50:, 36:])


def test_bands_are_measured_in_windows(tmp_path: Path) -> None:
    deep = (scene(bands=4).astype(np.uint16)) * 9
    write(tmp_path / "scene.tif", deep, photometric="minisblack")
    write_polygons(tmp_path / "scene.geojson", HUTS)
    found = check_dataset(tmp_path, bands=[4, 1])
    (split,) = found.splits
    assert [band.mean for band in split.bands] == pytest.approx([deep[..., 3].mean(), deep[..., 0].mean()])
    assert split.stored == {"4 of uint16": 9}
    image = windows(tmp_path, "all")[0]
    with pytest.raises(ImageError, match=r"scene\.tif: it has 4 bands, and does not say"):
        image.read()
    assert image.with_reading(ReadOptions(bands=(1, 2, 3), value_range=(0, 2295))).read().shape == (50, 36, 3)


def test_a_damaged_block_names_its_rows(tmp_path: Path) -> None:
    import rasterio

    path = write(tmp_path / "scene.tif", IMAGE, compress="deflate")
    write_polygons(tmp_path / "scene.geojson", HUTS)
    with rasterio.open(path) as file:
        at = int(file.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", 1))
    data = bytearray(path.read_bytes())
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    problems = [problem for problem in check_dataset(tmp_path).errors if problem.file is not None]
    assert problems and all("cannot be read" in problem.message and "rows " in problem.message for problem in problems)
