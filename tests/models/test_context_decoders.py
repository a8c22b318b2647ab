"""The decoders that the papers compare with, against their papers' steps written out."""

from __future__ import annotations

from collections.abc import Callable

import literal_decoders as literal
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from terrazzo.errors import ConfigError
from terrazzo.models import DECODERS, ModelSpec, Part, build
from terrazzo.models.decoders.attention import FCNAttentionDecoder, PositionAttention
from terrazzo.models.decoders.fcn_skips import FCNSkipsDecoder, Upscore
from terrazzo.models.decoders.fpn import FPNDecoder
from terrazzo.models.decoders.pyramid import ASPPDecoder, PSPDecoder, average_cells
from terrazzo.models.decoders.upernet import UPerNetDecoder

CHANNELS, STRIDES = (4, 6, 8, 16), (4, 8, 16, 32)
SIZES = [(40, 56), (20, 28), (10, 14), (5, 7)]
ODD = [(39, 53), (20, 27), (10, 14), (5, 7)]

Literal = Callable[[dict[str, Tensor], list[Tensor]], Tensor]
CASES: dict[str, tuple[nn.Module, Literal]] = {
    "FCN-8s": (FCNSkipsDecoder(CHANNELS, STRIDES, 3), lambda state, maps: literal.fcn_skips(state, maps, 2)),
    "FCN-16s": (FCNSkipsDecoder(CHANNELS, STRIDES, 3, skips=1), lambda state, maps: literal.fcn_skips(state, maps, 1)),
    "FCN-8s, bilinear": (
        FCNSkipsDecoder(CHANNELS, STRIDES, 3, learned=False),
        lambda state, maps: literal.fcn_skips(state, maps, 2, learned=False),
    ),
    "FCN with attention": (FCNAttentionDecoder(CHANNELS, STRIDES, 3, embed_dim=24), literal.fcn_attention),
    "PSP": (PSPDecoder(CHANNELS, STRIDES, 3), lambda state, maps: literal.psp(state, maps, (1, 2, 3, 6))),
    "ASPP": (ASPPDecoder(CHANNELS, STRIDES, 3, embed_dim=8), lambda state, maps: literal.aspp(state, maps, (3, 6, 9))),
    "UPerNet": (
        UPerNetDecoder(CHANNELS, STRIDES, 3, embed_dim=8),
        lambda state, maps: literal.upernet(state, maps, (1, 2, 3, 6)),
    ),
    "FPN": (
        FPNDecoder(CHANNELS, STRIDES, 3, embed_dim=8, branch_dim=48),
        lambda state, maps: literal.fpn(state, maps, 16),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Literal]:
    decoder, steps = CASES[request.param]
    torch.manual_seed(0)
    for name, parameter in decoder.named_parameters():
        if name.endswith(("gain", "upscores.0.weight")):
            nn.init.normal_(parameter)
    return request.param, literal.randomised(decoder), steps


@torch.no_grad()
def test_equals_its_papers_steps(case: tuple[str, nn.Module, Literal]) -> None:
    name, decoder, steps = case
    for sizes in (SIZES, ODD) if name != "FPN" else (SIZES,):
        maps = literal.maps_of(CHANNELS, sizes)
        expected = steps(decoder.state_dict(), maps)
        torch.testing.assert_close(decoder(maps), expected, rtol=1e-4, atol=1e-5)


def test_everything_learns(case: tuple[str, nn.Module, Literal]) -> None:
    _, decoder, _ = case
    decoder.train().zero_grad()
    decoder(literal.maps_of(CHANNELS, SIZES)).square().sum().backward()
    unmoved = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert unmoved == []


# ResNet-50 at 19 classes; a convolution with BatchNorm has 2 more numbers for each channel it makes.
RESNET_50, RESNET_STRIDES = (256, 512, 1024, 2048), (4, 8, 16, 32)
HEAD = 9 * 2048 * 512 + 9 * 512 * 512 + 4 * 512
COUNTS = {
    "fcn_16s": HEAD + (512 + 1) * 19 + (1024 + 1) * 19 + 19 * 4 * 4,
    "fcn_8s": HEAD + (512 + 1) * 19 + (1024 + 1) * 19 + (512 + 1) * 19 + 2 * 19 * 4 * 4,
    "fcn_attention": HEAD + 2 * (512 + 1) * 64 + (512 + 1) * 512 + 1 + 513 * 19,
    "psp": 4 * (2048 + 2) * 512 + (9 * 4096 + 2) * 512 + 513 * 19,
    "aspp": 2 * (2048 + 2) * 256 + 3 * (9 * 2048 + 2) * 256 + (5 * 256 + 2) * 256 + 257 * 19,
    "upernet": 4 * 2050 * 512 + (9 * 4096 + 2) * 512 + (256 + 512 + 1024 + 6) * 512
    + 3 * (9 * 512 + 2) * 512 + (9 * 2048 + 2) * 512 + 513 * 19,
    "fpn": (3840 + 4) * 256 + 4 * (9 * 256 + 1) * 256 + 4 * (9 * 256 + 2) * 128 + 3 * (9 * 128 + 2) * 128 + 129 * 19,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters_on_a_resnet_50(name: str) -> None:
    row = DECODERS[name]
    with torch.device("meta"):
        decoder = row.module(RESNET_50, RESNET_STRIDES, 19, **row.fields)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == COUNTS[name]


# -- FCN with skips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 4])
@torch.no_grad()
def test_upscores_start_as_bilinear_interpolation(factor: int) -> None:
    """Away from the border, where a transposed convolution meets zeros and resizing repeats the last row."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 6, 7)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = slice(factor, -factor)
    enlarged = Upscore(3, factor)(x, 6 * factor, 7 * factor)
    torch.testing.assert_close(enlarged[..., inner, inner], expected[..., inner, inner])


def test_skips_need_maps_and_whole_steps() -> None:
    with pytest.raises(ValueError, match="2 skips need 3 maps, and the encoder makes 2"):
        FCNSkipsDecoder((4, 8), (16, 32), 3)
    with pytest.raises(ValueError, match=r"\(14, 32\)"):
        FCNSkipsDecoder((4, 8), (14, 32), 3, skips=1)
    encoder = Part("mit", {"embed_dims": (8, 8, 10, 16), "depths": (1, 1, 1, 1), "emitted": (4,)})
    with pytest.raises(ConfigError, match="2 skips need 3 maps") as caught:
        build(ModelSpec(encoder, Part("fcn_8s"), 3))
    assert caught.value.code == "spec-build"


def test_everything_that_counts_classes_is_named_classifier() -> None:
    """A run that starts from a model with other classes gives up what is named so, and reorders its rows."""
    decoder = FCNSkipsDecoder(CHANNELS, STRIDES, 3)
    of_classes = [name for name, parameter in decoder.named_parameters() if len(parameter) == 3]
    assert len(of_classes) == 8 and all(name.startswith("classifier.") for name in of_classes)


# -- attention --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_untrained_block_changes_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 4)
    assert torch.equal(PositionAttention(8, 2)(x), x)


def test_channels_of_keys_divide_those_of_values() -> None:
    widths = {width: FCNAttentionDecoder((width,), (8,), 2, embed_dim=width).attention.q.out_features
              for width in (1, 8, 16, 28, 512)}  # fmt: skip
    assert widths == {1: 1, 8: 1, 16: 2, 28: 2, 512: 64}
    with pytest.raises(ValueError, match="3 channels of keys do not divide 8"):
        PositionAttention(8, 3)


# -- pyramids ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_averages_are_those_of_adaptive_pooling(height: int, width: int, n: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(average_cells(x, n), F.adaptive_avg_pool2d(x, n))


def test_rates_keep_their_reach_in_pixels() -> None:
    for stride, rates in {4: (24, 48, 72), 8: (12, 24, 36), 14: (7, 14, 21), 16: (6, 12, 18), 32: (3, 6, 9)}.items():
        convs = [conv for conv in ASPPDecoder((4,), (stride,), 2).modules() if isinstance(conv, nn.Conv2d)]
        assert tuple(conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)) == rates


def test_pyramids_as_fields() -> None:
    aspp = ASPPDecoder((4,), (32,), 2, rates=(1, 2), image_pooling=False)
    assert [branch.conv.dilation[0] for branch in aspp.branches] == [1, 1, 2]
    assert [branch.n for branch in PSPDecoder((8,), (32,), 2, bins=(1, 4)).pooling.branches] == [1, 4]
    for wrong in ({"rates": (0,)}, {"bins": (0,)}):
        with pytest.raises(ValueError, match="at least 1"):
            (ASPPDecoder if "rates" in wrong else PSPDecoder)((4,), (32,), 2, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", ["psp", "aspp", "upernet"])
def test_pooling_exports_with_free_sizes(decoder: str) -> None:
    """adaptive_avg_pool2d cannot be traced with free sizes."""
    torch.manual_seed(0)
    row = DECODERS[decoder]
    module = row.module((6,), (32,), 2, embed_dim=4).eval()
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(module, ([torch.zeros(2, 6, 5, 9)],), dynamic_shapes=([{0: free, 2: free, 3: free}],))
    for size in [(3, 2, 3), (2, 11, 7)]:
        x = torch.randn(size[0], 6, *size[1:])
        torch.testing.assert_close(program.module()([x]), module([x]), rtol=1e-4, atol=1e-5)
