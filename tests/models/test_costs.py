"""Counted multiply-accumulates: the papers' tables, what composing a decoder saves, and what attention costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from literal_decoder import LiteralAllMLPDecoder
from meta_models import meta_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from terrazzo.models import Segmenter
from terrazzo.models.encoders.mit import EfficientSelfAttention, SequenceReduction
from terrazzo.models.segformer import VARIANTS


@dataclass(frozen=True)
class Cost:
    """Counts of one forward, in 1e9.

    Attributes:
        macs: multiply-accumulates of convolutions, linear layers and attention.
        attention: those of the two attention products.
        bias_additions: one for every output value of a convolution, which the published tables count too.
    """

    macs: float
    attention: float
    bias_additions: float


def cost(model: nn.Module, *shape: int) -> Cost:
    """Count one forward of a model on the meta device."""
    bias_values = []
    handles = [
        module.register_forward_hook(lambda _module, _args, output: bias_values.append(output.numel()))
        for module in model.modules()
        # The sequence reduction is a convolution that calls no convolution.
        if isinstance(module, SequenceReduction) or (isinstance(module, nn.Conv2d) and module.bias is not None)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(*shape, device="meta"))
    for handle in handles:
        handle.remove()
    macs = {str(operation): flops / 2e9 for operation, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(n for operation, n in macs.items() if "bmm" in operation or "attention" in operation)
    return Cost(sum(macs.values()), attention, sum(bias_values) / 1e9)


@cache
def literal_cost(name: str, num_classes: int, height: int, width: int) -> Cost:
    return cost(literal_segformer(name, num_classes), 1, 3, height, width)


@cache
def composed_cost(name: str) -> Cost:
    return cost(meta_model(name), 1, 3, 512, 512)


def literal_segformer(name: str, num_classes: int) -> Segmenter:
    """The network of the paper: our encoder under the decoder as it is written there."""
    encoder = meta_model(name).encoder
    with torch.device("meta"):
        decoder = LiteralAllMLPDecoder(encoder.channels, VARIANTS[name].decoder.fields["embed_dim"], num_classes)
    return Segmenter(encoder, decoder).eval()


# Giga multiply-accumulates of one forward at the stated size; the paper's tables 1 and 2 round these to one decimal.
@pytest.mark.parametrize(
    ("name", "num_classes", "height", "width", "expected"),
    [
        ("segformer_b0", 150, 512, 512, 8.40),
        ("segformer_b1", 150, 512, 512, 15.90),
        ("segformer_b2", 150, 512, 512, 62.37),
        ("segformer_b0", 19, 1024, 2048, 121.03),
        ("segformer_b0", 19, 512, 1024, 17.78),
        pytest.param("segformer_b1", 19, 1024, 2048, 239.28, marks=pytest.mark.slow),
        pytest.param("segformer_b2", 19, 1024, 2048, 703.75, marks=pytest.mark.slow),
        pytest.param("segformer_b3", 150, 512, 512, 79.02, marks=pytest.mark.slow),
        pytest.param("segformer_b4", 150, 512, 512, 95.64, marks=pytest.mark.slow),
        pytest.param("segformer_b5", 150, 640, 640, 183.28, marks=pytest.mark.slow),
        pytest.param("segformer_b5", 19, 1024, 2048, 1447.05, marks=pytest.mark.slow),
    ],
)
def test_costs_of_the_paper(name: str, num_classes: int, height: int, width: int, expected: float) -> None:
    counted = literal_cost(name, num_classes, height, width)
    assert counted.macs + counted.bias_additions == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b2"])
def test_composing_the_decoder_removes_the_fusion_at_full_resolution(name: str) -> None:
    """What is saved: 4C channels into C at every pixel of H/4 x W/4. What is added: the products of the weights."""
    C = VARIANTS[name].decoder.fields["embed_dim"]
    saved = literal_cost(name, 150, 512, 512).macs - composed_cost(name).macs
    assert saved == pytest.approx((4 * C * C * 128 * 128 - weight_products(name)) / 1e9, rel=1e-3)


def weight_products(name: str) -> int:
    """The decoder's F_i L_i, once per forward whatever the image, and the same with the biases."""
    spec = VARIANTS[name]
    width: int = spec.decoder.fields["embed_dim"]
    return width**2 * sum(channels + 1 for channels in spec.encoder.fields["embed_dims"])


def test_b2_falls_from_117_to_40_gflop() -> None:
    """Units of 2 x MAC, without the attention products (7.8 on both sides) and the products of the weights (1.2)."""
    literal, composed = literal_cost("segformer_b2", 150, 512, 512), composed_cost("segformer_b2")
    assert 2 * (literal.macs - literal.attention) == pytest.approx(117, abs=0.5)
    assert 2 * (composed.macs - composed.attention - weight_products("segformer_b2") / 1e9) == pytest.approx(
        40, abs=0.5
    )


@pytest.mark.parametrize(("dim", "ratio", "side"), [(32, 8, 128), (64, 4, 64), (160, 2, 32), (256, 1, 16)])
def test_attention_costs_n_squared_over_r_squared(dim: int, ratio: int, side: int) -> None:
    """Section 3.1, the four stages of a 512 x 512 image: N^2 becomes N^2 / 64, 16, 4, 1, for C channels, twice."""
    tokens = side * side
    with torch.device("meta"):
        reduced, full = EfficientSelfAttention(dim, 1, ratio), EfficientSelfAttention(dim, 1, 1)
    assert cost(full, 1, side, side, dim).attention == pytest.approx(2 * tokens**2 * dim / 1e9)
    assert cost(reduced, 1, side, side, dim).attention == pytest.approx(2 * tokens**2 / ratio**2 * dim / 1e9)


# Giga multiply-accumulates of one forward without auxiliary heads; on the meta device SETR's decoders are literal.
@pytest.mark.parametrize(
    ("size", "num_classes", "naive", "pup", "mla"),
    [(768, 19, 295.5, 414.0, 309.4), (512, 150, 107.3, 162.1, 123.3), (480, 60, 92.2, 139.1, 100.3)],
)
def test_costs_of_setr_base(size: int, num_classes: int, naive: float, pup: float, mla: float) -> None:
    for decoder, expected in [("naive", naive), ("pup", pup), ("mla", mla)]:
        counted = cost(meta_model(f"setr_{decoder}_base", num_classes), 1, 3, size, size)
        assert counted.macs + counted.bias_additions == pytest.approx(expected, abs=0.1), decoder


@pytest.mark.parametrize(("decoder", "expected"), [("naive", 959.7), ("pup", 1079.3), ("mla", 973.7)])
def test_costs_of_setr_large(decoder: str, expected: float) -> None:
    counted = cost(meta_model(f"setr_{decoder}_large", 19), 1, 3, 768, 768)
    assert counted.macs + counted.bias_additions == pytest.approx(expected, abs=0.1)
