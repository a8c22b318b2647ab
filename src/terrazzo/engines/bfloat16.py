"""Whether the processor has bfloat16 instructions; without them, bfloat16 is slower than float32."""

from __future__ import annotations

from terrazzo.notes import note

__all__ = ["multiplies_bfloat16", "stay_in_float32"]


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it: AVX512-BF16 or AMX, as PyTorch finds them."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def stay_in_float32() -> None:
    """Say that bfloat16 was asked for and float32 is used."""
    note("this processor has no bfloat16 instructions: the network is computed in float32")
