"""Encoders of transformers by name: their configuration, their weights, the hub's cache, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models.encoders.backbone import Backbone
from terrazzo.weights.create import create_model
from tiny_backbones import TINY_BACKBONES

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")


def encoder_of(encoder: Any) -> Backbone:
    """Return the encoder of a model that reads several maps."""
    backbone = create_model("all_mlp", 2, encoder=encoder).encoder
    assert isinstance(backbone, Backbone)
    return backbone


CLASSIFIERS = {
    "pvt_v2": "PvtV2ForImageClassification",
    "swin": "SwinForImageClassification",
    "resnet": "ResNetForImageClassification",
    "convnext": "ConvNextForImageClassification",
    "dinov2": "Dinov2Model",
    "dinov3_vit": "DINOv3ViTModel",
}


@pytest.fixture(scope="module", params=list(TINY_BACKBONES))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A folder as it is published: a classifier, or a model without head, in half precision."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    config = transformers.CONFIG_MAPPING[request.param].from_dict(TINY_BACKBONES[request.param])
    model = getattr(transformers, CLASSIFIERS[request.param])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3)
    model.half().save_pretrained(folder)
    yield folder, model


def test_the_weights_of_a_folder(published: tuple[Path, Any], capfd: pytest.CaptureFixture[str]) -> None:
    folder, model = published
    encoder = encoder_of(f"hf:{folder}")
    theirs = {key.removeprefix(f"{model.base_model_prefix}."): value for key, value in model.state_dict().items()}
    for key, value in encoder.backbone.state_dict().items():
        key = key.removeprefix(f"{model.base_model_prefix}.")
        if key.startswith("hidden_states_norms"):
            assert (value == (1.0 if key.endswith("weight") else 0.0)).all()
        else:
            assert torch.equal(value, theirs[key].to(value.dtype)), key
        assert not value.is_floating_point() or value.dtype == torch.float32
    assert str(folder) not in json.dumps(encoder.configuration())
    assert capfd.readouterr() == ("", "")


def test_a_config_file_gives_random_weights(published: tuple[Path, Any]) -> None:
    folder, _ = published
    torch.manual_seed(0)
    first = encoder_of(f"hf:{folder / 'config.json'}")
    torch.manual_seed(0)
    again = encoder_of(json.loads((folder / "config.json").read_text()))
    trained = encoder_of(f"hf:{folder}")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    assert any(not torch.equal(value, trained.state_dict()[key]) for key, value in first.state_dict().items())


def save_tiny(folder: Path) -> Path:
    transformers.ResNetModel(transformers.ResNetConfig(**TINY_BACKBONES["resnet"])).save_pretrained(folder)
    return folder


def test_a_configuration_larger_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.ResNetConfig(**TINY_BACKBONES["resnet"]).to_dict()
    monkeypatch.setattr("terrazzo.models.encoders.backbone.machine_memory", lambda: 4000)
    with pytest.raises(ConfigError, match="parameters do not fit into this machine's memory") as caught:
        encoder_of(config)
    assert caught.value.code == "encoder-config"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=str(tmp_path)) as error:
        encoder_of(f"hf:{tmp_path}")
    assert f"hf:{tmp_path / 'config.json'}" in error.value.fix


def test_damaged_weights(tmp_path: Path) -> None:
    path = save_tiny(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=str(tmp_path)) as error:
        encoder_of(f"hf:{tmp_path}")
    assert error.value.code == "encoder-weights"


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_tiny(tmp_path) / "model.safetensors"
    whole = load_file(path)
    name = next(key for key in whole if key.endswith("embedder.embedder.convolution.weight"))
    save_file({key: value for key, value in whole.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 .*embedder\.embedder\.convolution\.weight") as error:
        encoder_of(f"hf:{tmp_path}")
    assert error.value.code == "encoder-weights"
    save_file({**whole, name: whole[name][:2].contiguous()}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=str(tmp_path)) as error:
        encoder_of(f"hf:{tmp_path}")
    assert error.value.code == "encoder-weights"


def test_a_name_of_the_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(name: str, **_: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"cannot find {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="someone/resnet") as error:
        encoder_of("hf:someone/resnet")
    assert error.value.code == "hub-offline"
    assert str(tmp_path) in error.value.message


def test_a_name_of_the_hub_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def cached(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        return str(save_tiny(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    encoder = encoder_of("hf:someone/resnet@v2")
    assert asked == [("someone/resnet", "v2")]
    assert encoder.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("name", ["resnet50", "timm:resnet50", "hf:", ""])
def test_an_encoder_must_be_of_a_known_kind(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown encoder") as error:
        encoder_of(name)
    assert "hf:" in error.value.fix


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_config_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        encoder_of(f"hf:{path}")
    assert error.value.code == "encoder-config"
