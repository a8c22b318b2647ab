"""What holds for every decoder on every encoder; a new row of either table is tested by being there."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from terrazzo.errors import ConfigError
from terrazzo.fields import fields_of
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import DECODERS, ModelSpec, Part, Segmenter, build
from terrazzo.models.encoders import ENCODERS
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from tiny_backbones import PLAIN, TINY_BACKBONES

TINY: dict[str, Part] = {
    "mit": Part("mit", {"embed_dims": (8, 8, 10, 16), "depths": (1, 1, 1, 1)}),
    "mit, three stages": Part(
        "mit",
        {
            "embed_dims": (8, 8, 10), "depths": (1, 1, 1), "num_heads": (1, 2, 2), "sr_ratios": (8, 4, 2),
            "mlp_ratios": (2, 2, 2), "patch_sizes": (7, 4, 3), "patch_strides": (4, 2, 2), "positions": True,
        },
    ),
    "vit": Part("vit", {"embed_dim": 16, "depth": 4, "num_heads": 2}),
    "pvt": Part("pvt", {"embed_dims": (8, 8, 10, 16), "depths": (1, 1, 1, 1)}),
}  # fmt: skip
FROM_TRANSFORMERS = {
    **{family: Part("backbone", {"config": config}) for family, config in TINY_BACKBONES.items()},
    "hybrid": Part("hybrid", {"config": TINY_BACKBONES["resnet"], "embed_dim": 16, "depth": 4, "num_heads": 2}),
}
OF_ONE_SIZE = {"vit", "hybrid", *PLAIN}
WIDTH = 16
SIZES = [(1, 1), (33, 50), (64, 64)]
LABELS = LabelSpec.from_names(["a", "b", "c"])


def fits(encoder: str, decoder: str) -> bool:
    """Adding up maps takes maps of one size, and dilation takes a ResNet."""
    needed = DECODERS[decoder].maps
    return {"one_size": encoder in OF_ONE_SIZE, "dilated": encoder == "resnet"}.get(needed, True)


def spec_of(encoder: str, decoder: str, in_channels: int = 3) -> ModelSpec:
    if encoder in FROM_TRANSFORMERS:
        pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")
    part = {**TINY, **FROM_TRANSFORMERS}[encoder]
    narrow = {"embed_dim": WIDTH} if "embed_dim" in fields_of(DECODERS[decoder].module) else {}
    return ModelSpec(part, Part(decoder, narrow), 3, in_channels=in_channels, image_size=(48, 64))


def network_of(spec: ModelSpec) -> Segmenter:
    torch.manual_seed(0)
    network = build(spec).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network


def test_every_encoder_is_tried() -> None:
    assert {part.name for part in (*TINY.values(), *FROM_TRANSFORMERS.values())} == set(ENCODERS)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", [*TINY, *FROM_TRANSFORMERS])
@torch.no_grad()
def test_any_size_and_a_folder(encoder: str, decoder: str, tmp_path: Path) -> None:
    spec = spec_of(encoder, decoder)
    if not fits(encoder, decoder):
        with pytest.raises(ConfigError) as caught:
            build(spec)
        assert caught.value.code in ("encoder-decoder", "encoder-dilation")
        return
    network = network_of(spec)
    save_folder(tmp_path / "x", TrainedModel("x", network, LABELS, Preprocess()))
    loaded = load_folder(tmp_path / "x")
    assert loaded.spec == network.spec
    for height, width in SIZES:
        images = torch.randn(2, 3, height, width)
        logits = network(images)
        assert logits.shape[:2] == (2, 3) and logits.isfinite().all()
        assert torch.equal(loaded.network(images), logits)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [pair for pair in product(["mit", "vit", "pvt", "hybrid"], DECODERS) if fits(*pair)],
)
def test_every_parameter_learns(encoder: str, decoder: str) -> None:
    network = network_of(spec_of(encoder, decoder, in_channels=2)).train()
    network(torch.randn(2, 2, 40, 72)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("encoder", "bands"), [("mit", 1), ("vit", 4), ("pvt", 2), ("resnet", 5), ("dinov2", 2), ("hybrid", 4)]
)
@torch.no_grad()
def test_any_number_of_bands(encoder: str, bands: int, tmp_path: Path) -> None:
    network = network_of(spec_of(encoder, "fcn", bands))
    assert network.in_channels == bands
    save_folder(tmp_path / "x", TrainedModel("x", network, LABELS, Preprocess()))
    images = torch.randn(1, bands, 40, 41)
    assert torch.equal(load_folder(tmp_path / "x").network(images), network(images))
