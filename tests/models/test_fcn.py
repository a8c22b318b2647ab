"""The FCN head against its steps written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.decoders.fcn import FCNDecoder


def literal_fcn(decoder: FCNDecoder, x_BChw: Tensor) -> Tensor:
    state = decoder.state_dict()
    for i in range(2):
        x_BChw = F.conv2d(x_BChw, state[f"convs.{i}.conv.weight"], padding=1)
        statistics = state[f"convs.{i}.norm.running_mean"], state[f"convs.{i}.norm.running_var"]
        x_BChw = F.batch_norm(x_BChw, *statistics, state[f"convs.{i}.norm.weight"], state[f"convs.{i}.norm.bias"])
        x_BChw = x_BChw.clamp(min=0)
    return F.conv2d(x_BChw, state["classifier.weight"][:, :, None, None], state["classifier.bias"])


@torch.no_grad()
def test_equals_its_steps_on_the_last_map() -> None:
    torch.manual_seed(0)
    decoder = FCNDecoder((12,), (32,), 5, embed_dim=8).eval()
    for conv in decoder.convs:
        nn.init.uniform_(conv.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(conv.norm.running_var, 0.5, 2.0)
        nn.init.uniform_(conv.norm.bias, -0.5, 0.5)
    maps = [torch.randn(2, 4, 10, 14), torch.randn(2, 12, 5, 7)]
    logits = decoder(maps)
    assert tuple(logits.shape) == (2, 5, 5, 7)
    torch.testing.assert_close(logits, literal_fcn(decoder, maps[-1]), rtol=1e-4, atol=1e-5)


def test_number_of_parameters() -> None:
    decoder = FCNDecoder((2048,), (8,), 19)
    expected = 9 * 2048 * 512 + 9 * 512 * 512 + 4 * 512 + 512 * 19 + 19
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
    assert decoder.num_classes == 19


def test_everything_learns_and_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    decoder = FCNDecoder((6,), (32,), 3, embed_dim=16, dropout=0.5)
    maps = [torch.randn(2, 6, 4, 4)]
    decoder(maps).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in decoder.parameters())
    with torch.no_grad():
        assert not torch.equal(decoder(maps), decoder(maps))
        decoder.eval()
        assert torch.equal(decoder(maps), decoder(maps))
