"""transformers' backbones as encoders: their maps, any image size, dilation, files, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import sys
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.models.encoders.backbone import Backbone, create_backbone, dilate_last_stages
from terrazzo.models.maps import Maps
from tiny_backbones import PLAIN, PYRAMIDS, TINY_BACKBONES

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

# family: channels and strides of several maps, first and last stage's names
MAPS = {
    "pvt_v2": ((4, 8, 12, 16), (4, 8, 16, 32), ("stage1", "stage2", "stage3", "stage4")),
    "swin": ((4, 8, 16, 32), (4, 8, 16, 32), ("stage1", "stage2", "stage3", "stage4")),
    "resnet": ((8, 12, 16, 20), (4, 8, 16, 32), ("stage1", "stage2", "stage3", "stage4")),
    "convnext": ((4, 8, 12, 16), (4, 8, 16, 32), ("stage1", "stage2", "stage3", "stage4")),
    "dinov2": ((8,) * 4, (14,) * 4, ("stage2", "stage3", "stage5", "stage6")),
    "dinov3_vit": ((8,) * 4, (16,) * 4, ("stage1", "stage2", "stage3", "stage4")),
}
UNUSED = {
    "swin": {"swin.layernorm.weight", "swin.layernorm.bias"},
    "dinov2": {"embeddings.mask_token"},
    "dinov3_vit": {"embeddings.mask_token"},
}
FAMILIES = list(MAPS)
SIZES = [(97, 130), (29, 31), (1, 1)]


@cache
def tiny(family: str, maps: Maps = "levels") -> Backbone:
    """Return a backbone in evaluation mode, its norms and scales random; others use it too."""
    torch.manual_seed(0)
    encoder = create_backbone(TINY_BACKBONES[family], maps=maps).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return encoder


def noise(height: int, width: int, batch: int = 1) -> Tensor:
    torch.manual_seed(height * 1000 + width)
    return torch.randn(batch, 3, height, width)


def reference(family: str, encoder: Backbone) -> nn.Module:
    """Return transformers' own backbone with the same weights."""
    values = {**TINY_BACKBONES[family], "out_features": list(MAPS[family][2])}
    config = transformers.CONFIG_MAPPING[family].from_dict(values)
    model: nn.Module = transformers.AutoBackbone.from_config(config).eval()
    model.load_state_dict(encoder.backbone.state_dict())
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_and_strides(family: str) -> None:
    channels, strides, stages = MAPS[family]
    encoder, last = tiny(family), tiny(family, maps="last")
    assert (encoder.channels, encoder.strides) == (channels, strides)
    assert encoder.backbone.config.out_features == list(stages)
    assert (last.channels, last.strides) == (channels[-1:], strides[-1:])


@torch.no_grad()
@pytest.mark.parametrize("maps", ["levels", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_size(family: str, maps: Maps) -> None:
    encoder = tiny(family, maps)
    for height, width in SIZES:
        maps = encoder(noise(height, width))
        for x_BChw, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
            assert tuple(x_BChw.shape) == (1, channels, math.ceil(height / stride), math.ceil(width / stride))
            assert x_BChw.is_contiguous(memory_format=torch.channels_last)
            assert x_BChw.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "size"),
    [
        *((family, (64, 96)) for family in PYRAMIDS),
        # What rounds up by itself gets the image as it is.
        *((family, (97, 130)) for family in ("pvt_v2", "swin", "resnet")),
        ("dinov2", (56, 98)),
        ("dinov3_vit", (32, 80)),
    ],
    ids=str,
)
def test_maps_are_those_of_transformers(family: str, size: tuple[int, int]) -> None:
    encoder, image = tiny(family), noise(*size)
    expected = reference(family, encoder)(image).feature_maps
    for ours, theirs in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert ours.std() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("family", PLAIN)
def test_a_plain_transformer_sees_the_resized_image(family: str) -> None:
    encoder, image = tiny(family), noise(45, 61)
    P = encoder.strides[0]
    whole = math.ceil(45 / P) * P, math.ceil(61 / P) * P
    resized = F.interpolate(image, whole, mode="bilinear", align_corners=False)
    for ours, expected in zip(encoder(image), encoder(resized), strict=True):
        assert torch.equal(ours, expected)


