"""Layers and initialisers that the networks share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from terrazzo.models.layers import DropPath, init_conv_fan_out, init_transformer_linear, linear_ramp


def test_drop_path_drops_whole_samples_and_scales_the_kept_ones() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 2, 3) + 5
    factor = DropPath(0.25).train()(x) / x
    per_sample = factor.flatten(1)
    torch.testing.assert_close(per_sample, per_sample[:, :1].expand_as(per_sample))
    kept = per_sample[:, 0] > 0
    torch.testing.assert_close(per_sample[kept, 0], torch.full((int(kept.sum()),), 1 / 0.75))
    assert kept.float().mean() == pytest.approx(0.75, abs=0.03)


def test_drop_path_passes_everything_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(3, 4)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_drop_path_refuses_a_rate_outside_zero_to_one(rate: float) -> None:
    with pytest.raises(ValueError, match="drop_prob"):
        DropPath(rate)


def test_linear_initialiser() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(500, 400)
    init_transformer_linear(linear)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.01)
    # The cut is at +-2, a hundred standard deviations away: the tails are there.
    assert linear.weight.abs().max() > 0.02 * 3.5
    assert not linear.bias.any()


@pytest.mark.parametrize(
    ("conv", "fan_out"),
    [
        (nn.Conv2d(3, 64, 7, 4), 49 * 64),
        (nn.Conv2d(64, 128, 3, 2), 9 * 128),
        (nn.Conv2d(64, 64, 8, 8), 64 * 64),
        (nn.Conv2d(2048, 2048, 3, groups=2048), 9),
        (nn.Conv2d(64, 64, 3, bias=False), 9 * 64),
    ],
    ids=["patch", "merge", "reduction", "depthwise", "no bias"],
)
def test_convolution_initialiser(conv: nn.Conv2d, fan_out: int) -> None:
    torch.manual_seed(0)
    init_conv_fan_out(conv)
    tolerance = 5 / math.sqrt(2 * conv.weight.numel())
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance)
    assert conv.bias is None or not conv.bias.any()


def test_ramp_runs_from_zero_to_the_end_rate() -> None:
    assert linear_ramp(0.1, 5) == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert linear_ramp(0.0, 3) == [0, 0, 0]
