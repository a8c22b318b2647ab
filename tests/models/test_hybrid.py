"""SETR's hybrid: a ResNet at output stride 16, whose map is what the transformer gets."""

from __future__ import annotations

import pytest
import torch

from terrazzo.errors import ConfigError
from terrazzo.models import ModelSpec, Part, build
from terrazzo.models.encoders.hybrid import HybridEncoder
from terrazzo.weights.create import create_model
from tiny_backbones import TINY_BACKBONES

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")


def tiny() -> HybridEncoder:
    torch.manual_seed(0)
    return HybridEncoder(TINY_BACKBONES["resnet"], 16, 4, 2, image_size=(64, 96), layers=(2, 4)).eval()


@torch.no_grad()
def test_the_transformer_stands_on_the_dilated_resnet() -> None:
    encoder = tiny()
    images = torch.randn(1, 3, 64, 96)
    (x,) = encoder.resnet.backbone(images).feature_maps
    assert tuple(x.shape) == (1, 20, 4, 6)
    # The same weights without dilation: every other place of the finer map has the same value.
    coarse = build(ModelSpec(Part("backbone", {"config": TINY_BACKBONES["resnet"]}), Part("fcn"))).eval().encoder
    coarse.backbone.load_state_dict(encoder.resnet.backbone.state_dict())  # type: ignore[union-attr]
    torch.testing.assert_close(x[..., ::2, ::2], coarse(images)[0])
    maps = encoder(images)
    assert [tuple(y.shape) for y in maps] == [(1, 16, 4, 6)] * 2
    for found, expected in zip(maps, encoder.transformer(x), strict=True):
        assert torch.equal(found, expected)
    assert (encoder.channels, encoder.strides) == ((16, 16), (16, 16))


def test_number_of_parameters() -> None:
    """The paper has 112.59 M: all that it describes are these."""
    with torch.device("meta"):
        network = create_model("hybrid_base+setr_naive", 19, image_size=(768, 768))
    resnet_50, projection = 23_508_032, 2048 * 768 + 768
    blocks = 12 * (12 * 768**2 + 13 * 768)
    positions = (48 * 48 + 2) * 768
    naive = 2 * 768 + 769 * 256 + 2 * 256 + 257 * 19
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == resnet_50 + projection + blocks + positions + naive == 112_110_931


def test_a_complete_configuration_is_kept() -> None:
    spec = ModelSpec(Part("hybrid", {"config": TINY_BACKBONES["resnet"], "embed_dim": 16, "depth": 4, "num_heads": 2}),
                     Part("setr_naive"))  # fmt: skip
    network = build(spec)
    assert network.spec is not None and network.spec.encoder.fields["config"]["hidden_act"] == "relu"
    assert build(network.spec).spec == network.spec


def test_its_front_is_a_resnet() -> None:
    with pytest.raises(ConfigError, match="swin has no strides") as caught:
        HybridEncoder(TINY_BACKBONES["swin"], 16, 4, 2)
    assert caught.value.code == "encoder-dilation"


def test_blocks_are_recomputed() -> None:
    encoder = tiny().train()
    images = torch.randn(2, 3, 64, 96)
    expected = [x.detach() for x in encoder(images)]
    encoder.recompute_blocks()
    for found, before in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(found, before)
