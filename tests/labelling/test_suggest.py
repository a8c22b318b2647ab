"""`suggest`: the photos of which a model is unsure come first, copies never; masks arrive in both labelling tools."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import terrazzo
from terrazzo.data import open_dataset
from terrazzo.errors import ConfigError, ImageError, OutputError
from terrazzo.labelling.cvat import class_names, cvat_masks, own_names
from terrazzo.labelling.label_studio import brush_rle, label_studio_config
from terrazzo.labelling.spread import spread_out, standardised
from terrazzo.labelling.suggest import suggestion_files
from terrazzo.labelling.uncertainty import look_at
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.weights.files import TrainedModel
from tiny_models import tiny_model


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return tiny_model("segformer_b0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos, of which one is a copy of another, one cannot be read, and two are called alike."""
    folder = tmp_path_factory.mktemp("unlabelled")
    rng = np.random.default_rng(0)
    (folder / "more").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.jpg", "more/a.png")):
        noise = rng.integers(0, 60 * (number + 1), (40, 60, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / name)
    (folder / "copy of b.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


# -- the choice -------------------------------------------------------------------------------------------------------


def test_points_far_apart_come_first_and_weights_decide_between_equals() -> None:
    features = np.array([[0.0], [0.1], [5.0], [-5.0]])
    none = np.empty((0, 1))
    chosen = spread_out(np.array([1.0, 0.9, 0.5, 0.6]), features, 3, none)
    assert [place for place, _ in chosen] == [0, 3, 2] and [distance for _, distance in chosen] == [np.inf, 5.0, 5.0]
    assert [place for place, _ in spread_out(np.ones(4), features, 1, np.array([[5.0]]))] == [3]


def test_a_sure_model_still_spreads() -> None:
    assert [place for place, _ in spread_out(np.zeros(3), np.array([[0.0], [1.0], [3.0]]), 2, np.empty((0, 1)))] == [
        0,
        2,
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 14))
def test_no_two_are_alike(places: list[int], count: int) -> None:
    chosen = spread_out(np.ones(len(places)), np.array(places, float)[:, None], count, np.empty((0, 1)))
    values = [places[place] for place, _ in chosen]
    assert len(set(values)) == len(values) == min(count, len(set(places)))


def test_features_count_alike_whatever_their_scale() -> None:
    features = standardised(np.array([[1.0, 1e6, 7.0], [2.0, 3e6, 7.0]]))
    assert features == pytest.approx(np.array([[-1, -1, 0], [1, 1, 0]]) / np.sqrt(3))


def test_entropy_and_disagreement_of_known_logits(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    sure, unsure, lopsided = torch.zeros(2, 11, 4, 4), torch.zeros(2, 11, 4, 4), torch.zeros(2, 11, 4, 4)
    sure[:, 3] = 50
    lopsided[:, 0, :, :2], lopsided[:, 1, :, 2:] = 50, 50  # the left half of what is shown, whatever is shown
    found = []
    for logits in (sure, unsure, lopsided):
        monkeypatch.setattr(model.network.decoder, "forward", lambda maps, logits=logits: logits)
        look = look_at(np.zeros((40, 60, 3), np.uint8), model.network, model.preprocess)
        found.append((look.entropy, look.disagreement))
    assert found[0] == pytest.approx((0, 0), abs=1e-6)
    assert found[1] == pytest.approx((1, 0), abs=1e-6)
    assert found[2] == pytest.approx((np.log(2) / np.log(11), 1), abs=1e-6)


def test_unreadable_photos_and_copies_are_left_out_and_said(model: TrainedModel, photos: Path) -> None:
    with pytest.warns(TerrazzoWarning) as notes:
        chosen = terrazzo.suggest(photos, model, budget=9, device="cpu")
    assert sorted(photo.name for photo in chosen.photos) == ["a", "a_2", "b", "c"]
    assert chosen.candidates == 5
    said = " ".join(str(note.message) for note in notes)
    assert "left out 1 of 6 photos" in said and "torn.png" in said
    assert "4 photos are suggested and not 9: the others are copies" in said
    entropies = [photo.entropy for photo in chosen.photos]
    assert chosen.photos[0].distance is None and entropies[0] == max(entropies)
    assert chosen.mean_entropy > 0 and "a.png" in chosen.table()


def test_what_resembles_labelled_photos_is_left(model: TrainedModel, photos: Path) -> None:
    chosen = terrazzo.suggest([photos / "b.png", photos / "c.jpg"], model, budget=1, labelled=photos / "copy of b.png")
    assert [photo.name for photo in chosen.photos] == ["c"]
    with pytest.raises(ImageError, match="look like labelled ones") as caught:
        terrazzo.suggest(photos / "b.png", model, labelled=photos / "copy of b.png")
    assert caught.value.code == "suggest-alike"
    with pytest.raises(ImageError, match="all photos are among the labelled ones"):
        terrazzo.suggest(photos / "b.png", model, labelled=photos)


def test_what_cannot_be_asked(photos: Path) -> None:
    with pytest.raises(ConfigError, match="the budget is 0 photos"):
        terrazzo.suggest(photos, "segformer_b0.camvid", budget=0)
    with pytest.raises(ConfigError, match=r"m.onnx is an exported file") as caught:
        terrazzo.suggest(photos, "m.onnx")
    assert caught.value.code == "suggest-exported"


# -- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(model: TrainedModel, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("next")
    terrazzo.suggest([photos / "a.png", photos / "more"], model, budget=2, device="cpu").save(folder)
    return folder


def test_our_own_reader_takes_what_cvat_gets(saved: Path, model: TrainedModel, tmp_path: Path) -> None:
    """Which is what CVAT gives back, with the photos, once they are corrected."""
    with zipfile.ZipFile(saved / "cvat.zip") as masks, zipfile.ZipFile(saved / "photos.zip") as originals:
        masks.extractall(tmp_path)
        originals.extractall(tmp_path / "JPEGImages")
    listed = json.loads((saved / "suggestions.json").read_text())["photos"]
    originals_of = {row["name"]: Path(row["photo"]) for row in listed}
    dataset = open_dataset(tmp_path, "default")
    assert len(dataset) == len(originals_of) == 2
    assert set(model.labels.names) <= set(dataset.labels.names)
    for index, sample in enumerate(dataset.samples):
        image, mask = dataset.read(index)
        expected = terrazzo.predict(image, model, engine="torch").mask
        names = np.array(dataset.labels.names)[mask]
        assert (names == np.array(model.labels.names)[expected]).all()
        assert sample.image.file.read_bytes() == originals_of[sample.name].read_bytes()


def unpacked(rle: list[int]) -> np.ndarray[Any, Any]:
    """Decode Label Studio's run-length code, written from its description."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < count:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        out += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(out, np.uint8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 0.02, 0.5, 1]))
def test_brush_masks_come_back(seed: int, height: int, width: int, share: float) -> None:
    painted = np.random.default_rng(seed).random((height, width)) < share
    expected = np.repeat(np.where(painted, 255, 0).astype(np.uint8).ravel(), 4)
    assert (unpacked(list(brush_rle(painted))) == expected).all()


def test_runs_longer_than_a_code_can_say() -> None:
    painted = np.zeros((200, 200), bool)
    painted[150:] = True  # 120,000 and 40,000 values
    assert (unpacked(list(brush_rle(painted)))[::4].reshape(200, 200) > 0).tolist() == painted.tolist()


def test_label_studio_gets_tasks_that_its_configuration_shows(saved: Path, model: TrainedModel) -> None:
    tasks = json.loads((saved / "label_studio.json").read_text())
    assert sorted(task["data"]["image"] for task in tasks) == [
        "/data/local-files/?d=a.png", "/data/local-files/?d=more/a.png",
    ]  # fmt: skip
    view = ElementTree.fromstring((saved / "label_studio.xml").read_text())
    brush, image = view.find("BrushLabels"), view.find("Image")
    assert brush is not None and image is not None and image.get("value") == "$image"
    assert [label.get("value") for label in brush] == list(model.labels.names)
    results = tasks[0]["predictions"][0]["result"]
    assert {result["from_name"] for result in results} == {brush.get("name")}
    assert {result["to_name"] for result in results} == {image.get("name")} == {brush.get("toName")}
    painted = sum((unpacked(result["value"]["rle"])[3::4] > 0).astype(int) for result in results)
    assert (results[0]["original_width"], results[0]["original_height"]) == (60, 40)
    assert len(painted) == 40 * 60 and (painted == 1).all()  # each pixel has one class


def test_a_second_run_replaces_its_own_files_and_no_others(saved: Path, model: TrainedModel, photos: Path) -> None:
    again = terrazzo.suggest(photos / "c.jpg", model, budget=1, device="cpu")
    again.save(saved)
    assert [row["name"] for row in json.loads((saved / "suggestions.json").read_text())["photos"]] == ["c"]
    with Image.open(saved / "suggestions.png") as sheet:
        assert min(sheet.size) > 200
    (saved / "label_studio.json").write_text("[]")  # somebody's
    with pytest.raises(OutputError, match=r"label_studio.json would be replaced"):
        again.save(saved)
    assert (saved / "label_studio.json").read_text() == "[]"
    assert {path.name for path in suggestion_files(saved)} == {path.name for path in saved.iterdir()}


# -- names of strangers -----------------------------------------------------------------------------------------------


def test_names_and_colours_that_would_break_a_label_map() -> None:
    assert class_names(["a:b", "a-b", "#c", " d\n"]) == ["a-b", "a-b_", "_c", "d"]
    labels = LabelSpec.from_names(['x:<&"', "#y"], [[0, 0, 0], [0, 0, 0]])  # black would be the background
    archive = zipfile.ZipFile(io.BytesIO(cvat_masks([("p", np.array([[0, 1]], np.uint8))], labels)))
    lines = archive.read("labelmap.txt").decode().splitlines()
    assert lines[1] == "background:0,0,0::" and all(line.count(":") == 3 for line in lines[1:])
    colors = {tuple(map(int, line.split(":")[1].split(","))) for line in lines[1:]}
    assert len(colors) == 3
    pixels = np.asarray(Image.open(io.BytesIO(archive.read("SegmentationClass/p.png"))))
    assert {tuple(pixel) for pixel in pixels[0].tolist()} == colors - {(0, 0, 0)}
    brush = ElementTree.fromstring(label_studio_config(labels)).find("BrushLabels")
    assert brush is not None and [label.get("value") for label in brush] == list(labels.names)


def test_photos_that_are_called_alike_get_names_of_their_own() -> None:
    paths = [Path("1/a.jpg"), Path("2/A.png"), Path("3/a.jpg"), Path("x\ny.png"), Path("caf\udce9.png")]
    assert own_names(paths) == ["a", "A_2", "a_3", "x y", "caf\\udce9".replace("\\", "-")]
