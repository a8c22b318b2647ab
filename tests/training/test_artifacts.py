"""What a finished run leaves for people: curves and sheets at every size of run."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_runs import make_data, tiny_trainer

from terrazzo.data import Dataset, Sample
from terrazzo.evaluation.sheet import CELL
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.artifacts import write_artifacts
from terrazzo.training.pictures import BEST, WRONG, choose_images, curves_png, sheet_png
from terrazzo.weights.files import load_folder, save_folder


def picture(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def contains(picture_HW3: NDArray[np.uint8], color: tuple[int, ...]) -> bool:
    return bool((picture_HW3 == color).all(axis=2).any())


def test_the_best_model_is_measured_not_the_last(tmp_path: Path) -> None:
    trainer = tiny_trainer(make_data(tmp_path / "tiles"), tmp_path / "run")
    trainer.run()
    best = {"step": 2, "val_mIoU": 99.0, "recipe": trainer.recipe.to_dict()}
    save_folder(tmp_path / "run/model", trainer.trained_model(best))
    report = write_artifacts(
        trainer.output, trainer.recipe, trainer.val, trainer.ranks.device, trainer.log, {"data": "tiles", "hours": 0.5}
    )
    record = load_folder(tmp_path / "run/model").record
    assert record["step"] == 2 and record["hours"] == 0.5
    assert record["val_mIoU"] == round(report.metrics.mIoU, 2)
    assert report.boundary is not None and record["val_boundary_mIoU"] == round(report.boundary.mIoU, 2)
    assert report.metrics.label_pixels.sum() == 3 * (48 * 64 - 16)


# -- curves -----------------------------------------------------------------------------------------------------------


def rows(epochs: int, every: int = 1) -> list[dict[str, Any]]:
    scored = {e: {"mIoU": 60 * (1 - math.exp(-e / 60))} for e in range(every, epochs + 1, every)}
    return [
        {"epoch": e, "loss": 0.3 + math.exp(-e / 60), "lr": 1e-3 * (1 - e / epochs), **scored.get(e, {})}
        for e in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(
    "log",
    [rows(1), rows(300, every=5), [{"epoch": 1, "loss": math.nan, "lr": 0.0}]],
    ids=["one epoch", "long", "diverged before its first validation"],
)
def test_curves_of_any_length_can_be_drawn(log: list[dict[str, Any]]) -> None:
    drawn = picture(curves_png(log, "segformer_b0 on $camvid_{"))
    assert drawn.shape == (1050, 1200, 3)
    best = tuple(int(BEST[k : k + 2], 16) for k in (1, 3, 5))
    assert contains(drawn, best) == any("mIoU" in row for row in log)


# -- sheets -----------------------------------------------------------------------------------------------------------


def test_images_are_chosen_evenly_from_the_best_to_the_worst() -> None:
    scores = [float(k) for k in range(100)]
    chosen = choose_images(scores)
    assert chosen[0] == 99 and chosen[-1] == 0 and len(chosen) == 8
    assert chosen == sorted(chosen, reverse=True)
    gaps = -np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1
    assert choose_images([50.0, math.nan, 70.0]) == [2, 0]
    assert choose_images([50.0]) == [0]
    assert choose_images([]) == []


def sheet(folder: Path, labels: LabelSpec, sizes: list[tuple[int, int]], wrong_from: int) -> NDArray[np.uint8]:
    """Draw photos whose left half is class 0 and right half the last class, which is missed from a column on."""
    folder.mkdir()
    samples = []
    for number, (height, width) in enumerate(sizes):
        mask = np.zeros((height, width), labels.mask_dtype)
        mask[:, width // 2 :] = labels.num_classes - 1
        mask[0] = labels.ignore_index
        sample = Sample.of_files(folder / f"{number}.png", folder / f"{number}_mask.png")
        Image.fromarray(np.full((height, width, 3), 120, np.uint8)).save(sample.image.file)
        Image.fromarray(mask.astype(np.uint16) if mask.dtype == np.uint16 else mask).save(sample.mask.file)
        samples.append(sample)

    def engine(images: NDArray[np.float32]) -> NDArray[np.float32]:
        B, _, H, W = images.shape
        logits = np.zeros((B, labels.num_classes, H, W), np.float32)
        logits[:, 0, :, : W // 2] = 1
        logits[:, 0, :, wrong_from:] = 1
        logits[:, -1, :, W // 2 : wrong_from] = 1
        return logits

    val = Dataset(folder, "val", labels, tuple(samples), "folder")
    return picture(
        sheet_png(Predictor(engine, Preprocess(), labels), val, [50.0] * len(sizes), "a model on photos/val")
    )


@pytest.mark.parametrize("classes", [2, 150, 300])
def test_sheets_show_image_label_prediction_and_errors(tmp_path: Path, classes: int) -> None:
    labels = LabelSpec.from_names([f"class {k}" for k in range(classes)])
    drawn = sheet(tmp_path / "photos", labels, [(40, 80), (80, 40), (2, 50)], wrong_from=45)
    assert drawn.shape[1] == 4 * CELL + 60
    first = drawn[140 : 140 + CELL // 2 - 10]  # the first photo's row, below its name
    columns = [first[:, 12 + k * (CELL + 12) :][:, :CELL] for k in range(4)]
    assert (columns[0] == 120).all()
    label, prediction, errors = columns[1:]
    assert tuple(label[100, 10]) == labels.palette[0] and tuple(label[100, 390]) == labels.palette[-1]
    assert tuple(prediction[100, 10]) == labels.palette[0] and tuple(prediction[100, 210]) == labels.palette[-1]
    assert tuple(prediction[100, 390]) == labels.palette[0]
    assert tuple(errors[100, 390]) == WRONG and tuple(errors[100, 210]) != WRONG


def test_a_sheet_without_errors_has_no_red(tmp_path: Path) -> None:
    labels = LabelSpec.from_names(["sky", "earth"])
    assert not contains(sheet(tmp_path / "photos", labels, [(40, 80)], wrong_from=80), WRONG)


def test_names_that_cannot_be_drawn_do_not_stop_a_run(tmp_path: Path) -> None:
    labels = LabelSpec.from_names(["$x_{", "道路", "a name that goes on and on and on and on and on"])
    assert sheet(tmp_path / "photos \udce9", labels, [(40, 80)], wrong_from=80).size
