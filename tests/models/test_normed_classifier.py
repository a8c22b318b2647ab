"""BatchNorm, ReLU and classifier as one function: the three layers' values, gradients and statistics."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.normed_classifier import _NormReluLinear, classify_normed


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, nn.BatchNorm2d, Tensor, Tensor]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5).to(dtype)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    map_BChw = torch.randn(3, 5, 4, 6, dtype=dtype).contiguous(memory_format=torch.channels_last) * 2 + 1
    columns_BCK, bias_K = torch.randn(3, 5, 7, dtype=dtype), torch.randn(7, dtype=dtype)
    return map_BChw.requires_grad_(), norm, columns_BCK.requires_grad_(), bias_K.requires_grad_()


def layer_by_layer(map_BChw: Tensor, norm: nn.BatchNorm2d, columns_BCK: Tensor, bias_K: Tensor) -> Tensor:
    hidden_BNC = F.relu(norm(map_BChw)).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.baddbmm(bias_K, hidden_BNC, columns_BCK)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_equals_the_three_layers(dtype: torch.dtype, tolerance: float) -> None:
    map_BChw, norm, columns_BCK, bias_K = example(dtype)
    plain_norm = copy.deepcopy(norm)
    logits, plain = (
        function(map_BChw, own_norm, columns_BCK, bias_K)
        for function, own_norm in ((classify_normed, norm), (layer_by_layer, plain_norm))
    )
    assert torch.equal(logits, plain)
    direction = torch.randn_like(logits)
    inputs = [map_BChw, columns_BCK, bias_K]
    gradients = torch.autograd.grad(logits, [*inputs, *norm.parameters()], direction)
    expected = torch.autograd.grad(plain, [*inputs, *plain_norm.parameters()], direction)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=tolerance, atol=tolerance)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, plain_norm.state_dict()[key]), key


def test_gradients_are_those_of_finite_differences() -> None:
    map_BChw, norm, columns_BCK, bias_K = example()

    def function(*inputs: Tensor) -> Tensor:
        statistics = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
        logits: Tensor = _NormReluLinear.apply(*inputs, *statistics, 0.1, 1e-5)
        return logits

    assert torch.autograd.gradcheck(function, (map_BChw, norm.weight, norm.bias, columns_BCK, bias_K))


def test_bf16_autocast_stays_close_to_float32() -> None:
    map_BChw, norm, columns_BCK, bias_K = example(torch.float32)
    rounded = map_BChw.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classify_normed(rounded, norm, columns_BCK, bias_K)
    assert logits.dtype == torch.bfloat16
    plain = layer_by_layer(map_BChw, copy.deepcopy(norm), columns_BCK, bias_K)
    direction = torch.randn_like(plain)
    gradients = torch.autograd.grad(logits, [rounded, columns_BCK, norm.weight], direction.bfloat16())
    expected = torch.autograd.grad(
        layer_by_layer(map_BChw, norm, columns_BCK, bias_K), [map_BChw, columns_BCK, norm.weight], direction
    )
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    for gradient, reference in zip(gradients, expected, strict=True):
        error = (gradient.float() - reference).norm() / reference.norm()
        assert error < 0.03


def test_only_one_large_tensor_is_kept() -> None:
    map_BChw, norm, columns_BCK, bias_K = example(torch.float32)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for function, maps in ((classify_normed, 1), (layer_by_layer, 2)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            function(map_BChw.clone(), norm, columns_BCK, bias_K)
        assert sum(size == map_BChw.nbytes for size in kept.values()) == maps
