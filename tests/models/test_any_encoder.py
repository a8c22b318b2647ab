"""Every decoder on the encoders that it fits, by `create_model`."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from terrazzo.errors import ConfigError
from terrazzo.models import DECODERS, Segmenter, list_models
from terrazzo.weights.create import create_model
from tiny_backbones import PYRAMIDS, TINY_BACKBONES

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

NUM_CLASSES = 5

# (decoder, encoder): stride of the map that the logits are made of, and how much they are enlarged
PAIRS = {
    ("fcn", "resnet"): (32, 1),
    ("fcn", "swin"): (32, 1),
    ("fcn", "dinov2"): (14, 1),
    ("fcn_dilated", "resnet"): (8, 1),
    ("fcn_16s", "resnet"): (16, 1),
    ("fcn_8s", "resnet"): (8, 1),
    ("fcn_8s", "dinov2"): (14, 1),
    ("fcn_attention", "convnext"): (32, 1),
    ("fcn_attention_dilated", "resnet"): (8, 1),
    ("psp", "swin"): (32, 1),
    ("psp_dilated", "resnet"): (8, 1),
    ("aspp", "dinov2"): (14, 1),
    ("aspp_dilated", "resnet"): (8, 1),
    ("upernet", "swin"): (4, 1),
    ("fpn", "pvt_v2"): (4, 1),
    ("all_mlp", "pvt_v2"): (4, 1),
    ("all_mlp", "swin"): (4, 1),
    ("all_mlp", "convnext"): (4, 1),
    ("all_mlp", "resnet"): (4, 1),
    ("all_mlp", "dinov3_vit"): (16, 1),
    ("conv_mlp", "swin"): (4, 1),
    ("setr_naive", "dinov2"): (14, 1),
    ("setr_naive", "pvt_v2"): (32, 1),
    ("setr_pup", "dinov2"): (14, 8),
    ("setr_pup", "convnext"): (32, 8),
    ("setr_mla", "dinov2"): (14, 4),
    ("setr_mla", "dinov3_vit"): (16, 4),
}


@pytest.fixture(scope="module", params=PAIRS, ids=" on ".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    decoder, family = request.param
    return decoder, family


@pytest.fixture(scope="module")
def model(pair: tuple[str, str]) -> Segmenter:
    torch.manual_seed(0)
    return create_model(pair[0], NUM_CLASSES, encoder=TINY_BACKBONES[pair[1]])


@torch.no_grad()
def test_logits_at_the_decoders_stride(pair: tuple[str, str], model: Segmenter) -> None:
    stride, factor = PAIRS[pair]
    model.eval()
    for height, width in [(97, 130), (29, 31), (1, 1)]:
        logits = model(torch.randn(1, 3, height, width))
        size = factor * math.ceil(height / stride), factor * math.ceil(width / stride)
        assert tuple(logits.shape) == (1, NUM_CLASSES, *size)
        assert logits.isfinite().all()
    assert model.num_classes == NUM_CLASSES


def test_learns(model: Segmenter) -> None:
    model.train().zero_grad()
    logits = model(torch.randn(2, 3, 70, 66))
    labels = torch.arange(logits[:, 0].numel()).view(logits[:, 0].shape) % NUM_CLASSES
    F.cross_entropy(logits, labels).backward()
    for path, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, path
        assert parameter.grad is None or parameter.grad.isfinite().all(), path


@torch.no_grad()
def test_bf16_autocast_stays_close(model: Segmenter) -> None:
    model.eval()
    images = torch.randn(1, 3, 70, 66)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    expected = model(images)
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_every_decoder_is_tried() -> None:
    assert {decoder for decoder, _ in PAIRS} == set(DECODERS)
    assert not set(DECODERS) & set(list_models())


@pytest.mark.parametrize("family", PYRAMIDS)
def test_mla_needs_maps_of_one_size(family: str) -> None:
    with pytest.raises(ConfigError, match="4, 8, 16, 32") as error:
        create_model("setr_mla", NUM_CLASSES, encoder=TINY_BACKBONES[family])
    assert error.value.code == "encoder-decoder"


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_needs_an_encoder(name: str) -> None:
    with pytest.raises(ConfigError, match=name) as error:
        create_model(name, NUM_CLASSES)
    assert error.value.code == "model-encoder"
    assert "hf:" in error.value.fix


@pytest.mark.parametrize("name", ["segformer_b0", "setr_pup_base"])
def test_whole_models_have_an_encoder(name: str) -> None:
    with pytest.raises(ConfigError, match="of its own") as error:
        create_model(name, NUM_CLASSES, encoder=TINY_BACKBONES["resnet"])
    assert all(decoder in error.value.fix for decoder in DECODERS)


def test_a_mistyped_decoder() -> None:
    with pytest.raises(ConfigError, match="fnc_dilated") as error:
        create_model("fnc_dilated", NUM_CLASSES, encoder=TINY_BACKBONES["resnet"])
    assert "did you mean fcn_dilated" in error.value.fix


def test_too_few_classes() -> None:
    with pytest.raises(ConfigError, match="1 class"):
        create_model("fcn", 1, encoder=TINY_BACKBONES["resnet"])
