"""Pictures say the numbers of the tables, and why there is little to see; a model in a notebook is one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from terrazzo.data import Dataset, Sample
from terrazzo.evaluation import figures
from terrazzo.evaluation import sheet as sheets
from terrazzo.evaluation.report import Report
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training import pictures
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text of the pictures that are drawn."""
    from matplotlib.text import Text

    texts: list[str] = []

    def keep(figure: Any, *_: Any, **__: Any) -> bytes:
        texts.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())
        return b""

    for module in (figures, pictures, sheets):
        monkeypatch.setattr(module, "to_png", keep)
    return texts


def test_bars_have_the_digits_of_the_table(drawn: list[str]) -> None:
    labels = LabelSpec.from_names(["road", "tree"])
    # IoU of the road: 8105 of 10000 pixels, 81.05%, which one digit makes 81.0 or 81.1.
    confusion = np.array([[8105, 895], [1000, 5000]])
    report = Report(
        labels=labels, confusion=confusion, boundary=None, model="m", dataset="d", split="val", images=1,
        protocol="whole", protocol_hash="x", seconds=1.0,
    )  # fmt: skip
    report.per_class_png()
    assert "81.05" in report.table() and "81.05" in drawn and "81.0" not in drawn


def row(epoch: int, loss: float = 1.0, **scores: float) -> dict[str, Any]:
    return {"epoch": epoch, "loss": loss, "lr": 0.1, **scores}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ([row(1, mIoU=20.0)], ["one epoch: a point, not yet a curve"] * 2),
        ([row(1)], ["one epoch: a point, not yet a curve", "never validated"]),
        ([row(1), row(2, mIoU=20.0)], ["validated once, after epoch 2"]),
        (
            [row(1, math.nan), row(2, math.inf), row(3)],
            ["not a number in 2 of 3 epochs: the run diverged", "never val"],
        ),
        ([row(1, mIoU=1.0), row(2, mIoU=2.0)], []),
    ],
)
def test_curves_say_why_they_are_none(log: list[dict[str, Any]], said: list[str], drawn: list[str]) -> None:
    pictures.curves_png(log, "a run")
    reasons = [text for text in drawn if any(word in text for word in ("one epoch", "validated", "not a number"))]
    assert len(reasons) == len(said) and all(text.startswith(part) for text, part in zip(reasons, said, strict=True))


@pytest.fixture
def sheet(tmp_path: Path) -> Callable[..., None]:
    """Draw a sheet of one photo, of which this class is predicted everywhere or the two halves are told apart."""
    labels = LabelSpec.from_names(["background", "cat"], [[0, 0, 0], [9, 200, 9]])

    def draw(everywhere: int | None, score: float) -> None:
        def engine(images: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = np.zeros((1, 2, *images.shape[2:]), np.float32)
            logits[:, 1, :, : images.shape[3] // 2] = 1
            if everywhere is not None:
                logits[:, everywhere] = 2
            return logits

        mask = np.zeros((20, 40), np.uint8)
        mask[:, :20] = 1
        sample = Sample.of_files(tmp_path / "a.png", tmp_path / "a_mask.png")
        Image.fromarray(np.full((20, 40, 3), 120, np.uint8)).save(sample.image.file)
        Image.fromarray(mask).save(sample.mask.file)
        val = Dataset(tmp_path, "val", labels, (sample,), "folder")
        pictures.sheet_png(Predictor(engine, Preprocess(), labels), val, [score], "a run")

    return draw


def test_a_black_mask_says_that_one_class_is_all(sheet: Callable[..., None], drawn: list[str]) -> None:
    sheet(0, 33.333)
    assert "nothing but background is predicted; mIoU 33.33, 50.0% of pixels wrong" in drawn
    assert any("one class everywhere (train longer, or lower the learning rate)" in text for text in drawn)
    drawn.clear()
    sheet(None, 100.0)
    assert "mIoU 100.00, 0.0% of pixels wrong" in drawn


def test_a_sheet_without_any_label_says_so(sheet: Callable[..., None], drawn: list[str]) -> None:
    sheet(None, math.nan)
    assert any("no photo has a labelled" in text for text in drawn) and any(
        "none of 1 photos" in text for text in drawn
    )


def test_a_model_in_a_notebook_is_one_line() -> None:
    network = create_model("segformer_b0", 3).eval()
    model = TrainedModel(
        "segformer_b0", network, LabelSpec.from_names(["a", "b", "c"]), Preprocess(), {}, "my\x1bmodel"
    )
    assert repr(model) == "<TrainedModel my\\x1bmodel: segformer_b0, 3.7 M parameters, 3 classes>"
