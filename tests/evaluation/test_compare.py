"""Two models on the same photos: differences by hand, the order of classes, the sheet, the files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from terrazzo.errors import ConfigError, OutputError
from terrazzo.evaluation.compare import choose_differing, compare
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

LABELS = LabelSpec.from_names(["dark", "bright"])
UNIT = Preprocess(mean=(127.5, 127.5, 127.5), std=(1, 1, 1))


def brightness(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([-images[:, 0], images[:, 0]], axis=1)


def always_dark(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([np.ones_like(images[:, 0]), np.zeros_like(images[:, 0])], axis=1)


def backwards(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same as `brightness`, for classes in the other order."""
    return brightness(images)[:, ::-1].copy()


RIGHT = Predictor(brightness, UNIT, LABELS, "right")
DARK = Predictor(always_dark, UNIT, LABELS, "dark")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of two drives, of which a growing part is bright, and labelled so."""
    root = tmp_path_factory.mktemp("data") / "parts"
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)
    for number in range(6):
        mask = np.zeros((12, 24), np.uint8)
        mask[:, : 4 * number] = 1
        Image.fromarray(np.repeat(mask[..., None] * 255, 3, axis=2)).save(
            root / "val" / "images" / f"{'ab'[number % 2]}_{number}.png"
        )
        Image.fromarray(mask).save(root / "val" / "masks" / f"{'ab'[number % 2]}_{number}.png")
    (root / "labels.yaml").write_text("names: [dark, bright]\n")
    return root


def test_differences_by_hand(data: Path) -> None:
    found = compare(RIGHT, DARK, data)
    # Of 144 columns 60 are bright. All dark: 84 / 144 for dark, nothing for bright.
    assert found.iou[0].tolist() == [100, 100] and found.iou[1] == pytest.approx([100 * 84 / 144, 0])
    assert found.difference == pytest.approx(50 * 84 / 144 - 100)
    low, high = found.interval
    assert low < found.difference < high < 0 and found.verdict == "A is better"
    assert found.class_intervals[1].tolist() == [-100, -100]
    assert dict(zip(found.images, found.scores[1], strict=True))["b_1.png"] == pytest.approx(50 * 20 / 24)
    assert "B - A = -70.83" in found.table() and "1000 paired bootstrap samples of 6 images" in found.table()


def test_a_model_is_not_better_than_itself_in_another_order_of_classes(data: Path) -> None:
    other = Predictor(backwards, UNIT, LabelSpec.from_names(["bright", "dark"]), "backwards")
    with pytest.warns(UserWarning, match="another order"):
        found = compare(DARK, other, data)
    assert found.iou[1].tolist() == [100, 100] and found.verdict == "B is better"
    with pytest.warns(UserWarning, match="another order"):
        same = compare(RIGHT, other, data)
    assert same.difference == 0 and same.interval == (0, 0)
    assert same.verdict.startswith("no difference is shown")
    with pytest.warns(UserWarning, match="another order"):
        picture = Image.open(io.BytesIO(same.sheet())).convert("RGB")
    assert (31, 111, 180) not in {color for _, color in picture.crop((0, 90, 2072, 700)).getcolors(1 << 22) or ()}


def test_groups_are_drawn_together(data: Path) -> None:
    found = compare(RIGHT, DARK, data, group_by="[^_]+")
    assert found.counts[0].unit == "groups" and len(found.counts[0]) == 2 and len(found.images) == 6
    only = compare(RIGHT, DARK, data, only="a_0*")
    assert np.isnan(only.interval[0]) and only.verdict == "too few photos for an interval"
    assert json.loads(only.to_json())["interval"] == [None, None]


def test_other_classes_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="different classes") as caught:
        compare(RIGHT, replace(RIGHT, labels=LabelSpec.from_names(["dark", "pale"])), data)
    assert caught.value.code == "compare-classes"


def test_the_files(data: Path, tmp_path: Path) -> None:
    found = compare(RIGHT, DARK, data)
    found.save(tmp_path / "difference")
    names = {path.name for path in (tmp_path / "difference").iterdir()}
    assert names == {"comparison.txt", "comparison.json", "images.csv", "differences.png", "photos.png"}
    saved = json.loads((tmp_path / "difference" / "comparison.json").read_text())
    assert saved["difference"] == -70.83 and saved["images"][0] == {
        "image": "b_5.png", "A": 100.0, "B": 8.33, "difference": -91.67,
    }  # fmt: skip
    assert (tmp_path / "difference" / "images.csv").read_text().splitlines()[1] == "b_5.png,100.0,8.33,-91.67"
    found.save(tmp_path / "difference")  # over its own
    (tmp_path / "difference" / "photos.png").write_bytes(b"mine")
    with pytest.raises(OutputError) as caught:
        found.save(tmp_path / "difference")
    assert caught.value.code == "output-not-ours"
    assert (tmp_path / "difference" / "photos.png").read_bytes() == b"mine"


def test_the_sheet_has_gains_and_losses() -> None:
    nan = float("nan")
    assert choose_differing(np.array([1.0, -2.0, nan, 5.0, 0.0]), 4) == [3, 0, 4, 1]
    assert choose_differing(np.array([9.0, 8, 7, 6, 5, -1]), 4) == [0, 1, 2, 5]
    assert choose_differing(np.array([-1.0, -2, -3, -4, -5]), 3) == [2, 3, 4]
    assert choose_differing(np.array([nan])) == []
