"""PVT's official ImageNet files: a file made under their names gives the same maps, and starts a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import terrazzo
from terrazzo.errors import CheckpointError
from terrazzo.models import Segmenter, find_spec
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.weights.load import load_starting_weights
from terrazzo.weights.remap import pvt

# What a network of the authors' code holds (classification/pvt.py): stage, tensors of one block, and the rest.
OF_A_BLOCK = {
    *(f"norm{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")),
    *(f"attn.{name}.{leaf}" for name in ("q", "kv", "proj", "sr", "norm") for leaf in ("weight", "bias")),
    *(f"mlp.fc{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")),
}
OF_THE_REST = {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    model = terrazzo.create_model("pvt_tiny+fpn", 3, image_size=(64, 64)).eval()
    for module in model.encoder.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.fixture(scope="module")
def official(model: Segmenter) -> dict[str, Tensor]:
    """The encoder as the authors' program writes it, with its class token, norm and classifier."""
    state = pvt.OFFICIAL.to_theirs(model.state_dict())
    token = torch.full((1, 1, 512), 7.0)
    rest = {"cls_token": token, "norm.weight": token[0, 0], "norm.bias": token[0, 0]}
    head = {"head.weight": torch.ones(1000, 512), "head.bias": torch.ones(1000)}
    return {**state, **rest, **head, "pos_embed4": torch.cat([token, state["pos_embed4"]], dim=1)}


def test_names_and_shapes_are_the_authors(official: dict[str, Tensor]) -> None:
    blocks = {key.split(".", 2)[2] for key in official if key.startswith("block")}
    assert blocks == OF_A_BLOCK
    assert not any(".sr." in key or "attn.norm" in key for key in official if key.startswith("block4"))
    parts = ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
    embeds = {f"patch_embed{n}.{part}" for n in range(1, 5) for part in parts}
    others = {key for key in official if not key.startswith("block")}
    assert others == embeds | {f"pos_embed{n}" for n in range(1, 5)} | OF_THE_REST
    shapes = {key: tuple(value.shape) for key, value in official.items()}
    assert shapes["pos_embed1"] == (1, 256, 64) and shapes["pos_embed4"] == (1, 5, 512)
    assert shapes["patch_embed1.proj.weight"] == (64, 3, 4, 4) and shapes["patch_embed2.proj.weight"] == (128, 64, 2, 2)
    assert shapes["block1.0.attn.kv.weight"] == (128, 64) and shapes["block1.0.attn.sr.weight"] == (64, 64, 8, 8)
    assert shapes["block1.0.mlp.fc1.weight"] == (512, 64) and shapes["block4.1.mlp.fc2.bias"] == (512,)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@torch.no_grad()
def test_the_encoder_computes_the_same(
    prefix: str, model: Segmenter, official: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({f"{prefix}{key}": value for key, value in official.items()}, tmp_path / "pvt_tiny.pth")
    start = load_starting_weights(tmp_path / "pvt_tiny.pth")
    assert start.architecture == "pvt_tiny+fpn" and start.licence.startswith("Apache-2.0")
    assert start.tensors.keys() == {f"encoder.{key}" for key in model.encoder.state_dict()}
    again = terrazzo.create_model("pvt_tiny+fpn", 5, image_size=(64, 64)).eval()
    again.load_state_dict(again.state_dict() | start.fitted_to(again))
    images = torch.randn(1, 3, 64, 96)
    for found, expected in zip(again.encoder(images), model.encoder(images), strict=True):
        assert torch.equal(found, expected)


def test_positions_are_resized_in_every_stage(model: Segmenter, official: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(official, tmp_path / "pvt_tiny.pth")
    larger = terrazzo.create_model("pvt_tiny+upernet", 5, image_size=(128, 96))
    fitted = load_starting_weights(tmp_path / "pvt_tiny.pth").fitted_to(larger)
    for stage, grid in enumerate([(32, 24), (16, 12), (8, 6), (4, 3)]):
        key = f"encoder.stages.{stage}.pos_embed"
        assert torch.equal(fitted[key], resize_positions(model.state_dict()[key], *grid))


def test_an_encoder_alone_segments_nothing(official: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(official, tmp_path / "pvt_tiny.pth")
    with pytest.raises(CheckpointError) as caught:
        terrazzo.load(tmp_path / "pvt_tiny.pth")
    assert caught.value.code == "checkpoint-encoder" and "--model pvt_tiny+fpn" in caught.value.fix


def test_another_size_is_refused(official: dict[str, Tensor], tmp_path: Path) -> None:
    more = {key.replace("block1.0", "block1.2"): value for key, value in official.items() if "block1.0" in key}
    torch.save(official | more, tmp_path / "pvt.pth")
    with pytest.raises(CheckpointError, match=r"\(64, 128, 320, 512\) channels and \(3, 2, 2, 2\) blocks") as caught:
        load_starting_weights(tmp_path / "pvt.pth")
    assert caught.value.code == "checkpoint-variant"


@pytest.mark.parametrize("size", ["tiny", "small", "medium", "large"])
def test_every_size_is_recognised(size: str) -> None:
    with torch.device("meta"):
        network = terrazzo.create_model(f"pvt_{size}+fpn", 2, image_size=(224, 224))
    shapes = pvt.OFFICIAL.their_shapes({key: tuple(value.shape) for key, value in network.state_dict().items()})
    spec, _ = pvt.variant_in(pvt.OFFICIAL, shapes)
    assert spec == find_spec(f"pvt_{size}+fpn").adapted(2, image_size=(224, 224))
