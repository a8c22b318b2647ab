"""What is computed again in the backward pass: the same values, gradients and random numbers, with less kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from terrazzo.models import segformer, setr
from terrazzo.models.encoders import mit, vit
from terrazzo.models.layers import recomputed
from terrazzo.models.segmenter import Segmenter
from terrazzo.weights.create import create_model


def networks() -> dict[str, Segmenter]:
    """Narrow ones, with drop path."""
    torch.manual_seed(0)
    tiny = setr.setr_spec("tiny", {"embed_dim": 16, "depth": 4, "num_heads": 2}, "naive", (1, 2, 3, 4), (1, 2, 3))
    narrow = segformer.segformer_spec("narrow", {"embed_dims": (8, 16, 20, 32), "depths": (2, 1, 1, 1)}, 16)
    return {
        "segformer": create_model(narrow, 3, drop_path_rate=0.5),
        "setr": create_model(tiny, 3, drop_path_rate=0.5, image_size=(32, 48)),
    }


def step(network: Segmenter, images: Tensor) -> tuple[Tensor, list[Tensor], int, Tensor]:
    """Return the logits, the gradients, the bytes kept in between, and the generator's state afterwards."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers(), images]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = network.train()(images)
    logits.square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return logits.detach(), gradients, sum(kept[key] for key in kept.keys() - own), torch.get_rng_state()


def without_recomputing(network: Segmenter) -> Segmenter:
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, mit.MixFFN | mit.SequenceReduction | vit.MLP):
            module.recompute = False
    return plain


@pytest.mark.parametrize("name", ["segformer", "setr"])
def test_steps_are_equal_bit_for_bit_and_keep_ever_less(name: str) -> None:
    usual = networks()[name]
    blocks = copy.deepcopy(usual)
    assert isinstance(blocks.encoder, mit.MixTransformer | vit.VisionTransformer)
    blocks.encoder.recompute_blocks()
    images = torch.randn(3, 3, 32, 48)
    plain, *others = (step(network, images) for network in (without_recomputing(usual), usual, blocks))
    assert len(plain[1]) > 20
    for other in others:
        assert torch.equal(other[0], plain[0]) and torch.equal(other[3], plain[3])
        assert all(map(torch.equal, other[1], plain[1]))
    assert plain[2] > 1.1 * others[0][2]
    assert others[0][2] > 1.4 * others[1][2]


def test_in_evaluation_nothing_is_recomputed() -> None:
    """Gradients of a network in evaluation explain predictions; whoever hooks its layers sees each of them once."""
    network = networks()["segformer"].eval()
    calls = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *_: calls.append(1))
    network(torch.randn(1, 3, 32, 32, requires_grad=True)).sum().backward()
    once = len(calls)
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert len(calls) == 2 * once


def test_gradients_of_a_recomputed_ffn_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    ffn, mlp = mit.MixFFN(3, 5).double().train(), vit.MLP(3, 5).double().train()
    assert torch.autograd.gradcheck(ffn, torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(mlp, torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True))


def test_random_numbers_are_drawn_alike() -> None:
    x = torch.ones(1000, requires_grad=True)
    for draws in (True, False):
        torch.manual_seed(0)
        out = recomputed(lambda x: nn.functional.dropout(x * x, 0.5) * x, x, draws=draws)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(gradient, 3 * out.detach()) == draws
