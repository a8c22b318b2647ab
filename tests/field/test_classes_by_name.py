"""Data that counts the model's classes in another order, or has other classes: the right number, or a refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.data import open_dataset
from terrazzo.errors import CheckpointError, DatasetError, TrainingError
from terrazzo.exports.accuracy_gate import LabelledData
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.training.plan import refuse_other_labels
from terrazzo.training.recipe import automatic_recipe
from terrazzo.training.start import start_from
from terrazzo.weights.exported import ExportedDescription

NAMES = ("dark", "grey", "light")
LEVELS = (20, 120, 220)
LABELS = LabelSpec.from_names(NAMES)
UNIT = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))


class Nearest:
    """An engine that gives each pixel the class whose level is nearest."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([-np.abs(images[:, 0] - level) for level in LEVELS], axis=1)


def predictor(names: tuple[str, ...] = NAMES, **changes: Any) -> Predictor:
    return Predictor(Nearest(), UNIT, LabelSpec.from_names(names), "nearest", **changes)


def write_data(root: Path, names: list[str] | None = None, stored: dict[str, int] | None = None) -> Path:
    """Two photos of three stripes, with masks numbered as `stored` says; one stripe of the second is mislabelled."""
    stored = stored or {name: k for k, name in enumerate(names or NAMES)}
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(2):
            stripes = np.repeat(np.arange(3), 8)
            shown = np.array(LEVELS, np.uint8)[stripes]
            Image.fromarray(np.tile(shown[:, None, None], (1, 16, 3))).save(root / split / "images" / f"{number}.png")
            labelled = np.array([stored[name] for name in NAMES], np.uint8)[stripes]
            labelled[-8:] = stored["dark"] if number else labelled[-8:]
            Image.fromarray(np.tile(labelled[:, None], (1, 16))).save(root / split / "masks" / f"{number}.png")
    if names is not None:
        (root / "labels.yaml").write_text(json.dumps({"names": names}))
    return root


EXPECTED = [200 / 3, 100.0, 50.0]  # IoU of dark, grey and light


def test_the_same_names_in_another_order_give_the_same_numbers_and_it_is_said(tmp_path: Path) -> None:
    straight = terrazzo.evaluate(predictor(), write_data(tmp_path / "straight", list(NAMES)))
    turned = write_data(tmp_path / "turned", ["Light", "DARK", "grey"], {"light": 0, "dark": 1, "grey": 2})
    with pytest.warns(TerrazzoWarning, match="matched by name: 'Light' 0 -> 2, 'DARK' 1 -> 0, 'grey' 2 -> 1"):
        report = terrazzo.evaluate(predictor(), turned)
    assert report.metrics.iou.tolist() == straight.metrics.iou.tolist() == pytest.approx(EXPECTED)
    assert report.labels.names == ("DARK", "grey", "Light")
    assert np.array_equal(report.confusion, straight.confusion)


def test_a_map_and_colours_are_turned_with_the_names(tmp_path: Path) -> None:
    data = write_data(tmp_path / "mapped", ["light", "dark", "grey"], {"light": 7, "dark": 3, "grey": 255})
    document = {"names": ["light", "dark", "grey"], "map": {7: 0, 3: 1, 255: 2, 0: "ignore"}}
    (data / "labels.yaml").write_text(json.dumps(document))
    with pytest.warns(TerrazzoWarning, match="matched by name"):
        assert terrazzo.evaluate(predictor(), data).metrics.iou.tolist() == pytest.approx(EXPECTED)
    for path in (data / "val" / "masks").iterdir():
        spec = LabelSpec.from_yaml(data / "labels.yaml")
        Image.fromarray(spec.colorize(spec.encode(np.asarray(Image.open(path))))).save(path)
    with pytest.warns(TerrazzoWarning, match="matched by name"):
        assert terrazzo.evaluate(predictor(), data).metrics.iou.tolist() == pytest.approx(EXPECTED)


