"""Model folders: what is written is read back, and nothing damaged or foreign is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import terrazzo.atomic
from terrazzo.errors import CheckpointError, ConfigError, OutputError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import find_spec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from terrazzo.weights.load import load


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    torch.manual_seed(0)
    network = create_model("segformer_b0", 3).eval()
    labels = LabelSpec.from_names(["sky", "road", "car"])
    preprocess = Preprocess(short_side=64, long_side=256)
    return TrainedModel("segformer_b0", network, labels, preprocess, {"hours": 1.5}, "tiny")


@pytest.fixture
def folder(model: TrainedModel, tmp_path: Path) -> Path:
    save_folder(tmp_path / "tiny", model)
    return tmp_path / "tiny"


def rewrite_weights(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replace or remove tensors, and make the checksum right again, as someone's own script would."""
    state = load_file(folder / "model.safetensors")
    for key, value in change.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def rewrite_config(folder: Path, **change: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))


def test_round_trip_keeps_every_bit_and_every_field(model: TrainedModel, folder: Path) -> None:
    loaded = load_folder(folder)
    images = torch.randn(1, 3, 33, 50)
    with torch.inference_mode():
        assert torch.equal(loaded.network(images), model.network(images))
    assert dataclasses.replace(loaded, network=model.network) == model
    assert not loaded.network.training


def test_half_precision_storage_halves_the_file_and_stays_close(
    model: TrainedModel, folder: Path, tmp_path: Path
) -> None:
    save_folder(tmp_path / "half", model, torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "tiny")]
    assert sizes[0] < 0.55 * sizes[1]
    loaded = load_folder(tmp_path / "half")
    assert next(loaded.network.parameters()).dtype == torch.float32
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(images), model.network(images), atol=0.02, rtol=0.01)


def test_load_finds_a_folder_and_the_model_in_a_run_folder(model: TrainedModel, tmp_path: Path) -> None:
    save_folder(tmp_path / "run" / "model", model)
    assert load(tmp_path / "run" / "model").labels == load(tmp_path / "run").labels == model.labels
    assert load(str(tmp_path / "run")).name == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing-here", "there is no such folder"),
        ("empty", "holds no model"),
        ("a.txt", "neither a safetensors nor a PyTorch file"),
    ],
)
def test_what_is_no_model_is_refused_with_the_shipped_names(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=says) as caught:
        load(tmp_path / name)
    assert "folder" in caught.value.fix


def test_row_40_a_flipped_bit_is_a_checksum_mismatch(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    assert caught.value.code == "checkpoint-checksum"


def test_row_39_truncated_weights_are_refused_even_with_a_matching_checksum(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()[:-100]
    (folder / "model.safetensors").write_bytes(data)
    rewrite_config(folder, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    assert caught.value.code == "checkpoint-damaged"


def test_row_41_a_nan_names_its_tensor(folder: Path) -> None:
    rewrite_weights(folder, {"encoder.stages.1.norm.bias": torch.full((64,), float("nan"))})
    with pytest.raises(CheckpointError, match=r"NaN or infinity in encoder\.stages\.1\.norm\.bias"):
        load_folder(folder)


def test_missing_unexpected_and_misshapen_tensors_are_all_named(folder: Path) -> None:
    rewrite_weights(
        folder,
        {
            "decoder.fuse.weight": None,
            "decoder.conv_seg.weight": torch.zeros(3),
            "decoder.classifier.bias": torch.zeros(9),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    for part in ("1 missing (decoder.fuse.weight)", "1 unexpected (decoder.conv_seg.weight)", "is (9,), not (3,)"):
        assert part in caught.value.message


def test_row_43_another_variant_does_not_load(folder: Path) -> None:
    rewrite_config(folder, model=find_spec("segformer_b1").adapted(3).to_dict())
    with pytest.raises(CheckpointError, match=r"is a segformer_b0, and config\.json says segformer_b1"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!DOCTYPE html><html>", "not valid JSON"),
        ("[]", "does not hold a JSON object"),
        ("{}", "not the configuration"),
    ],
)
def test_row_46_what_is_no_configuration_is_refused(text: str, says: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        load_folder(folder)


@pytest.mark.parametrize(
    ("change", "says", "code"),
    [
        ({"encoder": {"name": "mitt"}}, "unknown encoder 'mitt'", "spec-name"),
        ({"encoder": {"name": "mit", "embed_dims": [32] * 4, "depths": [10**9] * 4}}, "depths is", "spec-value"),
        ({"decoder": {"name": "all_mlp", "width": 3}}, "decoder all_mlp has an unknown key 'width'", "spec-name"),
        ({"num_classes": 4}, "names 3 classes, and its network tells 4 apart", "checkpoint-labels"),
        ({"num_classes": None}, "cannot be built for None", "model-classes"),
        ({"layers": 3}, "unknown key 'layers'", "spec-name"),
        ({"image_size": [1, 2, 3]}, None, None),  # nothing of this network depends on it
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built(change: dict[str, object], says: str | None, code: str, folder: Path) -> None:
    model = json.loads((folder / "config.json").read_text())["model"]
    rewrite_config(folder, model={**model, **change})
    if says is None:
        assert load_folder(folder).spec.image_size is None
        return
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    assert says in caught.value.message and "config.json" in caught.value.message and caught.value.code == code


@pytest.mark.parametrize("described", [None, [], "segformer_b0", {}], ids=str)
def test_a_configuration_without_a_model(described: object, folder: Path) -> None:
    rewrite_config(folder, model=described)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_folder(folder)


def test_format_1_is_read(folder: Path) -> None:
    """What was written before there was a spec: the architecture's name, and nothing else about the network."""
    before = load_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model"]
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 1}))
    loaded = load_folder(folder)
    assert loaded.spec == before.spec and loaded.architecture == "segformer_b0"
    assert load("segformer_b0.camvid").spec.name == "segformer_b0"


def test_a_network_put_together_by_hand_is_not_saved(folder: Path, tmp_path: Path) -> None:
    model = load_folder(folder)
    model.network.spec = None
    with pytest.raises(ConfigError, match="by hand") as caught:
        save_folder(tmp_path / "x", model)
    assert caught.value.code == "model-spec" and not (tmp_path / "x").exists()


def test_a_newer_format_asks_for_an_update(folder: Path) -> None:
    rewrite_config(folder, format_version=99)
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    assert caught.value.fix == "update terrazzo"


def test_a_missing_weights_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_folder(folder)


def test_a_failed_save_leaves_the_old_model_and_nothing_else(
    model: TrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(terrazzo.atomic.os, "fsync", full)
    with pytest.raises(OutputError):
        save_folder(folder, dataclasses.replace(model, record={"hours": 9}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_saving_again_replaces_the_model(model: TrainedModel, folder: Path) -> None:
    save_folder(folder, dataclasses.replace(model, record={"hours": 9}))
    assert load_folder(folder).record == {"hours": 9}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
