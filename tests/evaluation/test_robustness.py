"""Corrupted photos: what each corruption leaves of the clean score, as a table, JSON and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from terrazzo.cli import evaluate as evaluate_command
from terrazzo.cli.main import main
from terrazzo.errors import ConfigError
from terrazzo.evaluation.robustness import Robustness, evaluate_corruptions
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

LABELS = LabelSpec.from_names(["dark", "bright"])
UNIT = Preprocess(mean=(127.5, 127.5, 127.5), std=(1, 1, 1))


def brightness(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([-images[:, 0], images[:, 0]], axis=1)


MODEL = Predictor(brightness, UNIT, LABELS, "brightness")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "halves"
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)
    for number in range(2):
        mask = np.zeros((16, 24), np.uint8)
        mask[:, 12:] = 1
        Image.fromarray(np.repeat(100 + 60 * mask[..., None], 3, axis=2)).save(
            root / "val" / "images" / f"{number}.png"
        )
        Image.fromarray(mask).save(root / "val" / "masks" / f"{number}.png")
    (root / "labels.yaml").write_text("names: [dark, bright]\n")
    return root


@pytest.fixture(scope="module")
def found(data: Path) -> Robustness:
    return evaluate_corruptions(MODEL, data, corruptions="brightness,gaussian_noise", severities=(1, 5))


def test_scores_by_hand(found: Robustness) -> None:
    assert found.clean.metrics.mIoU == 100
    # Brightness adds 25 and 127 to 100 and 160: at severity 5 all is bright, so IoU is 0 and 1/2.
    assert found.reports["brightness", 1].metrics.mIoU == 100 and found.reports["brightness", 5].metrics.mIoU == 25
    assert found.mIoU("brightness") == found.retention("brightness") == 62.5
    # Of noise only severities 1 to 3 count.
    assert found.mIoU("gaussian_noise") == found.reports["gaussian_noise", 1].metrics.mIoU < 100
    assert found.means()[0] == pytest.approx((62.5 + found.mIoU("gaussian_noise")) / 2)
    assert found.ece("brightness") == pytest.approx(25, abs=0.5)  # certain, and wrong in half the pixels of severity 5


def test_table_json_and_files(found: Robustness, tmp_path: Path) -> None:
    rows = found.table().splitlines()
    assert rows[2].split() == ["corruption", "1", "5", "mIoU", "%", "kept", "ECE"]
    assert rows[5].split() == ["brightness", "100.00", "25.00", "62.50", "62.5", f"{found.ece('brightness'):.2f}"]
    assert rows[-1] == "of noise, severities 1 to 3 enter the mean, as in SegFormer's table 5"
    found.save(tmp_path)
    eces = [one.calibration.ece for one in found.reports.values() if one.calibration is not None]
    saved = json.loads((tmp_path / "robustness.json").read_text())
    assert saved["corruptions"][0]["severities"][1] == {"severity": 5, "mIoU": 25.0, "ece": round(eces[1], 2)}
    assert saved["clean"]["mIoU"] == 100 and saved["mean"]["retention"] == saved["mean"]["mIoU"]
    with Image.open(tmp_path / "robustness.png") as picture:
        assert picture.width > 600


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"corruptions": "rain"}, "corruption-name"),
        ({"severities": (0,)}, "corruption-severity"),
        ({"severities": ()}, "corruption-severity"),
        ({"severities": (6,)}, "corruption-severity"),
    ],
)
def test_what_is_not_defined_is_refused_before_anything_is_read(options: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate_corruptions("no-such-model", "no-such-folder", **options)
    assert caught.value.code == code


def test_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate_command, "make_predictor", lambda *_, **__: MODEL)
    wanted = ["--corruptions", "brightness", "--severities", "1,5", "--output", str(tmp_path / "out")]
    main(["evaluate", "--data", str(data), *wanted])
    assert "brightness  100.00  25.00" in capsys.readouterr().out
    assert {"report.json", "reliability.png", "robustness.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    for bad in (["--severities", "1"], ["--corruptions", "fog", "--severities", "1,x"], ["--corruptions", "rain"]):
        with pytest.raises(SystemExit) as left:
            main(["evaluate", "--data", str(data), *bad])
        assert left.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 2