@pytest.mark.parametrize("numbers", [["class 0", "class 1", "class 2"], ["LABEL_0", "LABEL_1", "LABEL_2"]])
def test_names_that_are_numbers_pass_with_a_note_and_the_report_has_the_names(
    tmp_path: Path, numbers: list[str]
) -> None:
    data = write_data(tmp_path / "data", numbers, {name: k for k, name in enumerate(NAMES)})
    with pytest.warns(TerrazzoWarning, match="the data's classes are only numbers"):
        report = terrazzo.evaluate(predictor(), data)
    assert report.labels.names == NAMES and report.metrics.iou.tolist() == pytest.approx(EXPECTED)


def test_a_model_without_names_takes_the_datas(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", list(NAMES))
    with pytest.warns(TerrazzoWarning, match="the model's classes are only numbers"):
        report = terrazzo.evaluate(predictor(("0", "1", "2")), data)
    assert report.labels.names == NAMES and report.metrics.iou.tolist() == pytest.approx(EXPECTED)
    guessed = predictor(("sky", "road", "tree"), record={"labels from": "taken to be x, for there are 3"})
    with pytest.warns(TerrazzoWarning, match="are a guess"):
        assert terrazzo.evaluate(guessed, data).labels.names == NAMES


def test_a_folder_that_names_no_classes_takes_the_models_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(TerrazzoWarning, match="names no classes: .* in their order, 0 'dark', 1 'grey', 2 'light'"):
        report = terrazzo.evaluate(predictor(), write_data(tmp_path / "data"))
    assert report.metrics.iou.tolist() == pytest.approx(EXPECTED)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (("dark", "grey", "white"), "2 'light' | 'white'; only in the data: 'light'; only in the model: 'white'"),
        (("dark", "grey"), "3 and 2 .*2 'light' | -"),
        (("dark", "grey", "light", "white"), "3 and 4 .*3 - | 'white'; only in the model: 'white'"),
    ],
)
def test_other_classes_are_refused_with_both_lists_side_by_side(
    tmp_path: Path, model: tuple[str, ...], message: str
) -> None:
    data = write_data(tmp_path / "data", list(NAMES))
    with pytest.raises(DatasetError, match=message.replace("|", r"\|")) as caught:
        terrazzo.evaluate(predictor(model), data)
    assert caught.value.code == "dataset-classes" and "labels.yaml" in caught.value.fix


def test_the_gate_of_an_export_matches_by_name(tmp_path: Path) -> None:
    data = write_data(tmp_path / "turned", ["light", "dark", "grey"])
    description = ExportedDescription("segformer_b0", LABELS, UNIT)
    with pytest.warns(TerrazzoWarning, match="matched by name"):
        report = LabelledData(data, "val").measure(Nearest(), description)
    assert report.metrics.mIoU == pytest.approx(sum(EXPECTED) / 3)
    with pytest.raises(DatasetError, match=r"'light' \| 'x'"):
        LabelledData(data, "val").measure(Nearest(), replace(description, labels=LabelSpec.from_names(["x", "y", "z"])))


def test_a_class_list_given_beside_labels_yaml_is_matched_to_it(tmp_path: Path) -> None:
    data = write_data(tmp_path / "turned", ["light", "dark", "grey"])
    with pytest.warns(TerrazzoWarning, match="labels.yaml counts the given classes in another order"):
        dataset = open_dataset(data, "val", LABELS)
    ade = LabelSpec.from_names(NAMES, id_map={0: "ignore", 1: 0, 2: 1, 3: 2})
    straight = write_data(tmp_path / "straight", list(NAMES))
    assert open_dataset(straight, "val", ade).read(0)[1][:, 0].tolist() == np.repeat([0, 1, 2], 8).tolist()
    assert dataset.labels.names == NAMES and dataset.read(0)[1][:, 0].tolist() == np.repeat([0, 1, 2], 8).tolist()


