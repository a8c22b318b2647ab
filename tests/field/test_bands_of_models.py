"""Models of other bands than red, green and blue: measured, trained, used, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_tiffs import tiff
from PIL import Image
from tiny_runs import TINY

import terrazzo
from terrazzo.cli.main import main
from terrazzo.data.bands import BandStatistics
from terrazzo.data.check import check_dataset
from terrazzo.data.dataset import Dataset, Sample
from terrazzo.errors import ConfigError, DatasetError, ImageError, TerrazzoError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.read import ReadOptions, image_size
from terrazzo.imaging.resize import INTERPOLATIONS, resize_image, resize_in_strips
from terrazzo.imaging.tiff_windows import TiffWindows
from terrazzo.inference.predict import make_predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.augment import AUGMENTATIONS
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.step import Context
from terrazzo.training.bands import measured, read_by
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.memory import estimate_step_memory
from terrazzo.weights.bands import with_bands
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder

SIDE = 48
NAMES = ("red", "green", "blue", "nir")
TINY_MODEL = TINY["segformer_tiny"]
OVERRIDES: dict[str, Any] = {
    "run.batch_size": 4,
    "run.ema_decay": 0.5,
    "run.precision": "fp32",
    "run.validate_every": 40,
    "optimizer.lr": 0.01,
    "augment.crop.size": [32, 32],
}


def scene(rng: np.random.Generator, bands: int, dtype: str, tell: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise in which one band alone is brighter where the mask is 1."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    top, left = rng.integers(0, SIDE // 2, 2)
    mask[top : top + SIDE // 2, left : left + SIDE // 2] = 1
    full = {"u1": 255, "u2": 4000, "i2": 3000, "f4": 1.0}[dtype]
    image = rng.uniform(0.2, 0.6, (SIDE, SIDE, bands)) * full
    image[..., tell] = np.where(mask, 0.6, 0.3) * full + rng.normal(0, 0.02, mask.shape) * full
    return image.astype(dtype), mask


def metadata(names: tuple[str, ...]) -> str:
    items = (f'<Item name="DESCRIPTION" sample="{i}" role="description">{name}</Item>' for i, name in enumerate(names))
    return f"<GDALMetadata>{''.join(items)}</GDALMetadata>"


def write_set(root: Path, bands: int, dtype: str, tell: int, names: tuple[str, ...] = (), train: int = 12) -> Path:
    """Write a data set of TIFFs with unspecified extra bands."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            image, mask = scene(rng, bands, dtype, tell)
            extra, about = (0,) * (bands - 1), metadata(names) if names else ""
            data = tiff(image, photometric=1, extra=extra or None, metadata=about, deflate=True)
            (root / split / "images" / f"{number}.tif").write_bytes(data)
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    (root / "labels.yaml").write_text("names: [ground, thing]\n")
    return root


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bands of uint16, of which near-infrared alone tells the classes apart."""
    return write_set(tmp_path_factory.mktemp("four") / "set", 4, "u2", 3, NAMES)


@pytest.fixture(scope="module")
def run(four: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "four"
    learn(four, output, [1, 2, 3, "nir"])
    return output


def learn(data: Path, output: Path, bands: list[Any], steps: int = 24) -> None:
    overrides = {**OVERRIDES, "data.bands": bands, "run.steps": steps}
    terrazzo.train(data, output, TINY_MODEL, overrides=overrides, workers=0, device="cpu")


def miou(data: Path, output: Path, bands: str, steps: int = 24) -> float:
    learn(data, output, [int(band) for band in bands.split(",")], steps)
    return float(json.loads((output / "model" / "config.json").read_text())["record"]["val_mIoU"])


def test_the_command_takes_bands_by_number_and_name(four: Path, tmp_path: Path) -> None:
    options = ["--bands", "1,2,3,nir", "--steps", "1", "--workers", "0", "--crop", "32", "32", "--batch-size", "2"]
    main(["train", "--data", str(four), "--output", str(tmp_path / "run"), "--device", "cpu", *options])
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["preprocess"]["bands"]["chosen"] == [1, 2, 3, 4] and config["model"]["in_channels"] == 4


def test_the_fourth_band_gets_in(run: Path, four: Path, tmp_path: Path) -> None:
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["model"]["in_channels"] == 4
    bands = config["preprocess"]["bands"]
    assert bands["chosen"] == [1, 2, 3, 4] and bands["dtype"] == "uint16" and bands["names"] == list(NAMES)
    assert config["record"]["val_mIoU"] > 85
    assert miou(four, tmp_path / "without", "1,2,3") < 70


def test_evaluate_and_predict_read_the_bands_without_being_told(
    run: Path, four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = json.loads((run / "model" / "config.json").read_text())["record"]["val_mIoU"]
    assert round(terrazzo.evaluate(run, four, engine="torch").metrics.mIoU, 2) == learnt
    photo = four / "val" / "images" / "0.tif"
    result = terrazzo.predict(photo, run, engine="torch")
    truth = np.asarray(Image.open(four / "val" / "masks" / "0.png"))
    assert (result.mask == truth).mean() > 0.9
    assert result.image is not None and result.image.shape == (SIDE, SIDE, 3) and result.image.dtype == np.uint8

    stored = ReadOptions(rule=BandRule((1, 2, 3, 4))).read(photo).astype(np.uint16)
    for array in (stored, torch.from_numpy(stored.astype(np.int32).transpose(2, 0, 1)).to(torch.uint16)):
        np.testing.assert_array_equal(terrazzo.predict(array, run, engine="torch").mask, result.mask)

    turned = tmp_path / "turned.tif"  # another sensor's order
    turned.write_bytes(tiff(stored[..., ::-1], photometric=1, extra=(0, 0, 0)))
    main(["predict", str(turned), "--model", str(run), "--bands", "4,3,2,1", "--engine", "torch", "-o", str(tmp_path)])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "turned_mask.png")), result.mask)


@pytest.mark.parametrize("protocol", ["slide", "multi-scale", "segformer-cityscapes-512"])
def test_every_protocol_shows_any_bands(run: Path, four: Path, protocol: str) -> None:
    result = terrazzo.predict(four / "val" / "images" / "1.tif", run, engine="torch", protocol=protocol)
    truth = np.asarray(Image.open(four / "val" / "masks" / "1.png"))
    assert (result.mask == truth).mean() > 0.75


def test_large_rasters_are_read_in_windows(run: Path, tmp_path: Path) -> None:
    image, _ = scene(np.random.default_rng(5), 4, "u2", 3)
    path = tmp_path / "large.tif"
    path.write_bytes(tiff(np.tile(image, (3, 4, 1)), photometric=1, extra=(0, 0, 0), tile=32, deflate=True))
    model = terrazzo.load(run)
    model = replace(model, preprocess=replace(model.preprocess, short_side=None, long_side=None))
    predictor = make_predictor(model, "cpu", "slide", engine="torch")
    whole = terrazzo.predict(path, predictor)
    assert whole.image is not None
    streamed = terrazzo.predict(path, predictor, max_pixels=1000)
    assert streamed.image is None
    np.testing.assert_array_equal(streamed.mask, whole.mask)


@pytest.mark.parametrize(
    ("values", "options", "code"),
    [
        (np.zeros((8, 8, 3), np.uint16), {}, "image-bands"),
        (np.zeros((8, 8, 4), np.uint8), {}, "image-depth"),
        (np.zeros((8, 8, 4), np.float32), {}, "image-depth"),
        (np.zeros((8, 8, 4), np.uint16), {"bands": (1, 2, 3)}, "image-bands"),
        (np.zeros((8, 8, 4), np.uint16), {"value_range": (0, 9)}, "image-value-range"),
    ],
)
def test_images_of_other_bands_or_depth_are_refused(
    run: Path, tmp_path: Path, values: np.ndarray, options: dict[str, Any], code: str
) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(values, photometric=1, extra=(0,) * (values.shape[2] - 1)))
    for source in (path, values):
        with pytest.raises(ImageError) as caught:
            terrazzo.predict(source, run, engine="torch", **options)
        assert caught.value.code == code
    with pytest.raises(ImageError, match="one or three"):
        ReadOptions(bands=(1, 2)).read(values)


def test_a_run_on_images_that_differ_is_refused_before_step_1(four: Path, tmp_path: Path) -> None:
    mixed = write_set(tmp_path / "mixed", 4, "u2", 3)
    (mixed / "val" / "images" / "1.tif").write_bytes(tiff(np.zeros((SIDE, SIDE, 4), np.uint8), extra=(0,)))
    with pytest.raises(ImageError, match=r"1\.tif.*uint8.*uint16") as caught:
        terrazzo.train(mixed, tmp_path / "run", TINY_MODEL, overrides={"data.bands": [1, 4]})
    assert caught.value.code == "image-depth"
    for bands, said in (([5], "no band 5"), (["swir"], "swir")):
        with pytest.raises(ImageError, match=rf"0\.tif.*{said}"):
            terrazzo.train(four, tmp_path / "run", TINY_MODEL, overrides={"data.bands": bands})
    with pytest.raises(TerrazzoError, match="4 bands") as refused:
        terrazzo.train(four, tmp_path / "run", TINY_MODEL)
    assert "--bands 1,2,3,4" in refused.value.fix
    spec = create_model(TINY_MODEL, 2, in_channels=5).spec
    with pytest.raises(ConfigError, match="takes 5 bands") as told:
        terrazzo.train(four, tmp_path / "run", spec, overrides={"data.bands": [1, 2], "run.steps": 1}, workers=0)
    assert told.value.code == "recipe-bands"


def test_one_band_and_twelve_of_floating_point_with_gaps(tmp_path: Path) -> None:
    grey = write_set(tmp_path / "grey", 1, "i2", 0)
    assert miou(grey, tmp_path / "one", "1", 18) > 80
    twelve = write_set(tmp_path / "twelve", 12, "f4", 11)
    for path in sorted(twelve.glob("*/images/*.tif")):
        values = ReadOptions(rule=BandRule(tuple(range(1, 13)))).read(path)
        values[:8, :, 3] = np.nan
        values[8:12, :, 2] = -9999
        path.write_bytes(tiff(values, photometric=1, extra=(0,) * 11, nodata="-9999"))
    assert miou(twelve, tmp_path / "many", ",".join(map(str, range(1, 13))), 25) > 80
    report = json.loads(next((tmp_path / "many" / "report").glob("*.json")).read_text())
    assert np.sum(report["confusion"]) == 3 * (SIDE - 12) * SIDE


def test_gaps_are_ignored_and_filled_with_the_mean(tmp_path: Path) -> None:
    rule = BandRule((1, 2), ranges=((0.0, 255.0), (0.0, 510.0)), nodata=7.0)
    whole = np.full((2, 3, 2), 100, np.uint16)
    whole[0, 0], whole[0, 1, 0] = 7, 7  # nodata in both bands, and a dark pixel of one
    scaled = rule.scaled(whole)
    assert np.isnan(scaled).tolist() == [[[True, True], [False, False], [False, False]], [[False, False]] * 3]
    assert scaled[0, 1].tolist() == [7, 50]
    floating = whole.astype(np.float32)
    floating[1, 2, 1] = np.inf
    assert np.isnan(rule.scaled(floating)).sum() == 4
    assert np.isnan(rule.scaled(floating, nodata=100.0)).sum() == 12

    preprocess = Preprocess(mean=(10.0, 20.0), std=(2.0, 4.0), bands=rule)
    x = preprocess(scaled)
    assert x[:, 0, 0].tolist() == [0, 0] and x[:, 1, 0].tolist() == [45, 7.5]
    assert preprocess.filled(scaled)[0, 0].tolist() == [10, 20]
    resized = Preprocess(size=(1, 1), mean=(10.0, 20.0), std=(2.0, 4.0), bands=rule, interpolation="area")(scaled)
    np.testing.assert_allclose(resized[:, 0, 0], [(10 + 7 + 400) / 12 - 5, (20 + 250) / 24 - 5], rtol=1e-5)

    (tmp_path / "image.tif").write_bytes(tiff(whole, photometric=1, extra=(0,)))
    Image.fromarray(np.array([[0, 1, 1], [0, 0, 0]], np.uint8)).save(tmp_path / "mask.png")
    samples = (Sample.of_files(tmp_path / "image.tif", tmp_path / "mask.png"),)
    data = Dataset(tmp_path, "train", LabelSpec.from_names(["a", "b"]), samples, "a pair", ReadOptions(rule=rule))
    assert data.read(0)[1].tolist() == [[255, 1, 1], [0, 0, 0]]


def test_statistics_are_those_of_all_training_images_at_once(four: Path) -> None:
    rule = BandRule((4, 1), "uint16")
    train = terrazzo.data.open_dataset(four, "train")  # type: ignore[attr-defined]
    found = measured(rule, train, Preprocess())
    values = np.concatenate([read_by(train, rule).read(index)[0].reshape(-1, 2) for index in range(len(train))])
    assert found.bands is not None and found.bands.ranges is not None
    low, high = np.array(found.bands.ranges).T
    deviation = 3 * values.std(0, dtype=np.float64)
    mean = values.mean(0, dtype=np.float64)
    np.testing.assert_allclose(low, np.maximum(values.min(0), mean - deviation), rtol=1e-6)
    np.testing.assert_allclose(high, np.minimum(values.max(0), mean + deviation), rtol=1e-6)
    np.testing.assert_allclose(found.mean, (mean - low) * 255 / (high - low), rtol=1e-5)
    np.testing.assert_allclose(found.std, deviation / 3 * 255 / (high - low), rtol=1e-5)
    normalised = found.normalize(read_by(train, found.bands).read(0)[0])
    assert abs(float(normalised.mean())) < 0.2 and 0.8 < float(normalised.std()) < 1.2
    assert Preprocess.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "bands" not in Preprocess().to_dict()  # as older programs read it


def test_statistics_do_not_depend_on_how_images_are_divided() -> None:
    values = np.random.default_rng(1).normal(1e6, 1, (40, 30, 3)).astype(np.float32)
    values[:5, :, 1] = np.nan
    once, twice, first, second = (BandStatistics(3) for _ in range(4))
    once.add(values)
    first.add(values[:13])
    second.add(values[13:])
    twice.merge(first)
    twice.merge(second)
    for name in ("count", "mean", "std", "lowest", "highest", "gaps"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-9)
    np.testing.assert_allclose(once.std, np.nanstd(values.astype(np.float64), (0, 1)), rtol=1e-9)
    np.testing.assert_allclose(once.gaps, [0, 1 / 8, 0])
    flat = BandStatistics(1)
    flat.add(np.full((2, 2, 1), 9, np.float32))
    assert flat.usual_ranges("uint16") == ((9.0, 10.0),) and flat.usual_ranges("uint8") == ((0.0, 255.0),)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("bands", [1, 2, 4, 5, 12])
def test_every_augmentation_takes_any_bands_but_gray(name: str, bands: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-20, 300, (24, 20, bands)).astype(np.float32)
    mask = rng.integers(0, 2, (24, 20)).astype(np.uint8)
    certain = {"p": 1.0} if "p" in AUGMENTATIONS[name].__dataclass_fields__ else {}  # type: ignore[attr-defined]
    step = RandomCrop(size=(16, 16)) if name == "crop" else AUGMENTATIONS[name](**certain)
    pixels = np.array([[300, 4]])
    context = Context(rng, 255, pixels.sum(0), pixels, lambda index: (image[::-1], mask[::-1]))
    if name == "gray":
        return  # `steps_for_bands` leaves it out
    changed, labels = step(image, mask, context)
    assert changed.dtype == np.float32 and changed.ndim == 3 and changed.shape[2] == bands
    assert changed.shape[:2] == labels.shape and np.isfinite(changed).all()


def test_brightness_and_contrast_change_all_bands_alike_and_clip_nothing() -> None:
    image = np.random.default_rng(0).uniform(-20, 300, (5, 6, 4)).astype(np.float32)
    step = AUGMENTATIONS["photometric"](brightness=0.0, contrast=(1.5, 1.5))
    seen = set()
    for seed in range(20):
        context = Context(np.random.default_rng(seed), 255, np.ones(2), np.ones((1, 2)), lambda index: (image, image))
        changed, _ = step(image, np.zeros((5, 6), np.uint8), context)
        factor = float((changed / image).mean())
        np.testing.assert_allclose(changed, image * np.float32(factor), rtol=1e-5)
        seen.add(round(factor, 4))
    assert seen == {1.0, 1.5}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("antialias", [False, True])
def test_any_bands_are_resized_as_each_alone(interpolation: Any, antialias: bool) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (30, 44, 5)).astype(np.float32)
    resized = resize_image(image, (11, 20), interpolation, antialias)
    assert resized.shape == (11, 20, 5) and resized.dtype == np.float32
    for band in range(5):
        alone = resize_image(np.ascontiguousarray(image[..., band : band + 1]), (11, 20), interpolation, antialias)
        np.testing.assert_allclose(resized[..., band : band + 1], alone, rtol=1e-5, atol=1e-3)
    rgb = (80 + image[..., :3] / 3).astype(np.uint8)  # so that nothing is clipped between the two passes
    rounded = np.clip(resize_image(rgb.astype(np.float32), (11, 20), interpolation, antialias), 0, 255)
    assert np.abs(resize_image(rgb, (11, 20), interpolation, antialias) - rounded).max() < 3  # two roundings
    if antialias and interpolation != "nearest":
        strips = resize_in_strips(lambda first, stop: image[first:stop], (30, 44), (11, 20), interpolation)
        np.testing.assert_array_equal(strips, resized)


@pytest.mark.parametrize("how", [{}, {"tile": 16}, {"planar": True}, {"deflate": True, "order": ">"}])
@pytest.mark.parametrize(("dtype", "bands"), [("u1", 4), ("u2", 5), ("i2", 2), ("f4", 12), ("u2", 1)])
def test_bands_are_read_at_full_depth_whole_and_in_windows(
    how: dict[str, Any], dtype: str, bands: int, tmp_path: Path
) -> None:
    values = (np.random.default_rng(0).uniform(-1 if dtype in "i2f4" else 0, 1, (40, 50, bands)) * 250).astype(dtype)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(values, photometric=1, extra=(0,) * (bands - 1) or None, **how))
    chosen = tuple(range(bands, 0, -1))
    reading = ReadOptions(rule=BandRule(chosen, np.dtype(dtype).name))
    read = reading.read(path)
    np.testing.assert_array_equal(read, values[..., ::-1].astype(np.float32))
    assert image_size(path, rule=reading.rule) == (40, 50)
    windows = TiffWindows.of(path, reading)
    assert windows is not None
    np.testing.assert_array_equal(windows.read(slice(9, 33), slice(11, 40)), read[9:33, 11:40])


def test_other_formats_have_bands_too(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    read = ReadOptions(rule=BandRule((4, 1), "uint8", ((0.0, 255.0),) * 2)).read(tmp_path / "x.png")
    np.testing.assert_array_equal(read, rgba[..., [3, 0]].astype(np.float32))
    deep = np.arange(42, dtype=np.uint16).reshape(6, 7) * 1000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(ReadOptions(rule=BandRule((1,), "uint16")).read(tmp_path / "deep.png")[..., 0], deep)
    with pytest.raises(ImageError, match="no band 2"):
        ReadOptions(rule=BandRule((2,))).read(tmp_path / "deep.png")


def test_check_data_says_bands_depth_and_ranges(four: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = check_dataset(four, bands=["nir", 1])
    (train, _) = check.splits
    assert train.stored == {"4 of uint16": 12} and [(b.band, b.name) for b in train.bands] == [(4, "nir"), (1, "red")]
    rule = BandRule((4, 1))
    values = np.stack([ReadOptions(rule=rule).read(path) for path in sorted(four.glob("train/images/*.tif"))])
    assert [band.lowest for band in train.bands] == values.min((0, 1, 2)).tolist()
    np.testing.assert_allclose([band.std for band in train.bands], values.std((0, 1, 2), dtype=np.float64), rtol=1e-9)
    assert json.loads(json.dumps(check.to_dict()))["splits"][0]["bands"][0]["name"] == "nir"
    main(["check-data", str(four), "--bands", "nir"])
    told = capsys.readouterr().out
    assert "4 of uint16" in told and "nir" in told and "Ready to train." in told
    (error,) = check_dataset(four, bands=[7]).errors[:1]
    assert error.code == "image-bands"


def test_a_band_without_values_is_told_by_check_data_and_refused_by_train(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", 2, "f4", 1, train=2)
    for path in data.glob("*/images/*.tif"):
        values = ReadOptions(rule=BandRule((1, 2))).read(path)
        values[..., 0] = np.nan
        path.write_bytes(tiff(values, photometric=1, extra=(0,)))
    (error,) = check_dataset(data, bands=[2, 1]).errors
    assert error.code == "dataset-bands" and "band 1 has no value" in error.message
    assert check_dataset(data, bands=[2]).errors == ()
    with pytest.raises(DatasetError, match="band 1 has no value"):
        terrazzo.train(data, tmp_path / "run", TINY_MODEL, overrides={"data.bands": [1, 2]})


def test_a_run_starts_from_weights_for_rgb_and_from_weights_for_these_bands(
    four: Path, run: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    rgb = TrainedModel("segformer_tiny", create_model(TINY_MODEL, 2), LabelSpec.from_names(["ground", "thing"]),
                       Preprocess())  # fmt: skip
    save_folder(tmp_path / "rgb", rgb)
    terrazzo.train(
        four, tmp_path / "run", TINY_MODEL, weights=tmp_path / "rgb", workers=0, device="cpu",
        overrides={"data.bands": [1, 2, 3, 4], "run.steps": 1, "optimizer.lr": 1e-30, "run.batch_size": 2},
    )  # fmt: skip
    theirs, mine = rgb.network.state_dict(), terrazzo.load(tmp_path / "run").network.state_dict()
    first = next(name for name, value in mine.items() if value.ndim == 4 and value.shape[1] == 4)
    torch.testing.assert_close(mine[first], with_bands(theirs[first], 4))
    torch.testing.assert_close(mine[first][:, 3], theirs[first].mean(1) * 3 / 4)

    terrazzo.train(  # without a word on bands: those of the weights, on their scale
        four, tmp_path / "on", TINY_MODEL, weights=run, workers=0, device="cpu",
        overrides={"run.steps": 1, "run.batch_size": 2},
    )  # fmt: skip
    assert terrazzo.load(tmp_path / "on").preprocess == terrazzo.load(run).preprocess


def test_a_run_of_bands_is_resumed_with_what_was_measured(four: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "again")
    recipe = (run / "recipe.yaml").read_text()
    terrazzo.train(four, tmp_path / "again", resume=True, workers=0, device="cpu")
    assert (tmp_path / "again" / "recipe.yaml").read_text() == recipe and "uint16" in recipe
    with pytest.raises(TerrazzoError, match=r"another data.*data\.bands"):
        terrazzo.train(four, tmp_path / "again", resume=True, overrides={"data.bands": [1]}, workers=0, device="cpu")


def test_the_memory_of_a_step_counts_the_bands() -> None:
    def step(bands: int) -> int:
        model = create_model(TINY_MODEL, 2, in_channels=bands)
        loss = CombinedLoss((CrossEntropy(),), torch.ones(2), 255, torch.device("cpu"))
        return estimate_step_memory(
            model, 2, (64, 64), loss=loss, optimizer_states=2, has_average=False, bf16=False
        ).step

    assert step(30) - step(3) >= 2 * 27 * 64 * 64 * 4


def test_a_network_for_other_bands_than_its_preprocessing_is_refused() -> None:
    labels = LabelSpec.from_names(["a", "b"])
    model = TrainedModel("segformer_tiny", create_model(TINY_MODEL, 2, in_channels=5), labels, Preprocess())
    with pytest.raises(ConfigError, match="takes 5 bands") as caught:
        make_predictor(model, engine="torch")
    assert caught.value.code == "model-bands"


def test_a_recipe_says_its_bands_and_rules_say_what_is_wrong() -> None:
    for wrong in ({"chosen": []}, {"chosen": [0]}, {"chosen": [1], "ranges": [[2, 1]]}, {"chosen": [1], "dtype": "x"},
                  {"chosen": [1], "names": ["a", "b"]}, {"bands": 1}, [1], {"chosen": 3}):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            BandRule.from_dict(wrong)
        assert caught.value.code in ("preprocess-bands", "argument-type")
    with pytest.raises(ConfigError, match="2 finite"):
        Preprocess(bands=BandRule((1, 2)))
    rule = BandRule((3, 2), "uint16", ((0.0, 4095.0),) * 2, ("green", "red"), 0.0)
    assert BandRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    assert str(rule) == "bands 3, 2 ('green', 'red') of uint16"


def test_the_picture_of_bands_shows_red_green_and_blue_where_they_are_named() -> None:
    image = np.arange(8, dtype=np.float32).reshape(1, 2, 4) * 60
    image[0, 1, 0] = np.nan
    named = BandRule((1, 2, 3, 4), names=("nir", "Blue", "Green", "Red")).as_rgb(image)
    assert named.tolist() == [[[180, 120, 60], [255, 255, 255]]]
    assert BandRule((1, 2, 3, 4)).as_rgb(image).tolist() == [[[0, 60, 120], [255, 255, 255]]]
    assert BandRule((1, 2)).as_rgb(image[..., :2]).tolist() == [[[0, 0, 0], [255, 255, 255]]]
