"""Folders of models as people pass them on: what they say is kept, and what is odd in them is no traceback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from foreign_files import NAMES, random_model, save_checkpoint, state_in
from own_rows import with_rows
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import segformer as segformer_models
from terrazzo.preprocess import Preprocess
from terrazzo.weights import load as loading
from terrazzo.weights.catalog import NVIDIA
from terrazzo.weights.convert import convert
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.huggingface import save_huggingface
from terrazzo.weights.load import load, load_starting_weights
from terrazzo.weights.origin import licence_of
from terrazzo.weights.remap.layout import Layout
from terrazzo.weights.remap.segformer import HF4, HF4_MIT, NVLABS, SMP

CARD = "---\nlicense: cc-by-nc-4.0\n---\n"
PIXELS = Preprocess(short_side=24, antialias=True, rounding="down")


@pytest.fixture(scope="module", autouse=True)
def nano() -> Iterator[None]:
    size = {"embed_dims": (8, 16, 40, 64), "depths": (1, 1, 1, 1)}
    with pytest.MonkeyPatch.context() as patch:
        nano = segformer_models.segformer_spec("segformer_nano", size, 32)
        with_rows(patch, segformer_models.VARIANTS, {"segformer_nano": nano})
        yield


def trained(**record: Any) -> TrainedModel:
    labels = LabelSpec.from_names(NAMES, id_map={0: "ignore", 7: 0, 8: 4})
    return TrainedModel("segformer_nano", random_model("segformer_nano"), labels, PIXELS, record)


def ours(folder: Path, **record: Any) -> Path:
    save_folder(folder, trained(**record))
    return folder


def theirs(folder: Path, **change: Any) -> Path:
    """A folder of transformers, some keys of its config.json changed, or taken out where the value is None."""
    save_huggingface(folder, trained())
    config = json.loads((folder / "config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors_in(folder: Path, layout: Layout, **config: Any) -> Path:
    folder.mkdir()
    save_file(state_in(layout, random_model("segformer_nano")), folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(CARD)
    return folder


def in_parts(folder: Path) -> Path:
    """The weights of a folder of transformers in two files and an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {key: f"model-0000{1 + k % 2}-of-00002.safetensors" for k, key in enumerate(state)}
    for name in set(places.values()):
        save_file({key: state[key] for key in state if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


# -- classes, pixels, licence -----------------------------------------------------------------------------------------


def test_a_folder_of_ours_on_the_hub_keeps_classes_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ours(tmp_path / "snapshot", licence="CC0")
    monkeypatch.setattr(loading, "download", lambda _: folder)
    model = load("somebody/streets")
    assert model.labels == trained().labels and model.preprocess == PIXELS
    assert model.record["licence"] == "CC0" and model.name == "somebody/streets"


def test_every_folder_s_model_card_states_its_licence(tmp_path: Path) -> None:
    own = ours(tmp_path / "ours")
    (own / "README.md").write_text(CARD)
    with pytest.warns(UserWarning, match="aligned corners"):
        smp = load(tensors_in(tmp_path / "smp", SMP, _model_class="Segformer", encoder_name="mit_b0"))
    for model in (load(own), smp, load(tensors_in(tmp_path / "bare", HF4))):
        assert licence_of(model.record) == "cc-by-nc-4.0"
    stated = ours(tmp_path / "stated", licence="CC0")
    (stated / "README.md").write_text(CARD)
    assert licence_of(load(stated).record) == "CC0"


def test_an_encoder_keeps_the_terms_of_what_it_was_trained_on_from(tmp_path: Path) -> None:
    folder = tensors_in(tmp_path / "mit", HF4_MIT, model_type="segformer", hidden_sizes=[8, 16, 40, 64], depths=[1] * 4)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: nvidia/mit-b0\n---\n")
    origin = load_starting_weights(folder).origin
    assert origin["licence"] == f"apache-2.0; nvidia/mit-b0, which it started from: {NVIDIA}"
    assert {"name": "nvidia/mit-b0", "licence": NVIDIA} in origin["started_from"]


def test_a_licence_within_another_word_is_another_licence() -> None:
    start = {"name": "x", "licence": "mit"}
    assert licence_of({"licence": "research permitted", "started_from": [start]}) == (
        "research permitted; x, which it started from: mit"
    )
    assert licence_of({"licence": "see x: mit", "started_from": [start]}) == "see x: mit"


def test_names_that_only_label2id_has(tmp_path: Path) -> None:
    numbers = {name: k for k, name in enumerate(NAMES)}
    assert load(theirs(tmp_path / "x", id2label=None, label2id=numbers, terrazzo=None)).labels.names == tuple(NAMES)


def test_what_is_no_class_list_and_no_number_of_classes_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"name is 'x{200}', which cannot be the name of anything"):
        LabelSpec.bundled("x" * 5000)
    with pytest.raises(ConfigError, match="cannot be built for 65536 class") as caught:
        create_model("segformer_b0", 65_536)
    assert "from 2 to 65535" in caught.value.fix


# -- files ------------------------------------------------------------------------------------------------------------


def test_weights_in_parts(tmp_path: Path) -> None:
    folder = in_parts(theirs(tmp_path / "x"))
    with pytest.raises(CheckpointError, match="one of the parts of a model") as caught:
        load(folder / "model-00001-of-00002.safetensors")
    assert str(folder) in caught.value.fix
    assert load(folder / "model.safetensors.index.json").labels == trained().labels
    (folder / "config.json").unlink()  # as accelerate saves them
    expected = random_model("segformer_nano").state_dict()
    for name in (folder, folder / "model.safetensors.index.json"):
        state = load(name).network.state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["", "config.json", "nothing.pth", "model/x.pth"])
