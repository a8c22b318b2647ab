"""The report of a run: its numbers, safe with strangers' text, whole by itself, and written over nothing of others."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import terrazzo
from terrazzo.errors import ConfigError, OutputError
from terrazzo.run_page.charts import bar, confusion_matrix, curve
from terrazzo.run_page.page import RunFiles, run_page
from terrazzo.run_page.photos import choose_extremes

NASTY = "</script><img src=x onerror=alert(1)>&\"'\x1b"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and the text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("style", "script"):
            self.text += f"{data} "


def make_run(folder: Path, name: str = "sky", photos: list[dict[str, Any]] | None = None) -> Path:
    """What `train` leaves, as far as the page reads it."""
    (folder / "report").mkdir(parents=True)
    (folder / "model").mkdir()
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "loss", "lr", "mIoU"])
        writer.writerows([[1, 10, 2.5, 0.1, 20.25], [2, 20, "nan", 0.05, ""], [3, 30, 1.5, 0.01, 40.75]])
    (folder / "recipe.yaml").write_text(f"model: {{name: {json.dumps(name)}}}\n")
    labels = {"names": [name, "road"], "palette": [[1, 2, 3], [250, 128, 7]]}
    config = {"architecture": name, "labels": labels, "record": {"data": name, "hours": 1.5, "train_photos": 12}}
    (folder / "model/config.json").write_text(json.dumps(config))
    rows = [
        {"name": name, "iou": 50.0, "iou_low": 40.0, "iou_high": 60.0, "accuracy": 80.0, "label_pixels": 300},
        {"name": "road", "iou": None, "accuracy": None, "label_pixels": 0},
    ]
    report = {
        "dataset": name,
        "split": "val",
        "images": 7,
        "mIoU": 50.0,
        "classes": rows,
        "confusion": [[240, 60], [0, 0]],
    }
    report["intervals"] = {"mIoU": [45.5, 54.25]}
    (folder / "report/report.json").write_text(json.dumps(report))
    if photos is not None:
        (folder / "report/photos.json").write_text(json.dumps({"photos": photos}))
    return folder


def test_the_page_has_the_numbers(tmp_path: Path) -> None:
    photo = {"which": "worst", "name": "p.png", "mIoU": 12.5, "wrong": 0.25, "width": 1, "height": 1}
    photo |= dict.fromkeys(("photo", "label", "prediction", "errors"), PIXEL)
    text = Elements(run_page(RunFiles.read(make_run(tmp_path / "mine", photos=[photo]))).decode()).text
    for said in (
        "mine", "50.00", "45.50 to 54.25", "40.00 to 60.00", "7 photos", "12 photos", "1.50 h",
        "Best mIoU 40.75 after epoch 3 of 3", "sky taken for road: 20.0%", "p.png", "mIoU 12.50, 25.0% of pixels wrong",
        "terrazzo train --recipe recipe.yaml --data sky --output ANOTHER-RUN", "terrazzo predict PHOTO --model mine",
    ):  # fmt: skip
        assert said in text, said


def test_strangers_text_stays_text(tmp_path: Path) -> None:
    evil = {"which": "best", "name": NASTY, "mIoU": NASTY, "width": NASTY, "photo": PIXEL, "prediction": PIXEL}
    photos = [{**evil, "label": PIXEL}, {**evil, "label": f'{PIXEL}" onerror="alert(1)'}]
    page = run_page(RunFiles.read(make_run(tmp_path / "r", NASTY, photos))).decode()
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert not any(key.startswith("on") for _, attributes in elements.found for key in attributes)
    assert all((attributes.get("src") or PIXEL) == PIXEL for _, attributes in elements.found)
    assert len([1 for tag, _ in elements.found if tag == "figure"]) == 3 + 1  # curves, and the one photo that is sound
    assert "\x1b" not in page and "onerror=alert(1)" in elements.text


def test_the_page_fetches_nothing_and_has_no_style_of_elements(tmp_path: Path) -> None:
    elements = Elements(run_page(RunFiles.read(make_run(tmp_path / "r"))).decode())
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    for _, attributes in elements.found:
        assert "style" not in attributes  # the policy would not let it through
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("data:", "#"))


def test_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,step,loss,lr,mIoU\n1,5,0.5,0.1,\n")
    text = Elements(run_page(RunFiles.read(tmp_path)).decode()).text
    assert "not finished" in text and "validation mIoU, %: no value yet." not in text
    assert "no value yet" in text
    (tmp_path / "log.csv").write_text("")
    assert "No epoch is finished yet" in Elements(run_page(RunFiles.read(tmp_path)).decode()).text


def test_the_file_is_written_again_and_nothing_else_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    page = terrazzo.report(run)
    assert page == run / "report.html"
    assert terrazzo.report(run) == page
    page.write_text("mine")
    with pytest.raises(OutputError, match=r"report.html would be replaced"):
        terrazzo.report(run)
    assert page.read_text() == "mine"
    assert terrazzo.report(run, output=tmp_path / "other.html").is_file()


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a training run") as caught:
        terrazzo.report(tmp_path)
    assert caught.value.code == "report-no-run"


def test_worst_and_best_and_no_photo_twice() -> None:
    scores = [50.0, float("nan"), 10.0, 90.0, 30.0, 70.0, 20.0]
    assert choose_extremes(scores)[:4] == [("worst", 2), ("worst", 6), ("worst", 4), ("worst", 0)]
    assert choose_extremes(scores)[4:] == [("best", 3), ("best", 5)]
    assert choose_extremes([float("nan")]) == []


def test_charts_of_odd_numbers() -> None:
    assert "no value yet" in curve([1, 2], [float("nan"), float("inf")], "loss")
    for values in ([0.0, 0.0], [-1e-9, 1e9], [5.0]):
        drawn = curve(list(range(1, len(values) + 1)), values, "loss")
        numbers = [float(value) for value in re.findall(r'[xy]="(-?[\d.]+)"', drawn)]
        assert numbers and all(-1 <= number <= 420 for number in numbers)
    assert bar(None) == "" and 'width="50.00"' in bar(50.0) and "whisker" in bar(50.0, 40.0, 60.0)
    assert confusion_matrix(np.zeros((150, 150), np.int64), ["x"] * 150).count("<text") == 0
    assert confusion_matrix(np.eye(2, dtype=np.int64) * 9, ["a", "b"]).count(">100<") == 2


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_sliders_choices_and_sorting_in_a_browser(tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    photo = {"which": "worst", "name": "p.png", "mIoU": 1.0, "wrong": 0.5, "width": 60, "height": 40}
    photo |= dict.fromkeys(("photo", "label", "prediction", "errors"), PIXEL)
    page_file = terrazzo.report(make_run(tmp_path / "r", photos=[photo]))
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        page.locator(".stack input").fill("25")
        clipped = "getComputedStyle(document.querySelector('.stack .after:not([hidden])')).clipPath"
        assert page.evaluate(clipped) == "inset(0px 0px 0px 25%)"
        page.locator("[value='photo errors']").check()
        assert page.locator(".stack [data-is]:visible").evaluate_all("all => all.map(one => one.dataset.is)") == [
            "errors"
        ]
        page.locator("th button", has_text="IoU").first.click()
        assert page.locator("tbody tr td:first-child").all_text_contents() == ["sky", "road"]
        page.locator("th button", has_text="IoU").first.click()
        assert page.locator("tbody tr td:first-child").all_text_contents() == ["road", "sky"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert complaints == [] and all(url.startswith(("file:", "data:")) for url in asked)
        browser.close()