def test_a_class_list_given_in_place_of_the_folders_own_is_told(tmp_path: Path) -> None:
    data = write_data(tmp_path / "named", ["light", "dark", "grey"])
    with pytest.warns(TerrazzoWarning, match=r"take their places \(labels.yaml \| given\): 0 'light' \| 'a'"):
        assert open_dataset(data, "val", LabelSpec.from_names(["a", "b", "c"])).labels.names == ("a", "b", "c")


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer of three classes, untrained, in a folder."""
    from terrazzo.weights.create import create_model
    from terrazzo.weights.files import TrainedModel, save_folder

    folder = tmp_path_factory.mktemp("models") / "b0"
    network = create_model("segformer_b0", 3).eval()
    save_folder(folder, TrainedModel("segformer_b0", network, LABELS, Preprocess()))
    return folder


def test_a_start_for_other_classes_of_the_same_number_is_refused_or_reset(trained: Path) -> None:
    from terrazzo.weights.create import create_model
    from terrazzo.weights.load import load_starting_weights

    recipe = automatic_recipe("segformer_b0", [(32, 32)]).changed({"weights": "given"})
    start = load_starting_weights(trained)
    fresh = create_model("segformer_b0", 3)
    with pytest.raises(CheckpointError, match=r"0 'sky' \| 'dark'; 1 'road' \| 'grey'; 2 'tree' \| 'light'") as caught:
        start_from(fresh, start, recipe, False, ("sky", "road", "tree"))
    assert caught.value.code == "checkpoint-classes" and "--reset-head" in caught.value.fix
    random = fresh.state_dict()["decoder.classifier.weight"].clone()
    assert not start_from(fresh, start, recipe, True, ("sky", "road", "tree")).is_whole
    assert bool((fresh.state_dict()["decoder.classifier.weight"] == random).all())


def test_a_run_is_not_resumed_with_classes_in_another_order(tmp_path: Path) -> None:
    refuse_other_labels(LABELS, LabelSpec.from_names(["Dark", "GREY", "light"]), tmp_path)
    other_map = LabelSpec.from_names(NAMES, id_map={0: 0, 1: 1, 2: "ignore", 3: 2, 255: "ignore"})
    for labels, told in (
        (LabelSpec.from_names(["light", "dark", "grey"]), r"0 'light' \| 'dark'"),
        (LabelSpec.from_names(["dark", "grey", "white"]), r"2 'light'|2 'white' \| 'light'"),
        (other_map, "what masks store has changed"),
    ):
        with pytest.raises(TrainingError, match=told) as caught:
            refuse_other_labels(LABELS, labels, tmp_path)
        assert caught.value.code == "training-resume"


# -- real photos ------------------------------------------------------------------------------------------------------


def test_camvid_renumbered_alphabetically_scores_as_before(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared_data / "camvid" / "val"
    names = LabelSpec.bundled("camvid").names
    order = sorted(names)
    table = np.full(256, 255, np.uint8)
    table[: len(names)] = [order.index(name) for name in names]
    for root in (tmp_path / "as-is", tmp_path / "renumbered"):
        for kind in ("images", "masks"):
            (root / "val" / kind).mkdir(parents=True)
        for image in sorted((source / "images").iterdir())[::34]:
            (root / "val" / "images" / image.name).write_bytes(image.read_bytes())
            stored = np.asarray(Image.open(source / "masks" / f"{image.stem}.png"))
            written = stored if root.name == "as-is" else table[stored]
            Image.fromarray(written).save(root / "val" / "masks" / f"{image.stem}.png")
    (tmp_path / "renumbered" / "labels.yaml").write_text(json.dumps({"names": order}))
    scores = []
    for name in ("as-is", "renumbered"):
        path = tmp_path / f"{name}.json"
        main(["evaluate", "--data", str(tmp_path / name), "--engine", "torch", "--json", str(path)])
        scores.append(json.loads(path.read_text()))
    as_is, renumbered = scores
    assert renumbered["mIoU"] == as_is["mIoU"] > 60
    assert renumbered["classes"] == as_is["classes"]
    assert capsys.readouterr().err.count("note: ") == 2  # and that the folder as it is names no classes