def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = ours(tmp_path / "x")
    is_file, iterdir = Path.is_file, Path.iterdir

    def refused(path: Path) -> Any:  # root, as whom tests may run, may look into every folder
        if path.is_relative_to(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    monkeypatch.setattr(Path, "iterdir", lambda path: refused(path) if path == folder else iterdir(path))
    monkeypatch.setattr("os.path.exists", lambda path: not Path(path).is_relative_to(folder))
    monkeypatch.setattr("os.path.isfile", lambda path: False)
    with pytest.raises(CheckpointError) as caught:
        load(folder / name)
    assert str(folder) in caught.value.message
    assert caught.value.code == ("checkpoint-missing" if name == "model/x.pth" else "checkpoint-unreadable")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool], ids=str)
def test_whole_numbers_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    state = state_in(NVLABS, random_model("segformer_nano"))
    state["decode_head.linear_pred.bias"] = state["decode_head.linear_pred.bias"].to(dtype)
    folder = ours(tmp_path / "ours")
    own = load_file(folder / "model.safetensors")
    save_file({**own, "decoder.fuse.weight": own["decoder.fuse.weight"].to(dtype)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    for path in (save_checkpoint(tmp_path / "x.pth", state), folder):
        with pytest.raises(CheckpointError, match=rf"holds {str(dtype)[6:]} numbers for decoder\.") as caught:
            load(path)
        assert caught.value.code == "checkpoint-not-float"


def test_a_counter_stored_as_a_float_counts_on(tmp_path: Path) -> None:
    state = state_in(NVLABS, random_model("segformer_nano"))
    state["decode_head.linear_fuse.bn.num_batches_tracked"] = torch.tensor(3.0)
    norm: Any = load(save_checkpoint(tmp_path / "x.pth", state)).network.decoder.norm
    assert norm.num_batches_tracked.dtype == torch.int64 and int(norm.num_batches_tracked) == 3


# -- what strangers write into config.json ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept", [5, {"config": 5}, {"config": {}, "preprocessor": [1]}, {"config": {"hidden_sizes": [1, 2, 3, 4]}}], ids=str
)
def test_what_is_kept_for_transformers_changes_no_network(tmp_path: Path, kept: object) -> None:
    written = {"own": ours(tmp_path / "ours", huggingface=kept), "theirs": theirs(tmp_path / "theirs")}
    config = json.loads((written["theirs"] / "config.json").read_text())
    config["terrazzo"]["record"]["huggingface"] = kept
    (written["theirs"] / "config.json").write_text(json.dumps(config))
    for name, folder in written.items():
        convert(folder, tmp_path / f"{name} again", "hf")
        back = load(tmp_path / f"{name} again")
        assert back.labels == trained().labels and back.spec == random_model("segformer_nano").spec


def test_a_configuration_keeps_its_spelling_on_the_way_to_us_and_back(tmp_path: Path) -> None:
    config = {"hidden_act": "gelu_python", "drop_path_rate": 0.2, "transformers_version": "4.30"}
    convert(theirs(tmp_path / "theirs", **config, terrazzo=None), tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", "hf")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: written[key] for key in config} == config


@pytest.mark.parametrize("version", ["\x1b[2J", {"a": list(range(999))}], ids=["escape", "long"])
def test_a_version_is_shown_escaped_and_short(tmp_path: Path, version: object) -> None:
    folder = ours(tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format_version": version}))
    with pytest.raises(CheckpointError, match="has format version") as caught:
        load(folder)
    assert "\x1b" not in caught.value.message and len(caught.value.message) < 500


def test_class_names_that_are_a_number(tmp_path: Path) -> None:
    state = state_in(NVLABS, random_model("segformer_nano", 2))
    one_row = {key: value[:1] if "linear_pred" in key else value for key, value in state.items()}
    model = load(save_checkpoint(tmp_path / "x.pth", one_row, CLASSES=5))  # how many there are, and no names
    assert model.labels.names == ("background", "object")
