"""Operations are counted by hand and by the program alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.profiling.operations import count_operations


class Attention(nn.Module):
    def forward(self, x_B3HW: Tensor) -> Tensor:
        q = x_B3HW.flatten(2).transpose(1, 2)[:, None]  # one head of 3 channels
        return F.scaled_dot_product_attention(q, q, q)


def test_a_convolution() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert count_operations(conv, torch.zeros(2, 3, 5, 7)) == 2 * (3 * 9) * 8 * (2 * 5 * 7)


def test_attention_on_a_cpu_counts() -> None:
    """Two products: of (N, 3) with (3, N), and of (N, N) with (N, 3)."""
    tokens = 4 * 6
    assert count_operations(Attention(), torch.zeros(1, 3, 4, 6)) == 2 * (2 * tokens * tokens * 3)
