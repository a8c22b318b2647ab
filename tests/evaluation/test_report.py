"""The report: numbers that can be checked by hand, in every form they are written in."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from terrazzo.errors import OutputError
from terrazzo.evaluation import figures
from terrazzo.evaluation.boundary import BoundaryMetrics
from terrazzo.evaluation.report import Report
from terrazzo.labels.spec import LabelSpec

NAN = float("nan")


def make_report(labels: LabelSpec, counts: Any, boundary: BoundaryMetrics | None = None, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "model": "segformer_b0.camvid",
        "dataset": "camvid",
        "split": "val",
        "images": 101,
        "protocol": "whole",
        "protocol_hash": "0f3a9c",
        "seconds": 12.3456,
    }
    return Report(labels=labels, confusion=np.array(counts, np.int64), boundary=boundary, **(fields | changes))


def four_classes(**changes: Any) -> Report:
    # wall is in neither map; bus is predicted but never labelled.
    labels = LabelSpec.from_names(["road", "car", "bus", "wall"])
    boundary = BoundaryMetrics(np.array([50.0, 25.0, 0.0, NAN]), 25.0, 0.02)
    counts = [[6, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    return make_report(labels, counts, changes.pop("boundary", boundary), **changes)


def realistic(K: int) -> Report:
    rng = np.random.default_rng(K)
    counts = rng.integers(0, 30, (K, K)) + np.diag(rng.integers(100, 4000, K))
    iou = rng.uniform(20, 80, K)
    bundled = {11: "camvid", 19: "cityscapes", 150: "ade20k"}
    labels = LabelSpec.bundled(bundled[K]) if K in bundled else LabelSpec.from_names([f"class {k}" for k in range(K)])
    return make_report(labels, counts, BoundaryMetrics(iou, float(iou.mean()), 0.02))


def test_table_by_hand() -> None:
    # IoU: road 6/8, car 1/(3+2-1), bus 0/1. Acc: 6/8, 1/2. Share: 8/10, 2/10. mIoU: (75 + 25 + 0) / 3.
    assert str(four_classes()) == (
        "segformer_b0.camvid on camvid/val: 101 images, 4 classes, protocol whole (0f3a9c), 12.3 s\n"
        "\n"
        "class    IoU    Acc  boundary IoU  % of pixels\n"
        "----------------------------------------------\n"
        "road   75.00  75.00         50.00        80.00\n"
        "car    25.00  50.00         25.00        20.00\n"
        "bus     0.00    n/a          0.00         0.00\n"
        "wall     n/a    n/a           n/a         0.00\n"
        "----------------------------------------------\n"
        "mIoU 33.33   mAcc 62.50   aAcc 70.00   boundary mIoU 25.00\n"
        "n/a, left out of the means: in neither labels nor predictions: wall\n"
        "IoU 0, counted in mIoU but not in mAcc: predicted, but absent from the labels: bus"
    )


def test_without_boundary_iou_nothing_speaks_of_it(tmp_path: Path) -> None:
    report = four_classes(boundary=None)
    report.save(tmp_path)
    for name in ("report.txt", "report.json", "per_class.csv"):
        assert "boundary" not in (tmp_path / name).read_text("utf-8")


def test_all_classes_present_needs_no_notes() -> None:
    assert realistic(11).table().splitlines()[-1].startswith("mIoU")


def test_dict_and_json() -> None:
    report = four_classes()
    document = json.loads(report.to_json())
    assert document == report.to_dict()
    assert document["mIoU"] == 33.33 and document["mAcc"] == 62.5 and document["aAcc"] == 70.0
    assert document["boundary_mIoU"] == 25.0 and document["boundary_dilation_ratio"] == 0.02
    assert document["protocol"] == {"name": "whole", "hash": "0f3a9c"}
    assert (document["model"], document["dataset"], document["split"]) == ("segformer_b0.camvid", "camvid", "val")
    assert (document["images"], document["seconds"]) == (101, 12.35)
    assert document["classes"][1] == {
        "index": 1,
        "name": "car",
        "iou": 25.0,
        "accuracy": 50.0,
        "precision": 33.33,
        "dice": 40.0,
        "boundary_iou": 25.0,
        "label_pixels": 2,
        "predicted_pixels": 3,
    }
    assert document["classes"][3]["iou"] is None and document["classes"][2]["accuracy"] is None
    assert document["confusion"] == report.confusion.tolist()


def test_json_of_nothing_has_nulls_and_no_nan() -> None:
    report = make_report(
        LabelSpec.from_names(["a", "b"]), np.zeros((2, 2)), BoundaryMetrics(np.full(2, NAN), NAN, 0.02)
    )
    text = report.to_json()
    assert "NaN" not in text
    assert json.loads(text)["mIoU"] is None and json.loads(text)["boundary_mIoU"] is None
    assert "mIoU n/a   mAcc n/a   aAcc n/a   boundary mIoU n/a" in report.table()


def test_save_writes_every_form(tmp_path: Path) -> None:
    report = four_classes()
    report.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    names = {"report.json", "report.txt", "per_class.csv", "per_class.png", "confusion.png"}
    assert {path.name for path in folder.iterdir()} == names
    written = json.loads((folder / "report.json").read_bytes())
    assert written.pop("written_by").startswith("terrazzo ") and written == report.to_dict()
    assert (folder / "report.txt").read_text("utf-8") == report.table() + "\n"
    rows = list(csv.DictReader(io.StringIO((folder / "per_class.csv").read_text("utf-8"))))
    assert [row["name"] for row in rows] == ["road", "car", "bus", "wall"]
    assert rows[0]["iou"] == "75.0" and rows[3]["iou"] == "" and rows[0]["label_pixels"] == "8"
    report.save(folder)  # again, over the old files
    assert {path.name for path in folder.iterdir()} == names


def test_save_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file is a file"):
        four_classes().save(tmp_path / "file")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        four_classes().save(tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []


def hostile() -> Report:
    names = ["$x^", "正常", 'a,"b"', "=1+1", "n" * 200]
    model = "/" + "long/" * 60 + "\x1b[31mred\nline" + os.fsdecode(b"\xff")
    return make_report(LabelSpec.from_names(names), np.eye(5) * 9, model=model)


def test_hostile_names_survive_in_data_and_are_tame_in_text(tmp_path: Path) -> None:
    report = hostile()
    report.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_bytes())["model"] == report.model
    rows = list(csv.DictReader(io.StringIO((tmp_path / "per_class.csv").read_text("utf-8"))))
    assert tuple(row["name"] for row in rows) == report.labels.names
    table = report.table()
    assert table.encode("utf-8") and "\x1b" not in table and "\nline" not in table
    assert max(map(len, table.splitlines()[1:])) < 100, "a name of 200 characters does not break the table"


def picture(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("draw", "report"),
    [
        (Report.per_class_png, realistic(2)),
        (Report.per_class_png, realistic(51)),
        (Report.per_class_png, four_classes()),
        (Report.per_class_png, hostile()),
        (Report.confusion_png, realistic(2)),
        (Report.confusion_png, realistic(11)),
        (Report.confusion_png, realistic(24)),
        (Report.confusion_png, hostile()),
    ],
)
def test_nothing_touches_the_edge_of_a_picture(draw: Any, report: Report) -> None:
    image_HW3 = picture(draw(report))
    assert min(image_HW3.shape[:2]) > 250
    for edge in (image_HW3[:5], image_HW3[-5:], image_HW3[:, :5], image_HW3[:, -5:]):
        assert (edge == 255).all()
    assert image_HW3.min() < 100, "something is drawn"


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Any, report: Report) -> Figure:
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "to_png", lambda figure, *_, **__: kept.append(figure) or b"")
    draw(report)
    return kept[0]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_bars_are_sorted_coloured_and_say_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    report = four_classes()
    figure = drawn(monkeypatch, Report.per_class_png, report)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["road", "car", "bus", "wall"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([75, 25, 0, 0])
    color = [round(255 * channel) for channel in axes.patches[0].get_facecolor()[:3]]
    assert tuple(color) == report.labels.palette[0]
    written = texts(figure)
    assert "75.00" in written and "absent from labels" in written
    assert "0.00  absent from labels, but predicted" in written


def test_150_bars_stand_in_columns_and_miss_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    report = realistic(150)
    figure = drawn(monkeypatch, Report.per_class_png, report)
    assert len(figure.axes) == 3
    names = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert sorted(names) == sorted(report.labels.names)


def test_confusion_rows_are_shares_of_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, Report.confusion_png, four_classes())
    shares = figure.axes[0].images[0].get_array()
    assert shares is not None
    np.testing.assert_allclose(shares[:2], [[75, 25, 0, 0], [0, 50, 50, 0]])
    assert np.ma.getmaskarray(shares)[2:].all(), "classes without labels have no row"
    written = texts(figure)
    assert written.count("absent from labels") == 2
    assert {"75.00", "25.00"} <= set(written)


@pytest.mark.parametrize(("K", "annotated"), [(19, True), (20, True), (21, False), (150, False)])
def test_only_small_matrices_hold_numbers(monkeypatch: pytest.MonkeyPatch, K: int, annotated: bool) -> None:
    figure = drawn(monkeypatch, Report.confusion_png, realistic(K))
    assert bool(figure.axes[0].texts) == annotated
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(realistic(K).labels.names)


def test_counts_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 classes"):
        make_report(LabelSpec.from_names(["a", "b"]), np.zeros((3, 3)))


def test_importing_brings_neither_torch_nor_matplotlib_and_drawing_no_pyplot() -> None:
    program = (
        "import sys; from terrazzo.evaluation import boundary, confusion, figures, report\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)\n"
        "import numpy as np; from terrazzo.labels.spec import LabelSpec\n"
        "spec = LabelSpec.from_names(['a', 'b'])\n"
        "r = report.Report(spec, np.eye(2, dtype=np.int64), None, 'm', 'd', 's', 1, 'p', 'h', 0.1)\n"
        "assert r.per_class_png()[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
