"""Model folders with a backbone of transformers: complete in themselves, and loaded as strictly as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from terrazzo.errors import CheckpointError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from tiny_backbones import TINY_BACKBONES

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

PAIRS = [
    ("all_mlp", "pvt_v2"),
    ("all_mlp", "swin"),  # has buffers that are in no file
    ("fcn_dilated", "resnet"),
    ("fcn", "convnext"),
    ("setr_pup", "dinov2"),
    ("setr_mla", "dinov3_vit"),  # too
]


def tiny_model(architecture: str, family: str) -> TrainedModel:
    torch.manual_seed(0)
    network = create_model(architecture, 3, encoder=TINY_BACKBONES[family]).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return TrainedModel(architecture, network, LabelSpec.from_names(["sky", "road", "car"]), Preprocess(), {}, "tiny")


def rewrite(folder: Path, **change: Any) -> None:
    """Change the encoder's configuration, or remove it."""
    document = json.loads((folder / "config.json").read_text())
    encoder = document["model"]["encoder"]
    encoder["config"] = {**encoder["config"], **change} if change else None
    (folder / "config.json").write_text(json.dumps(document))


def write_format_1(folder: Path, **change: Any) -> None:
    """Write the configuration again, as it was before there was a spec."""
    document = json.loads((folder / "config.json").read_text())
    model = document.pop("model")
    document |= {"format_version": 1, "encoder": model["encoder"]["config"], **change}
    (folder / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(("architecture", "family"), PAIRS, ids=" on ".join)
def test_round_trip(architecture: str, family: str, tmp_path: Path) -> None:
    model = tiny_model(architecture, family)
    save_folder(tmp_path / "saved", model)
    loaded = load_folder(tmp_path / "saved")
    assert loaded.architecture == architecture
    images = torch.randn(1, 3, 45, 61)
    with torch.inference_mode():
        assert torch.equal(loaded.network(images), model.network(images))
    assert not loaded.network.training and not any(parameter.is_meta for parameter in loaded.network.parameters())
    assert (
        json.loads((tmp_path / "saved" / "config.json").read_text())["model"]["encoder"]["config"]["model_type"]
        == family
    )
    save_folder(tmp_path / "again", loaded)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


def test_nothing_random_is_drawn_to_load(tmp_path: Path) -> None:
    save_folder(tmp_path / "saved", tiny_model("all_mlp", "pvt_v2"))
    state = torch.get_rng_state()
    load_folder(tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), state)


def test_another_encoder_than_the_weights(tmp_path: Path) -> None:
    save_folder(tmp_path, tiny_model("fcn", "resnet"))
    rewrite(tmp_path, hidden_sizes=[8, 12, 16, 24], transformers_version="5.0.1")
    with pytest.raises(CheckpointError, match=r"transformers 5\.0\.1") as error:
        load_folder(tmp_path)
    assert error.value.code == "checkpoint-keys"
    assert "encoder.backbone.encoder.stages.3" in error.value.message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_type": "bert"}, "encoder-backbone"),
        ({"depths": "deep"}, "encoder-config"),
        ({}, "spec-value"),
    ],
    ids=str,
)
def test_an_encoder_that_cannot_be_built(change: dict[str, Any], code: str, tmp_path: Path) -> None:
    save_folder(tmp_path, tiny_model("fcn", "resnet"))
    rewrite(tmp_path, **change)
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        load_folder(tmp_path)
    assert error.value.code == code


@pytest.mark.parametrize(("architecture", "family"), PAIRS, ids=" on ".join)
def test_format_1_is_read(architecture: str, family: str, tmp_path: Path) -> None:
    model = tiny_model(architecture, family)
    save_folder(tmp_path, model)
    write_format_1(tmp_path)
    loaded = load_folder(tmp_path)
    assert loaded.architecture == architecture and loaded.spec.to_dict() == model.spec.to_dict()
    images = torch.randn(1, 3, 45, 61)
    with torch.inference_mode():
        assert torch.equal(loaded.network(images), model.network(images))


@pytest.mark.parametrize("encoder", [None, "hf:microsoft/resnet-50"], ids=str)
def test_format_1_without_the_encoder(encoder: object, tmp_path: Path) -> None:
    save_folder(tmp_path, tiny_model("fcn", "resnet"))
    write_format_1(tmp_path, encoder=encoder)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_folder(tmp_path)


def test_a_whole_model_of_format_1_has_no_use_for_an_encoder(tmp_path: Path) -> None:
    save_folder(tmp_path, tiny_model("fcn", "resnet"))
    write_format_1(tmp_path, architecture="segformer_b0")
    with pytest.raises(CheckpointError, match="of its own"):
        load_folder(tmp_path)
