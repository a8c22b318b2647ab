"""`check_labels`: the mask that was spoilt comes first, with the spoilt region framed; what is right keeps quiet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.inference.predictor import Predictor
from terrazzo.labelling import check_labels as module
from terrazzo.labelling.label_quality import (
    ClassConfidence,
    label_quality,
    likely_classes,
    worst_region,
)
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess

LABELS = LabelSpec.from_names(["dark", "bright"])


def by_brightness(images_B3HW: np.ndarray) -> np.ndarray:
    """A network that tells dark from bright, and is sure of it."""
    mean_BHW = 4 * images_B3HW.mean(1)
    return np.stack([-mean_BHW, mean_BHW], 1).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four photos whose right half is bright; in the mask of the third a corner of the dark half is called bright."""
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)
    for number in range(4):
        mask = np.zeros((40, 60), np.uint8)
        mask[:, 30:] = 1
        Image.fromarray(np.repeat(mask[..., None] * 200 + 20, 3, 2)).save(root / "val/images" / f"{number}.png")
        if number == 2:
            mask[4:12, 2:22] = 1
        mask[:3] = 255
        Image.fromarray(mask).save(root / "val/masks" / f"{number}.png")
    (root / "labels.yaml").write_text("names: [dark, bright]\n")
    predictor = Predictor(by_brightness, Preprocess(), LABELS, "m")
    monkeypatch.setattr(module, "make_predictor", lambda *_, **__: predictor)
    return root


def test_the_spoilt_mask_comes_first_with_its_region(data: Path, tmp_path: Path) -> None:
    found = terrazzo.check_labels(data, "m", worst=2)
    worst, second = found.masks[:2]
    assert worst.mask.name == "2.png" and worst.quality < 0.01 and second.quality > 0.99
    assert worst.region is not None and worst.region.box == (2, 4, 22, 12)
    assert (worst.region.pixels, worst.region.labelled, worst.region.likely) == (160, 1, 0)
    assert worst.wrong == pytest.approx(160 / (37 * 60))
    assert second.region is None and second.wrong == 0
    assert "2.png  bright is likely dark at 2, 4" in found.table()
    found.save(tmp_path / "out")
    rows = json.loads((tmp_path / "out/masks.json").read_text())["masks"]
    assert rows[0]["labelled"] == "bright" and [row["place"] for row in rows] == [1, 2, 3, 4]
    assert (tmp_path / "out/masks.csv").read_text().splitlines()[1].endswith("2,4,22,12,bright,dark")
    with Image.open(tmp_path / "out/masks.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    top, left, scale = 96 + 40, 12, 400 / 60  # where the first picture begins
    frame = pixels[top + round(4 * scale) - 5, left + round(2 * scale) : left + round(22 * scale)]
    assert (frame == 255).all()


def test_several_models_are_averaged_and_each_judges_what_it_left_out(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(images: np.ndarray) -> np.ndarray:
        return -by_brightness(images)

    engines = {"right": by_brightness, "wrong": other}
    monkeypatch.setattr(
        module, "make_predictor", lambda name, *_, **__: Predictor(engines[name], Preprocess(), LABELS, name)
    )
    found = terrazzo.check_labels(data, ["right", "wrong"])
    assert [mask.quality for mask in found.masks] == pytest.approx([0.5] * 4, abs=1e-3)
    assert found.models == ("right", "wrong")


def test_masks_that_were_learnt_from_are_told(data: Path) -> None:
    (data / "val").rename(data / "train")
    with pytest.warns(TerrazzoWarning, match="m may have learnt from these masks"):
        assert len(terrazzo.check_labels(data, "m", split="train").masks) == 4


def test_a_mask_without_labels_comes_last(data: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(data / "val/masks/0.png")
    found = terrazzo.check_labels(data, "m", worst=4)
    assert found.masks[-1].mask.name == "0.png" and np.isnan(found.masks[-1].quality) and not found.masks[-1].wrong
    found.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/masks.json").read_text())["masks"][-1]["quality"] is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda data: terrazzo.check_labels(data, []), "no model is given"),
        (lambda data: terrazzo.check_labels(data, "m", worst=0), "0 masks are to be looked at"),
    ],
)
def test_what_cannot_be_asked(data: Path, call: Callable[[Path], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call(data)


def test_other_classes_are_refused(data: Path) -> None:
    (data / "labels.yaml").write_text("names: [cat, dog]\n")
    with pytest.raises(DatasetError, match="are not the model's"):
        terrazzo.check_labels(data, "m")


def test_the_soft_minimum_by_hand() -> None:
    p = np.array([0.2, 0.9, 1.0], np.float32)
    w = np.exp((1 - p.astype(float)) / 0.1)
    assert label_quality(p, 0.1) == pytest.approx((p * w).sum() / w.sum())
    assert label_quality(np.full(5, 0.7, np.float32)) == pytest.approx(0.7)
    assert np.isnan(label_quality(np.empty(0, np.float32)))


def test_confident_learning_by_hand() -> None:
    confidence = ClassConfidence(3)
    confidence.update(np.array([0.9, 0.7, 0.5], np.float32), np.array([0, 0, 1]))
    means = confidence.means()
    assert means == pytest.approx([0.8, 0.5, 1.0])
    #                        likely 0  not sure  itself  never seen  ignored
    probabilities = np.array([[0.85, 0.6, 0.1, 0.0, 0.9], [0.1, 0.3, 0.8, 0.01, 0.1], [0.05, 0.1, 0.1, 0.99, 0.0]])
    likely = likely_classes(probabilities[:, None].astype(np.float32), np.array([[1, 1, 1, 1, 255]]), means)
    assert likely.tolist() == [[0, -1, -1, -1, -1]]


def test_of_two_regions_the_one_that_weighs_more() -> None:
    mask = np.zeros((10, 10), np.uint8)
    probabilities = np.zeros((2, 10, 10), np.float32)
    probabilities[1, 0, :4] = 0.9  # 4 x 0.9
    probabilities[1, 5:8, 5:8] = 0.6  # 9 x 0.6
    region = worst_region(probabilities, mask, np.where(probabilities[1] > 0, 1, -1))
    assert region is not None and region.box == (5, 5, 8, 8) and region.pixels == 9
