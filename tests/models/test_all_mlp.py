"""The composed decoder is the paper's decoder: same outputs, gradients and BatchNorm statistics, fewer operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_decoder import LiteralAllMLPDecoder, as_convolutions
from torch import Tensor

from terrazzo.models.decoders.all_mlp import AllMLPDecoder

B0_CHANNELS = (32, 64, 160, 256)
STRIDES = (4, 8, 16, 32)
PYRAMID_64x64 = [(16, 16), (8, 8), (4, 4), (2, 2)]
PYRAMID_97x130 = [(25, 33), (13, 17), (7, 9), (4, 5)]


def random_decoder(channels: Sequence[int], embed_dim: int, num_classes: int) -> AllMLPDecoder:
    """A float64 decoder in which no norm, bias or running statistic is trivial."""
    decoder = AllMLPDecoder(channels, STRIDES[: len(channels)], num_classes, embed_dim=embed_dim, dropout=0.0).double()
    with torch.no_grad():
        decoder.norm.weight.uniform_(0.5, 1.5)
        decoder.norm.bias.normal_()
        decoder.norm.running_mean.normal_()
        decoder.norm.running_var.uniform_(0.5, 2.0)
    return decoder


def random_features(batch: int, channels: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [
        torch.randn(batch, c, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        for c, size in zip(channels, sizes, strict=True)
    ]


def assert_same_decoder(decoder: AllMLPDecoder, features: Sequence[Tensor], train: bool, tolerance: float) -> None:
    """Compare outputs, all gradients and the running statistics with the literal decoder's."""
    literal = LiteralAllMLPDecoder([x.shape[1] for x in features], decoder.norm.num_features, decoder.num_classes)
    literal.double().load_composed(decoder)
    results = []
    for module in (decoder.train(train), literal.train(train)):
        inputs = [x.clone().requires_grad_() for x in features]
        logits = module(inputs)
        logits.mul(torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)).sum().backward()
        parameters = {name: parameter.grad for name, parameter in module.named_parameters()}
        results.append((logits.detach(), [x.grad for x in inputs], parameters, dict(module.named_buffers())))
    (logits, inputs, parameters, buffers), (logits_, inputs_, parameters_, buffers_) = results
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(logits, logits_, **close)
    torch.testing.assert_close(inputs, inputs_, **close)
    torch.testing.assert_close(as_convolutions(parameters), parameters_, **close)
    torch.testing.assert_close(buffers, buffers_, **close)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("sizes", [PYRAMID_97x130, PYRAMID_64x64], ids=["97x130", "64x64"])
def test_equals_the_paper_s_decoder(train: bool, sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    decoder = random_decoder(B0_CHANNELS, 96, 19)
    assert_same_decoder(decoder, random_features(2, B0_CHANNELS, sizes), train, 1e-10)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    finest=st.tuples(st.integers(2, 12), st.integers(1, 12)),
    train=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_the_paper_s_decoder_at_any_size(
    batch: int, channels: list[int], finest: tuple[int, int], train: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    sizes = [(math.ceil(finest[0] / 2**i), math.ceil(finest[1] / 2**i)) for i in range(len(channels))]
    assert_same_decoder(random_decoder(channels, 6, 3), random_features(batch, channels, sizes), train, 1e-9)


def test_concatenates_coarsest_first() -> None:
    decoder = AllMLPDecoder((3, 5), STRIDES[:2], 2, embed_dim=4)
    weights, bias = decoder.composed()
    coarse, fine = decoder.fuse.weight[:, :4], decoder.fuse.weight[:, 4:]
    torch.testing.assert_close(weights[0], fine @ decoder.projections[0].weight)
    torch.testing.assert_close(weights[1], coarse @ decoder.projections[1].weight)
    torch.testing.assert_close(bias, fine @ decoder.projections[0].bias + coarse @ decoder.projections[1].bias)


def test_does_not_write_into_the_features() -> None:
    features = [x.float() for x in random_features(2, (3, 5), [(4, 4), (2, 2)])]
    before = [x.clone() for x in features]
    AllMLPDecoder((3, 5), STRIDES[:2], 2, embed_dim=4)(features)
    assert all(torch.equal(x, x_) for x, x_ in zip(features, before, strict=True))


def test_dropout_drops_whole_channels_in_training_only() -> None:
    torch.manual_seed(0)
    decoder = AllMLPDecoder((4,), STRIDES[:1], 2, embed_dim=1000, dropout=0.1)
    features = [torch.randn(2, 4, 3, 3)]
    seen: list[Tensor] = []
    decoder.dropout.register_forward_hook(lambda *args: seen.append(args[2]))

    logits = decoder(features)
    (kept_BC11,) = seen
    assert kept_BC11.shape == (2, 1000, 1, 1)
    assert 0.07 < (kept_BC11 == 0).float().mean() < 0.13
    hidden = F.relu(decoder.norm(decoder_input(decoder, features[0]))) * kept_BC11
    expected = decoder.classifier(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(logits, expected)

    decoder.eval()
    hidden = F.relu(decoder.norm(decoder_input(decoder, features[0])))
    torch.testing.assert_close(decoder(features), decoder.classifier(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert len(seen) == 1


def decoder_input(decoder: AllMLPDecoder, x_BCHW: Tensor) -> Tensor:
    """What reaches the BatchNorm of a decoder with a single level."""
    return decoder.fuse(decoder.projections[0](x_BCHW.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def test_batch_norm_settings() -> None:
    norm = AllMLPDecoder(B0_CHANNELS, STRIDES, 2).norm
    assert (norm.eps, norm.momentum, norm.affine, norm.track_running_stats) == (1e-5, 0.1, True, True)


def test_initial_weights() -> None:
    """Projections and classifier as PyTorch makes linear layers, fusion by Kaiming with fan out."""
    torch.manual_seed(0)
    decoder = AllMLPDecoder((64, 128, 320, 512), STRIDES, 150, embed_dim=768)
    for linear in (*decoder.projections, decoder.classifier):
        bound = 1 / math.sqrt(linear.in_features)
        for values in (linear.weight, linear.bias):
            assert values.abs().max() <= bound
            assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(values.numel()))
    # The fan out of a 1 x 1 convolution is its output channels.
    assert decoder.fuse.weight.std().item() == pytest.approx(math.sqrt(2 / 768), rel=0.005)
    assert decoder.fuse.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert decoder.fuse.bias is None
    assert torch.equal(decoder.norm.weight, torch.ones(768))
    assert torch.equal(decoder.norm.bias, torch.zeros(768))
