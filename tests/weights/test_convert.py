"""`convert`: into our folder and into transformers', and back without a bit lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foreign_files import NAMES, random_model, save_checkpoint, state_in
from terrazzo.errors import ConfigError, OutputError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.convert import convert
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import load
from terrazzo.weights.remap.segformer import MMSEG, NVLABS


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    labels = LabelSpec.from_names(NAMES, [[k, k, k] for k in range(5)], id_map={0: "ignore", 7: 0, 8: 4})
    preprocess = Preprocess(short_side=300, long_side=900, multiple_of=32)
    record = {"licence": "CC0", "hours": 1.5, "origin": "elsewhere"}
    save_folder(tmp_path / "ours", TrainedModel("segformer_b0", random_model(), labels, preprocess, record))
    return tmp_path / "ours"


# Of the rule above; tests/field/test_pixels.py has the note.
pytestmark = pytest.mark.filterwarnings("ignore:transformers' image processor has no words")


def test_ours_to_transformers_and_back_keeps_what_transformers_cannot_express(ours: Path, tmp_path: Path) -> None:
    convert(ours, tmp_path / "hf", "hf")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    convert(tmp_path / "hf", tmp_path / "back")
    before, after = load(ours), load(tmp_path / "back")
    assert before.labels == after.labels and before.preprocess == after.preprocess
    assert {**before.record, "huggingface": after.record["huggingface"]} == after.record
    assert (ours / "model.safetensors").read_bytes() == (tmp_path / "back" / "model.safetensors").read_bytes()


def test_an_nvlabs_file_to_transformers(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "x.pth", state_in(NVLABS), CLASSES=NAMES)
    convert(path, tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {str(k): name for k, name in enumerate(NAMES)}
    assert (config["hidden_sizes"], config["decoder_hidden_size"]) == ([32, 64, 160, 256], 256)
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert len(tensors) == 208 and tensors["decode_head.classifier.weight"].shape == (5, 256, 1, 1)
    assert torch.equal(tensors["decode_head.classifier.bias"], random_model().state_dict()["decoder.classifier.bias"])


def test_what_transformers_reads_is_what_is_meant_when_someone_has_edited_it(ours: Path, tmp_path: Path) -> None:
    convert(ours, tmp_path / "hf", "hf")
    for name, change in (
        ("config.json", {"id2label": {str(k): f"new {k}" for k in range(5)}}),
        ("preprocessor_config.json", {"size": {"height": 100, "width": 200}}),
    ):
        path = tmp_path / "hf" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    edited = load(tmp_path / "hf")
    assert edited.labels.names[3] == "new 3" and edited.preprocess == Preprocess(size=(100, 200), antialias=True)


def test_a_known_lists_names_in_ones_own_order_stay_where_they_are(tmp_path: Path) -> None:
    context = LabelSpec.bundled("pascal_context").names
    voc = ["table" if name == "diningtable" else name for name in LabelSpec.bundled("voc").names]
    labels = LabelSpec.from_names([*voc, *(name for name in context if name not in voc)])  # masks that count so
    save_folder(tmp_path / "ours", TrainedModel("segformer_b0", random_model(num_classes=60), labels, Preprocess(), {}))
    convert(tmp_path / "ours", tmp_path / "hf", "hf")
    assert load(tmp_path / "hf").labels == labels


def test_labels_may_be_given(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "x.pth", state_in(NVLABS, random_model(num_classes=21)))
    assert load(path).labels.names[0] == "class 0"
    convert(path, tmp_path / "voc", labels="voc")
    assert load(tmp_path / "voc").labels == LabelSpec.bundled("voc")
    with pytest.raises(ConfigError) as caught:
        convert(path, tmp_path / "ade", labels="ade20k")
    assert caught.value.code == "convert-labels" and not (tmp_path / "ade").exists()


@pytest.mark.parametrize("to", ["terrazzo", "hf"])
def test_nothing_is_overwritten(ours: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("taken", "file", "ours"):
        with pytest.raises(OutputError) as caught:
            convert(ours, tmp_path / name, to)
        assert caught.value.code == "output-taken"
    assert (tmp_path / "taken" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    convert(ours, tmp_path / "empty", to)
    assert load(tmp_path / "empty").labels.names == tuple(NAMES)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_transformers_does_not_have_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "x.pth", state_in(MMSEG, random_model("segformer_b0_mmseg")))
    with pytest.raises(ConfigError) as caught:
        convert(path, tmp_path / "hf", "hf")
    assert caught.value.code == "convert-architecture" and not (tmp_path / "hf").exists()
    with pytest.raises(ConfigError) as caught:
        convert(path, tmp_path / "hf", "onnx")
    assert caught.value.code == "convert-form"
