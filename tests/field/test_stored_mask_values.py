"""Masks that can be read in two ways, by a model's own map of stored values or as class indices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from foreign_files import random_model
from terrazzo.errors import CheckpointError, ConfigError, DatasetError
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.training.start import refuse_two_readings
from terrazzo.weights.convert import convert
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.huggingface import save_huggingface
from terrazzo.weights.load import StartingWeights
from terrazzo.weights.metadata import labels_from_meta, stored_values

NAMES = ("wall", "building", "sky")
REDUCED = {0: "ignore", 1: 0, 2: 1, 3: 2, 255: "ignore"}
pytestmark = pytest.mark.filterwarnings("ignore:.*names no classes")
UNIT = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))


class Nearest:
    """An engine that reads the class off the photo: 0, 100 and 200."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([-np.abs(images[:, 0] - level) for level in (0, 100, 200)], axis=1)


def predictor(**fields: Any) -> Predictor:
    labels = LabelSpec.from_names(NAMES, **({"id_map": REDUCED} | fields))
    return Predictor(Nearest(), UNIT, labels, "nearest")


def folder(root: Path, stored: list[int], shown: list[int]) -> Path:
    """One photo whose columns show classes and whose mask stores values; no labels.yaml."""
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)
    image = np.tile(np.array(shown, np.uint8)[None, :, None] * np.uint8(100), (4, 1, 3))
    Image.fromarray(image).save(root / "val" / "images" / "a.png")
    Image.fromarray(np.tile(np.array(stored, np.uint8), (4, 1))).save(root / "val" / "masks" / "a.png")
    return root


def test_where_both_readings_are_possible_they_are_shown_and_nothing_is_chosen(tmp_path: Path) -> None:
    data = folder(tmp_path, [0, 1, 1, 2], [0, 0, 0, 1])  # the largest value, 3, happens to be absent
    with pytest.raises(DatasetError) as caught:
        terrazzo.evaluate(predictor(), data)
    assert caught.value.code == "dataset-mask-values"
    assert "stored values wall 50.0%, ignored 25.0%, building 25.0%;" in caught.value.message
    assert "class indices building 50.0%, wall 25.0%, sky 25.0%" in caught.value.message
    assert "labels.yaml" in caught.value.fix and "--mask-values" in caught.value.fix
    assert terrazzo.evaluate(predictor(), data, mask_values="stored").metrics.mIoU == 100
    as_indices = terrazzo.evaluate(predictor(), data, mask_values="indices")
    assert as_indices.metrics.label_pixels.tolist() == [4, 8, 4]


def test_one_possible_reading_is_used_and_said(tmp_path: Path) -> None:
    stored = folder(tmp_path / "stored", [0, 1, 2, 3], [0, 0, 1, 2])
    with pytest.warns(TerrazzoWarning, match="read by the model's map"):
        assert terrazzo.evaluate(predictor(), stored).metrics.mIoU == 100
    shifted = {10: 0, 20: 1, 30: 2, 255: "ignore"}
    indices = folder(tmp_path / "indices", [0, 1, 2, 255], [0, 1, 2, 2])
    with pytest.warns(TerrazzoWarning, match="read as class indices"):
        assert terrazzo.evaluate(predictor(id_map=shifted), indices).metrics.mIoU == 100


def test_neither_reading(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="hold 0, 1, 2, 9; not all are class indices") as caught:
        terrazzo.evaluate(predictor(), folder(tmp_path, [0, 1, 2, 9], [0, 0, 1, 2]))
    assert caught.value.code == "dataset-mask-values"


def test_a_map_that_only_adds_ignored_values_to_indices_needs_no_question(tmp_path: Path) -> None:
    adding = {0: 0, 1: 1, 2: 2, 11: "ignore"}
    data = folder(tmp_path, [0, 1, 11, 255], [0, 1, 2, 2])
    assert terrazzo.evaluate(predictor(id_map=adding), data).metrics.mIoU == 100


def test_labels_yaml_decides_and_the_option_is_refused_beside_it(tmp_path: Path) -> None:
    data = folder(tmp_path, [0, 1, 1, 2], [0, 0, 0, 1])
    (data / "labels.yaml").write_text("names: [wall, building, sky]\nmap: {0: ignore, 1: 0, 2: 1, 3: 2}\n")
    assert terrazzo.evaluate(predictor(), data).metrics.mIoU == 100
    with pytest.raises(ConfigError) as caught:
        terrazzo.evaluate(predictor(), data, mask_values="stored")
    assert caught.value.code == "mask-values"


def test_training_from_such_a_model_asks_too(tmp_path: Path) -> None:
    from terrazzo.data import open_dataset

    data = folder(tmp_path, [0, 1, 1, 2], [0, 0, 0, 1])
    guessed = open_dataset(data, "val")
    assert guessed.labels.names == ("class_0", "class_1", "class_2")
    start = StartingWeights("a model", "segformer_b0", {}, labels=LabelSpec.from_names(NAMES, id_map=REDUCED))
    with pytest.raises(DatasetError, match="both readings are possible") as caught:
        refuse_two_readings(start, guessed)
    assert "--mask-values" not in caught.value.fix  # which train does not have


