"""BatchNorm, ReLU and a linear classifier in training, with one large tensor kept for the backward pass, not two.

Between a decoder's wide map and its few logits stands the normed and rectified map, as large as the wide one. It is
cheap to compute from it, so the backward pass does that again, image by image, and writes the gradient of the wide map
in place. Values are those of the three layers, gradients equal theirs up to rounding.

Shapes: B batch, h and w the map's size, N = h w places, C channels, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["classify_normed"]


def classify_normed(x_BChw: Tensor, norm: nn.BatchNorm2d, columns_BCK: Tensor, bias_K: Tensor) -> Tensor:
    """Return (B, N, K) logits, and update the norm's running statistics.

    Args:
        x_BChw: the map before the norm, channels-last.
        norm: BatchNorm with affine parameters and running statistics, in training.
        columns_BCK: the classifier's columns, which may differ from image to image.
        bias_K: its bias.

    Raises:
        ValueError: there is one value for each channel, as PyTorch's own BatchNorm says it.
    """
    if x_BChw.numel() == x_BChw.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x_BChw.shape}")
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    logits_BNK: Tensor = _NormReluLinear.apply(  # type: ignore[no-untyped-call]
        x_BChw,
        norm.weight,
        norm.bias,
        columns_BCK,
        bias_K,
        norm.running_mean,
        norm.running_var,
        norm.momentum,
        norm.eps,
    )
    return logits_BNK


class _NormReluLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BChw: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        columns_BCK: Tensor,
        bias_K: Tensor,
        running_mean_C: Tensor,
        running_var_C: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        hidden_BChw, mean_C, inverse_std_C = torch.native_batch_norm(
            x_BChw, weight_C, bias_C, running_mean_C, running_var_C, True, momentum, eps
        )
        ctx.save_for_backward(x_BChw, weight_C, bias_C, columns_BCK, mean_C, inverse_std_C)
        return torch.baddbmm(bias_K, _places(hidden_BChw.relu_()), columns_BCK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_BNK = grad_outputs[0]
        x_BChw, weight_C, bias_C, columns_BCK, mean_C, inverse_std_C = ctx.saved_tensors
        x_BNC = _places(x_BChw)
        scale_C = weight_C * inverse_std_C
        shift_C = bias_C - mean_C * scale_C
        columns_BKC = columns_BCK.to(grad_BNK.dtype).mT
        grad_columns_BCK = torch.empty_like(columns_BCK)
        grad_x_BNC = torch.empty_like(x_BNC)  # holds the gradient after the norm until the sums over it are known
        grad_bias_C, grad_scaled_C = torch.zeros_like(mean_C), torch.zeros_like(mean_C)
        for image, x_NC in enumerate(x_BNC):
            hidden_NC = torch.addcmul(shift_C, x_NC, scale_C).relu_()
            grad_columns_BCK[image] = hidden_NC.to(grad_BNK.dtype).mT @ grad_BNK[image]
            grad_NC = (grad_BNK[image] @ columns_BKC[image]).to(hidden_NC.dtype)
            grad_NC.masked_fill_(hidden_NC == 0, 0)
            grad_x_BNC[image] = grad_NC
            grad_bias_C += grad_NC.sum(0)
            grad_scaled_C += grad_NC.mul_(torch.sub(x_NC, mean_C, out=hidden_NC)).sum(0)
        grad_weight_C = grad_scaled_C * inverse_std_C
        # A norm's input gets the part of the gradient that neither shifts nor scales all places alike.
        places = x_BNC.shape[0] * x_BNC.shape[1]
        shared_C = grad_bias_C / places
        slope_C = grad_weight_C * inverse_std_C / places
        for x_NC, grad_NC in zip(x_BNC, grad_x_BNC, strict=True):
            centred_NC = x_NC - mean_C
            grad_NC.copy_(centred_NC.mul_(-slope_C).sub_(shared_C).add_(grad_NC).mul_(scale_C))
        grad_bias_K = grad_BNK.sum((0, 1), dtype=mean_C.dtype)
        grad_x_BChw = grad_x_BNC.mT.view(x_BChw.shape)
        return grad_x_BChw, grad_weight_C, grad_bias_C, grad_columns_BCK, grad_bias_K, None, None, None, None


def _places(x_BChw: Tensor) -> Tensor:
    """(B, N, C), a view of a channels-last map."""
    return x_BChw.permute(0, 2, 3, 1).flatten(1, 2)
