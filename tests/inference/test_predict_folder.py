"""`terrazzo.predict_folder` without an output: results one after the other, computed when they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.errors import ImageError, LabelError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.overlay import Style
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel

LABELS = LabelSpec.from_names(["background", "red", "blue"])


class Counting:
    """The colours as logits, counting the images that it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen += len(images_B3HW)
        return np.ascontiguousarray(images_B3HW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(12):
        array = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def test_results_come_when_they_are_asked_for(folder: Path) -> None:
    engine = Counting()
    results = terrazzo.predict_folder(folder, model=Predictor(engine, Preprocess(), LABELS))
    assert results.count == 12 and engine.seen == 0
    first = next(results)
    assert first.path == folder / "0.png" and first.image is not None
    assert engine.seen <= 2
    assert [result.path.name for result in results if result.path] == [f"{number}.png" for number in range(1, 12)]
    assert engine.seen == 12 and results.failures == []


def test_they_are_those_that_predict_gives_and_keep_what_save_names(folder: Path) -> None:
    predictor = Predictor(Counting(), Preprocess(), LABELS)
    expected = terrazzo.predict([folder], predictor)
    for result, other in zip(terrazzo.predict_folder([folder], None, predictor), expected, strict=True):
        np.testing.assert_array_equal(result.mask, other.mask)
        assert result.probabilities is None and result.confidence is None
    result = next(terrazzo.predict_folder(folder, model=predictor, save="mask,entropy"))
    assert result.entropy is not None and result.confidence is None


def test_an_image_that_cannot_be_read_is_left_out_with_a_note(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"no image")
    results = terrazzo.predict_folder(folder, model=Predictor(Counting(), Preprocess(), LABELS))
    with pytest.warns(TerrazzoWarning, match=r"^left out: .*3\.png"):
        assert len(list(results)) == 11
    (failure,) = results.failures
    assert failure.path == folder / "3.png" and isinstance(failure.error, ImageError)


def test_an_image_too_large_to_hold_comes_as_its_mask(folder: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(array).save(folder / "large.tif", compression="tiff_adobe_deflate", strip_size=90 * 30)
    predictor = Predictor(Counting(), Preprocess(), LABELS, protocol=Protocol("mine", window=30, stride=20))
    reading = ReadOptions(max_pixels=1000)
    (result,) = terrazzo.predict_folder(folder / "large.tif", model=predictor, reading=reading)
    assert result.image is None
    np.testing.assert_array_equal(result.mask, terrazzo.predict(array, predictor).mask)


def test_a_network_in_training_stays_in_training_between_results(folder: Path) -> None:
    network = create_model("segformer_b0", 3)
    network.train()
    model = TrainedModel("segformer_b0", network, LABELS, Preprocess(), name="tiny")
    expected = terrazzo.predict(folder / "1.png", model, device="cpu", engine="torch").mask
    results = terrazzo.predict_folder(folder, model=model, device="cpu", engine="torch")
    next(results)
    assert all(module.training for module in network.modules())
    np.testing.assert_array_equal(next(results).mask, expected)  # not as in training, by a batch's statistics
    assert all(module.training for module in network.modules())


def test_classes_that_the_model_does_not_have_are_refused_before_the_first_image(folder: Path, tmp_path: Path) -> None:
    engine = Counting()
    predictor = Predictor(engine, Preprocess(), LABELS)
    for style in (Style(classes=("green",)), Style(cutout=("green",))):
        with pytest.raises(LabelError, match="'green'"):
            terrazzo.predict_folder(folder, tmp_path / "out", predictor, save="overlay,cutout", style=style)
    assert engine.seen == 0 and not (tmp_path / "out").exists()


def test_a_web_address_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="web address") as caught:
        terrazzo.predict_folder("https://example.org/a.jpg", tmp_path)
    assert caught.value.code == "image-address"