# -- what checkpoints of others say -----------------------------------------------------------------------------------


def meta(**noted: Any) -> LabelSpec:
    return labels_from_meta({"dataset_meta": {"classes": NAMES, "palette": None, **noted}}, 3, "x.pth")[0]


def test_mmsegmentation_says_that_zero_is_ignored() -> None:
    assert dict(meta(reduce_zero_label=True).id_map or ()) == REDUCED
    assert meta(reduce_zero_label=False).id_map is None and meta().id_map is None
    old = {"CLASSES": NAMES, "config": "dict(type='LoadAnnotations', reduce_zero_label=True)"}  # of version 0
    assert dict(labels_from_meta(old, 3, "x.pth")[0].id_map or ()) == REDUCED
    for text in ("{'reduce_zero_label': True}", '{"reduce_zero_label": true}'):  # the same as a dictionary, and in JSON
        assert dict(labels_from_meta({"CLASSES": NAMES, "config": text}, 3, "x.pth")[0].id_map or ()) == REDUCED


def test_mmsegmentation_says_which_values_its_classes_had() -> None:
    labels = meta(label_map={0: 255, 1: 255, 2: 0, 3: 1, 4: 2, 5: -1}, reduce_zero_label=False)
    stored = np.array([[0, 1, 2, 3, 4, 5, 255]], np.uint8)
    assert labels.encode(stored).tolist() == [[255, 255, 0, 1, 2, 255, 255]]
    both = meta(label_map={0: 2, 1: 0, 2: 1}, reduce_zero_label=True)  # one is taken off first
    assert both.encode(np.array([[0, 1, 2, 3, 255]], np.uint8)).tolist() == [[255, 2, 0, 1, 255]]
    with pytest.raises(CheckpointError, match="label_map"):
        meta(label_map={"road": 1})


def test_a_known_class_list_keeps_its_own_map_unless_the_file_says_otherwise() -> None:
    ade = LabelSpec.bundled("ade20k")

    def read(**noted: Any) -> LabelSpec:
        return labels_from_meta({"dataset_meta": {"classes": ade.names, **noted}}, 150, "x.pth")[0]

    assert read() == read(reduce_zero_label=True) == ade
    assert read(reduce_zero_label=False).id_map is None


def test_transformers_ignore_index() -> None:
    ignoring_zero = stored_values(3, "config.json", ignore=0)
    assert ignoring_zero == {0: "ignore", 1: 1, 2: 2}
    assert stored_values(3, "config.json", ignore=9) == {0: 0, 1: 1, 2: 2, 9: "ignore"}
    assert stored_values(3, "config.json", ignore=255) is None
    assert stored_values(3, "config.json", reduced=True, ignore=255) == REDUCED
    for odd in (None, "x", [1], -100, 2.5):
        assert stored_values(3, "config.json", ignore=odd) == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("reads", [{"do_reduce_labels": True}, {"reduce_labels": True}, {"ignore_index": 0}])
def test_a_class_list_given_to_transformers_folder_replaces_what_its_masks_stored(
    tmp_path: Path, reads: dict[str, Any]
) -> None:
    labels = LabelSpec.from_names([f"thing {k}" for k in range(11)])
    save_huggingface(tmp_path / "theirs", TrainedModel("segformer_b0", random_model(num_classes=11), labels, UNIT, {}))
    config, processor = tmp_path / "theirs" / "config.json", tmp_path / "theirs" / "preprocessor_config.json"
    document = {key: value for key, value in json.loads(config.read_text()).items() if key != "terrazzo"}
    config.write_text(json.dumps({**document, "semantic_loss_ignore_index": reads.get("ignore_index", 255)}))
    said = {key: value for key, value in json.loads(processor.read_text()).items() if key != "do_reduce_labels"}
    processor.write_text(json.dumps({**said, **{key: True for key in reads if key != "ignore_index"}}))
    kept = convert(tmp_path / "theirs", tmp_path / "same", "hf").labels
    assert dict(kept.id_map or ())[0] == "ignore"
    assert json.loads((tmp_path / "same" / processor.name).read_text()) == json.loads(processor.read_text())
    with pytest.warns(TerrazzoWarning, match="whose names take their places"):
        convert(tmp_path / "theirs", tmp_path / "named", "hf", labels="camvid")
    written = json.loads((tmp_path / "named" / processor.name).read_text())
    assert written["do_reduce_labels"] is False and "reduce_labels" not in written
    assert json.loads((tmp_path / "named" / config.name).read_text())["semantic_loss_ignore_index"] == 255
