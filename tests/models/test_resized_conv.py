"""Convolving a resized map without building it: the same values and gradients as the literal two steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from terrazzo.models import resized_conv
from terrazzo.models.resized_conv import conv_of_resized


def literal(x_BChw: Tensor, weight: Tensor, bias: Tensor, factor: int, align_corners: bool) -> Tensor:
    size = factor * x_BChw.shape[2], factor * x_BChw.shape[3]
    large = F.interpolate(x_BChw, size, mode="bilinear", align_corners=align_corners)
    return F.conv2d(large, weight, bias, padding=1)


def tensors(batch: int, channels: int, classes: int, h: int, w: int) -> list[Tensor]:
    torch.manual_seed(h * 100 + w)
    shapes = [(batch, channels, h, w), (classes, channels, 3, 3), (classes,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    classes=st.integers(1, 4),
    h=st.integers(1, 30),
    w=st.integers(1, 30),
    factor=st.sampled_from([2, 3, 4]),
    align_corners=st.booleans(),
)
@example(batch=1, channels=1, classes=1, h=1, w=1, factor=2, align_corners=True)
@example(batch=2, channels=3, classes=2, h=24, w=49, factor=4, align_corners=True)
@example(batch=2, channels=3, classes=2, h=25, w=48, factor=2, align_corners=False)
def test_equals_the_literal_steps(
    batch: int, channels: int, classes: int, h: int, w: int, factor: int, align_corners: bool
) -> None:
    inputs = tensors(batch, channels, classes, h, w)
    expected = literal(*inputs, factor, align_corners)
    result = conv_of_resized(*inputs, factor, align_corners)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((result * weights).sum(), inputs)
    torch.testing.assert_close(
        gradients, torch.autograd.grad((expected * weights).sum(), inputs), rtol=1e-10, atol=1e-10
    )


def test_the_result_is_channels_last() -> None:
    result = conv_of_resized(*tensors(2, 3, 4, 20, 18), 2, False)
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(5, 7), (40, 21)])
def test_what_follows_is_done_in_every_tile(size: tuple[int, int]) -> None:
    inputs = tensors(1, 3, 4, *size)
    classifier = torch.randn(2, 4, dtype=torch.float64)
    result = conv_of_resized(*inputs, 2, False, then=lambda piece: F.linear(piece.relu(), classifier))
    expected = F.conv2d(literal(*inputs, 2, False).relu(), classifier[:, :, None, None])
    torch.testing.assert_close(result, expected)


def test_the_full_size_map_never_exists() -> None:
    """Nothing that the computation makes is even as large as what it is given."""
    largest = 0
    inputs = [tensor.detach() for tensor in tensors(1, 64, 64, 96, 96)]

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and not any(out.data_ptr() == tensor.data_ptr() for tensor in inputs):
                largest = max(largest, out.numel())
            return out

    with Sizes():
        result = conv_of_resized(*inputs, 2, False, then=lambda piece: piece.sum(-1, keepdim=True))
    assert result.shape == (1, 1, 192, 192)
    assert largest < inputs[0].numel() < 64 * 192 * 192


def test_on_other_devices_it_is_literal() -> None:
    """Shapes and the function applied; what is computed there is what the test above compares with."""
    inputs = [tensor.detach().to("meta") for tensor in tensors(2, 3, 4, 9, 11)]
    result = conv_of_resized(*inputs, 4, True, then=lambda piece: piece[..., :1])
    assert result.shape == (2, 1, 36, 44)


def test_tracing_takes_the_literal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(resized_conv, "_tiles", None)
    inputs = tensors(1, 3, 4, 9, 11)
    torch.testing.assert_close(conv_of_resized(*inputs, 4, True), literal(*inputs, 4, True))