@torch.no_grad()
def test_convnext_sees_the_last_row_and_column_again() -> None:
    encoder = tiny("convnext")
    image = noise(64, 96)
    image[:, :, 45:] = image[:, :, 44:45]
    image[:, :, :, 70:] = image[:, :, :, 69:70]
    for ours, whole in zip(encoder(image[:, :, :45, :70]), encoder(image), strict=True):
        assert torch.equal(ours, whole[:, :, : ours.shape[2], : ours.shape[3]])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_no_map_depends_on_is_not_trained_and_all_else_is(family: str) -> None:
    encoder = copy.deepcopy(tiny(family)).train()
    frozen = {name for name, parameter in encoder.backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == UNUSED.get(family, set())
    sum(x.square().mean() for x in encoder(noise(64, 70, batch=2))).backward()
    for name, parameter in encoder.backbone.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


@pytest.mark.parametrize(
    "more",
    [
        {"num_labels": 10**9},
        {"to_dict": "x", "__class__": "x", "forward": 1},
        {"attribute_map": {"kernel": "_attn_implementation_internal"}, "kernel": "somebody/code"},
        {"experts_implementation": "somebody/code", "use_kernels": True, "per_layer_config": {"0": {}}},
    ],
)
def test_what_a_configuration_does_not_declare_is_left_out(more: dict[str, Any]) -> None:
    plain = create_backbone(TINY_BACKBONES["dinov2"], maps="levels")
    encoder = create_backbone({**TINY_BACKBONES["dinov2"], **more}, maps="levels")
    assert encoder.configuration() == plain.configuration()


@pytest.mark.parametrize(
    ("family", "values"), [("resnet", {"depths": [10**6, 1]}), ("dinov2", {"num_hidden_layers": 10**9})]
)
def test_too_many_layers_are_refused_before_one_is_built(family: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="layers are more than 1,000") as caught:
        create_backbone({**TINY_BACKBONES[family], **values}, maps="levels")
    assert caught.value.code == "encoder-config"


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_builds_the_network_again(family: str) -> None:
    encoder, image = tiny(family), noise(40, 52)
    text = json.dumps(encoder.configuration())
    assert "label" not in text
    again = create_backbone(json.loads(text), maps="levels")
    again.load_state_dict(encoder.state_dict())
    for ours, theirs in zip(again.eval()(image), encoder(image), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_types_and_layouts(family: str) -> None:
    encoder, image = tiny(family), noise(33, 47)
    expected = encoder(image)
    duplicate = copy.deepcopy(encoder)
    for ours, theirs in zip(duplicate(image.contiguous(memory_format=torch.channels_last)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(duplicate.double()(image.double()), expected, strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-3, atol=1e-4)


def test_building_takes_no_random_numbers_from_the_weights() -> None:
    """The pass over a small image leaves the generator and the statistics alone."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(**TINY_BACKBONES["resnet"], out_features=["stage4"])
    state = transformers.AutoBackbone.from_config(config).state_dict()
    torch.manual_seed(0)
    encoder = create_backbone(TINY_BACKBONES["resnet"], maps="last")
    assert encoder.training and encoder.backbone.training
    for key, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_stochastic_depth_is_set_where_there_is_some() -> None:
    swin = create_backbone(TINY_BACKBONES["swin"], maps="levels", drop_path_rate=0.25)
    assert swin.configuration()["drop_path_rate"] == 0.25
    resnet = create_backbone(TINY_BACKBONES["resnet"], maps="levels", drop_path_rate=0.25)
    assert "drop_path_rate" not in resnet.configuration()


def test_inference_mode_leaves_the_parameters_trainable() -> None:
    with torch.inference_mode():
        encoder = create_backbone(TINY_BACKBONES["pvt_v2"], maps="last")
    assert not any(parameter.is_inference() for parameter in encoder.parameters())
    assert all(parameter.requires_grad for parameter in encoder.parameters())


KIN: dict[str, dict[str, Any]] = {
    "convnextv2": {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]},
    "swinv2": {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4},
    "dinov3_convnext": {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]},
    "dinov2_with_registers": {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56},
    "beit": {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64},
    "pp_lcnet": {},  # has five stages
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KIN)
def test_kin_of_the_families(kind: str) -> None:
    encoder = create_backbone({"model_type": kind, **KIN[kind]}, maps="levels").eval()
    assert encoder.strides in [(4, 8, 16, 32), (14,) * 4, (16,) * 4]
    for height, width in SIZES:
        for x_BChw, channels, stride in zip(
            encoder(noise(height, width)), encoder.channels, encoder.strides, strict=True
        ):
            assert tuple(x_BChw.shape) == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


# -- dilation ---------------------------------------------------------------------------------------------------------

RESNETS = {
    "bottleneck": {},
    "first 1 x 1 strides": {"downsample_in_bottleneck": True},
    "basic": {"layer_type": "basic"},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", RESNETS)
def test_dilation_computes_the_same_network_at_more_places(kind: str) -> None:
    values = {**TINY_BACKBONES["resnet"], **RESNETS[kind]}
    plain = create_backbone(values, maps="levels").eval()
    undilated = create_backbone(values, maps="levels").backbone
    dilate_last_stages(undilated)
    with torch.enable_grad():
        dilated = Backbone(undilated).eval()
    for name, value in plain.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.2, 0.5) if "normalization" in name else nn.init.normal_(value, 0.0, 0.3)
    dilated.load_state_dict(plain.state_dict())
    assert (plain.strides, dilated.strides) == ((4, 8, 16, 32), (4, 8, 8, 8))
    for size in [(97, 130), (64, 64), (33, 200)]:
        for coarse, fine, factor in zip(plain(noise(*size)), dilated(noise(*size)), (1, 1, 2, 4), strict=True):
            torch.testing.assert_close(fine[:, :, ::factor, ::factor], coarse, rtol=1e-4, atol=1e-4)
            assert coarse.std() > 1e-3


@torch.no_grad()
def test_a_dilated_network_takes_any_size() -> None:
    encoder = create_backbone(TINY_BACKBONES["resnet"], maps="dilated").eval()
    assert (encoder.channels, encoder.strides) == ((20,), (8,))
    for height, width in SIZES:
        (x_BChw,) = encoder(noise(height, width))
        assert tuple(x_BChw.shape) == (1, 20, math.ceil(height / 8), math.ceil(width / 8))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "resnet"])
def test_other_families_have_nothing_to_dilate(family: str) -> None:
    with pytest.raises(ConfigError, match=family) as error:
        create_backbone(TINY_BACKBONES[family], maps="dilated")
    assert error.value.code == "encoder-dilation"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "None"),
        ({"model_type": "bert"}, "bert"),
        ({"model_type": ["resnet"]}, "resnet"),
        ({"model_type": "timm_backbone"}, "timm_backbone"),
        ({"model_type": "vit"}, "vit"),
    ],
)
def test_models_without_a_backbone(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        create_backbone(values, maps="levels")
    assert error.value.code == "encoder-backbone"
    assert ("vit_base" in error.value.fix) == (named == "vit")


@pytest.mark.parametrize(
    "change", [{"hidden_sizes": "wide"}, {"depths": "deep"}, {"layer_type": "odd"}, {"embedding_size": -1}], ids=str
)
def test_configurations_that_cannot_be_built(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="resnet"):
        create_backbone({**TINY_BACKBONES["resnet"], **change}, maps="levels")


def test_a_configuration_names_no_code_to_run() -> None:
    code = {"attn_implementation": "someone/kernels", "_attn_implementation": "x", "auto_map": {"AutoBackbone": "x.X"}}
    encoder = create_backbone({**TINY_BACKBONES["dinov2"], **code, "quantization_config": {}}, maps="last")
    assert encoder.backbone.config._attn_implementation == "sdpa"
    assert not code.keys() & encoder.configuration().keys()


def test_a_backbone_for_one_image_size() -> None:
    values = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [64, 64]}
    with pytest.raises(ConfigError, match="hiera") as error:
        create_backbone({"model_type": "hiera", **values}, maps="levels")
    assert error.value.code == "encoder-backbone" and "any size" in error.value.fix


def test_a_backbone_for_images_of_other_bands() -> None:
    encoder = create_backbone(TINY_BACKBONES["resnet"], in_channels=4)
    assert tuple(encoder(torch.zeros(1, 4, 33, 32))[0].shape) == (1, 8, 9, 8)
    assert encoder.configuration()["num_channels"] == 4


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="transformers") as error:
        create_backbone(TINY_BACKBONES["dinov2"])
    assert ".[backbones]" in error.value.fix
