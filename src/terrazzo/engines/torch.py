"""PyTorch as an engine."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import torch
from numpy.typing import NDArray

from terrazzo.engines.fused_segformer import FusedSegFormer, can_fuse
from terrazzo.models import Segmenter

__all__ = ["TorchEngine", "default_device", "keep_freed_memory"]


class TorchEngine:
    """Runs a network eagerly: (B, 3, H, W) float32 in, (B, K, h, w) float32 out, both numpy arrays.

    On a CPU a SegFormer is rewritten for speed; the engine then keeps the weights that the network has now.

    Args:
        network: the model; it is put into evaluation mode and onto the device.
        device: ``cpu`` or a CUDA device; by default the one that the network is on.
    """

    def __init__(self, network: Segmenter, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device) if device is not None else next(network.parameters()).device
        network.eval().to(self.device)
        self.forward = FusedSegFormer(network) if can_fuse(network) else network

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = (
                self.forward(torch.from_numpy(images_B3HW).to(self.device)).float().cpu().numpy()
            )
        return logits


def default_device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def keep_freed_memory() -> None:
    """Tell the C library to keep freed blocks for the next tensor instead of returning them to the system.

    A network's feature maps are large enough that glibc maps and unmaps each one, and the page faults take a good part
    of a forward pass on the CPU. This changes the whole process, so programs call it and imports do not. It does
    nothing on systems without glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
