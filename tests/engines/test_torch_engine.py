"""The PyTorch engine: the rewritten network gives the plain network's numbers, whatever it was given before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.engines.fused_segformer import FusedSegFormer, can_fuse
from terrazzo.engines.torch import TorchEngine
from terrazzo.models import Segmenter
from terrazzo.weights.create import create_model


def scrambled(name: str, num_classes: int) -> Segmenter:
    """A network none of whose norms is the identity, so that a forgotten one shows."""
    torch.manual_seed(0)
    network = create_model(name, num_classes).eval()
    for module in network.modules():
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    norm = network.decoder.norm
    torch.nn.init.normal_(norm.running_mean, std=0.1)
    torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network


NETWORK = scrambled("segformer_b0", 7)
FUSED = FusedSegFormer(NETWORK)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), height=st.integers(1, 140), width=st.integers(1, 140))
def test_fused_equals_plain_at_any_size(batch: int, height: int, width: int) -> None:
    images = torch.randn(batch, 3, height, width)
    with torch.inference_mode():
        torch.testing.assert_close(FUSED(images), NETWORK(images), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (384, 512)])
def test_fused_equals_plain_in_one_strip_and_in_many(size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(FUSED(images), NETWORK(images), atol=2e-5, rtol=1e-5)


def test_a_call_leaves_the_next_one_alone() -> None:
    """A single pixel once shared its memory with the decoder's bias."""
    first, single = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 1, 1)
    before = FUSED(first)
    FUSED(single)
    assert torch.equal(FUSED(first), before)


def test_wider_variants_fuse_too() -> None:
    network = scrambled("segformer_b1", 3)
    images = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(FusedSegFormer(network)(images), network(images), atol=5e-5, rtol=1e-5)


def test_the_engine_keeps_the_weights_it_was_made_with() -> None:
    network = scrambled("segformer_b0", 3)
    images = np.random.default_rng(0).standard_normal((1, 3, 40, 56), dtype=np.float32)
    engine = TorchEngine(network)
    before = engine(images)
    assert before.shape == (1, 3, 10, 14) and before.dtype == np.float32
    with torch.no_grad():
        network.decoder.classifier.bias.add_(1)
    np.testing.assert_allclose(TorchEngine(network)(images), before + 1, atol=1e-4)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.add_(1)
    assert np.array_equal(engine(images), before)


@pytest.mark.parametrize("name", ["setr_naive_tiny", "setr_pup_tiny", "setr_mla_tiny"])
def test_other_networks_run_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, 3).eval()
    assert not can_fuse(network)
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        expected = network(images).numpy()
    logits = TorchEngine(network)(images.numpy())
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_only_float32_on_a_cpu_is_rewritten() -> None:
    assert can_fuse(NETWORK)
    assert not can_fuse(scrambled("segformer_b0", 3).double())
