"""The PyTorch engine: the rewritten network gives the plain network's numbers, whatever it was given before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.engines import fused_segformer
from terrazzo.engines import torch as torch_engine
from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.fused_segformer import FusedSegFormer, can_fuse
from terrazzo.engines.torch import TorchEngine
from terrazzo.models import Segmenter
from terrazzo.notes import TerrazzoWarning
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


# -- bfloat16 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 64, 96), (1, 33, 130), (1, 7, 5)])
def test_bfloat16_is_fused_too_and_as_close_as_autocast(size: tuple[int, int, int]) -> None:
    batch, height, width = size
    images = torch.randn(batch, 3, height, width)
    with torch.inference_mode():
        expected = NETWORK(images)
        with torch.autocast("cpu", torch.bfloat16):
            usual = NETWORK(images).float()
        logits = FusedSegFormer(NETWORK, torch.bfloat16)(images)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().mean() < 1.5 * (usual - expected).abs().mean() + 1e-3


def test_bfloat16_takes_attention_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(1, 3, 64, 96)
    whole = FusedSegFormer(NETWORK, torch.bfloat16)(images)
    monkeypatch.setattr(fused_segformer, "STRIP_SCORES", 50)
    torch.testing.assert_close(FusedSegFormer(NETWORK, torch.bfloat16)(images), whole, atol=0.05, rtol=0.05)


def test_the_engine_computes_in_bfloat16_where_the_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "multiplies_bfloat16", lambda: True)
    bf16 = EngineOptions(precision="bf16")
    fused, plain = TorchEngine(NETWORK, options=bf16), TorchEngine(create_model("setr_naive_tiny", 3), options=bf16)
    assert isinstance(fused.forward, FusedSegFormer) and fused.forward.dtype == torch.bfloat16
    assert not fused.autocast and plain.autocast
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    assert fused(images).dtype == np.float32 and not np.array_equal(fused(images), TorchEngine(NETWORK)(images))


def test_without_bfloat16_instructions_the_engine_says_so_and_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "multiplies_bfloat16", lambda: False)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    with pytest.warns(TerrazzoWarning, match="no bfloat16 instructions: the network is computed in float32"):
        engine = TorchEngine(NETWORK, options=EngineOptions(precision="bf16"))
    assert np.array_equal(engine(images), TorchEngine(NETWORK)(images))
