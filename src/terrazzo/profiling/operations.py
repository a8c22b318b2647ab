"""How much arithmetic a pass through a network is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["count_operations"]


@torch.inference_mode()
def count_operations(network: nn.Module, images_B3HW: Tensor) -> int:
    """Return the floating-point operations of a pass (a multiplication and its addition are two), by running it.

    Only what is done by matrix products, convolutions and attention counts.
    """
    # On a CPU attention is an operator of its own, which PyTorch's counter passes over.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        network(images_B3HW)
    return int(counter.get_total_flops())


def _attention(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))  # type: ignore[no-untyped-call]
