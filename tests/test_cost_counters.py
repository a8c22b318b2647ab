"""Counts against counts by hand: attention's N^2 and N^2 / R, SETR's sequence, parameters, memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.ablation.studies import STUDIES
from terrazzo.costs import (
    count_operations,
    count_operations_of_size,
    count_parameters,
    memory_of_forward,
    seconds_of_forward,
)
from terrazzo.models import MODELS
from terrazzo.weights.create import create_model

B0 = MODELS["segformer_b0"]
CPU = torch.device("cpu")
META = torch.device("meta")  # on which no weights are drawn
STAGES = [(32, 4), (64, 8), (160, 16), (256, 32)]  # channels and stride of SegFormer-B0's, of two blocks each


@pytest.mark.parametrize("ratios", [(8, 4, 2, 1), (4, 2, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("side", [128, 512, 1024])
def test_attention_of_segformer_costs_n_squared_over_r(ratios: tuple[int, ...], side: int) -> None:
    """Two products of N queries with N / R^2 keys of C channels in each of two blocks: all of it, stage by stage."""
    with META:
        network = create_model(B0.with_encoder(sr_ratios=ratios), 11)
    by_hand = []
    for (channels, stride), ratio in zip(STAGES, ratios, strict=True):
        tokens = (side // stride) ** 2
        by_hand.append(2 * 2 * tokens * (tokens // ratio**2) * channels)
    assert count_operations_of_size(network, side, side).attention_macs == sum(by_hand)


def test_reduction_saves_64_16_4_and_1_of_each_stage() -> None:
    """The paper's R, one stage after the other: switching one stage's reduction off costs what it has saved."""

    def attention(*ratios: int) -> int:
        with META:
            network = create_model(B0.with_encoder(sr_ratios=ratios), 11)
        return count_operations_of_size(network, 512, 512).attention_macs

    paper = attention(8, 4, 2, 1)
    for place, ((channels, stride), ratio) in enumerate(zip(STAGES, (8, 4, 2, 1), strict=True)):
        ratios = [8, 4, 2, 1]
        ratios[place] = 1
        without = attention(*ratios)
        full = 2 * 2 * (512 // stride) ** 4 * channels
        assert without - paper == full - full // ratio**2
        assert full // (full - (without - paper)) == (64, 16, 4, 1)[place]


def test_attention_of_setr_is_of_a_sequence_of_hw_over_256() -> None:
    """Twelve blocks of two products of L x L x C; twice the side is sixteen times the cost."""
    with META:
        network = create_model("setr_mla_tiny", 11, image_size=(128, 128))
    for side in (128, 256, 512):
        length = side * side // 256
        assert count_operations_of_size(network, side, side).attention_macs == 12 * 2 * length**2 * 192


def test_a_sequence_of_pixels_would_be_too_long() -> None:
    """SETR, section 3.1: L = HW in place of HW / 256 costs 256^2 times as much in attention alone."""
    with META:
        network = create_model("setr_mla_tiny", 11, image_size=(64, 64))
    patches = count_operations_of_size(network, 480, 480).attention_macs
    pixels = 12 * 2 * (480 * 480) ** 2 * 192
    assert pixels == 65536 * patches
    assert pixels > 2e14  # for one small photo on the smallest of transformers


def test_operations_of_convolutions_and_linear_layers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1, bias=False))
    counted = count_operations_of_size(network, 10, 12)
    assert (counted.macs, counted.attention_macs) == (5 * 6 * (27 * 8 + 8 * 5), 0)
    assert next(network.parameters()).device.type == "cpu"


def test_parameters_are_counted_without_auxiliary_heads() -> None:
    with META:
        network = create_model("setr_pup_tiny", 11, image_size=(64, 64))
    everything, counted = sum(parameter.numel() for parameter in network.parameters()), count_parameters(network)
    network.drop_auxiliary()
    assert counted == sum(parameter.numel() for parameter in network.parameters()) < everything


def test_memory_of_two_layers() -> None:
    """In the middle the maps of both convolutions live; the first one's input is the image, which is not counted."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Identity(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    assert memory_of_forward(network, 20, 30, CPU) == 4 * 600 * (8 + 4)


def test_views_and_changes_in_place_take_no_memory() -> None:
    class Reshaped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = x + 1
            made.mul_(2)
            return made.flatten(1).view(-1, 3).T

    assert memory_of_forward(Reshaped(), 10, 10, CPU) == 4 * 300


def test_memory_grows_with_the_image_and_time_is_measured() -> None:
    network = create_model(B0, 3)
    small, large, larger = (memory_of_forward(network, side, side, CPU) for side in (64, 128, 256))
    # But for what is made of the weights, the same at every size, memory goes with the pixels.
    assert (larger - large) / (large - small) == pytest.approx(4, rel=0.05)
    assert seconds_of_forward(network, 64, 64, CPU) > 0


@pytest.mark.parametrize("side", [32, 61, 97])
def test_attention_is_told_from_other_products_at_any_size(side: int) -> None:
    """Where maps are as small as one token, linear layers are products of batches of matrices too."""
    by_hand = 0
    for (channels, stride), ratio in zip(STAGES, (8, 4, 2, 1), strict=True):
        cells = -(-side // stride)
        by_hand += 2 * 2 * cells**2 * max(cells // ratio, 1) ** 2 * channels
    with META:
        network = create_model(B0, 11)
    assert count_operations_of_size(network, side, side).attention_macs == by_hand


def test_attention_of_a_backbone_without_torchs_function() -> None:
    pytest.importorskip("transformers")
    with META:
        network = create_model(next(v.model for v in STUDIES["models"].variants if v.key == "pvt_v2_b0"), 11)
    by_hand = sum(
        2 * 2 * (256 // s) ** 2 * (256 // s // r) ** 2 * c for (c, s), r in zip(STAGES, (8, 4, 2, 1), strict=True)
    )
    assert count_operations_of_size(network, 256, 256).attention_macs == by_hand


def test_operations_of_a_batch_are_counted_where_it_lies() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1).train()
    assert count_operations(conv, torch.zeros(2, 3, 5, 7)).flop == 2 * (3 * 9) * 8 * (2 * 5 * 7)
    assert conv.training


def test_attention_on_a_cpu_counts() -> None:
    """Two products: of (N, 3) with (3, N), and of (N, N) with (N, 3)."""

    class Attention(nn.Module):
        def forward(self, x_B3HW: Tensor) -> Tensor:
            q = x_B3HW.flatten(2).transpose(1, 2)[:, None]  # one head of 3 channels
            return F.scaled_dot_product_attention(q, q, q)

    tokens = 4 * 6
    counted = count_operations(Attention(), torch.zeros(1, 3, 4, 6))
    assert counted.flop == counted.attention == 2 * (2 * tokens * tokens * 3)
