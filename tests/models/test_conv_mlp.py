"""mmsegmentation's SegFormer: its decoder equals the literal one, and its numbers are the published ones."""

from __future__ import annotations

import pytest
import torch
from literal_conv_mlp import literal_conv_mlp
from meta_models import meta_model
from torch import nn

from terrazzo.models.decoders.conv_mlp import ConvMLPDecoder
from terrazzo.weights.create import create_model


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_outputs_and_gradients_equal_the_literal_decoder(train: bool) -> None:
    torch.manual_seed(0)
    decoder = ConvMLPDecoder((3, 5, 7, 9), 8, 4, dropout=0.0).double().train(train)
    features = [
        torch.randn(2, c, h, w, dtype=torch.float64) for c, h, w in ((3, 13, 9), (5, 7, 5), (7, 4, 3), (9, 2, 2))
    ]
    for parameter in decoder.parameters():
        nn.init.normal_(parameter)
    results = []
    for function in (decoder, lambda x: literal_conv_mlp(decoder, x)):
        decoder.zero_grad()
        logits = function(features)
        logits.square().sum().backward()
        results.append((logits.detach(), {name: p.grad.clone() for name, p in decoder.named_parameters()}))
    (logits, gradients), (logits_, gradients_) = results
    torch.testing.assert_close(logits, logits_, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients, gradients_, rtol=1e-7, atol=1e-9)


def test_the_published_size_of_b5() -> None:
    assert sum(parameter.numel() for parameter in meta_model("segformer_b5_mmseg", 150).parameters()) == 82_008_406


def test_every_norm_has_the_eps_of_mmsegmentation() -> None:
    ours, theirs = create_model("segformer_b0", 3), create_model("segformer_b0_mmseg", 3)
    eps = [{m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} for model in (ours, theirs)]
    assert eps == [{1e-5, 1e-6}, {1e-6}]
