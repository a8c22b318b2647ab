"""PyTorch as an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.fused_segformer import FusedSegFormer, can_fuse
from terrazzo.engines.gpu import GPUNetwork
from terrazzo.models import Segmenter

__all__ = ["TorchEngine", "default_device"]


class TorchEngine:
    """Runs a network: (B, 3, H, W) float32 in, (B, K, h, w) float32 out, both numpy arrays.

    On a CPU a SegFormer is rewritten for speed; the engine then keeps the weights that the network has now. On a GPU
    half precision and CUDA graphs are used where they give the same classes (`engines/gpu.py`).

    Args:
        network: the model; it is put into evaluation mode and onto the device.
        device: ``cpu`` or a CUDA device; by default the one that the network is on.
        options: threads, streams and precision. Where threads or streams are chosen, every thread that calls the engine
            on a CPU has its number of PyTorch threads set; otherwise PyTorch's own setting is left alone.
        compiled: run through ``torch.compile`` instead, in fp32 unless the options say bf16. The first photo then takes
            a minute. It is for GPUs: on CPUs it was not found to gain anything.
    """

    def __init__(
        self,
        network: Segmenter,
        device: str | torch.device | None = None,
        options: EngineOptions | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        options = options or EngineOptions()
        self.device = torch.device(device) if device is not None else next(network.parameters()).device
        network.eval().to(self.device)
        if self.device.type != "cpu":
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        on_cuda = self.device.type == "cuda" and not compiled  # other accelerators have no CUDA graphs
        self.autocast = options.precision == "bf16" and not on_cuda
        self.forward: Callable[[Tensor], Tensor]
        if on_cuda:
            self.forward = GPUNetwork(network, options.precision)
        elif compiled:
            self.forward = torch.compile(network)
        else:
            self.forward = FusedSegFormer(network) if can_fuse(network) and not self.autocast else network
        chosen = options.threads is not None or options.streams > 1
        self.threads = options.threads_per_stream if chosen and self.device.type == "cpu" else None
        self._own = threading.local()

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.threads is not None and not hasattr(self._own, "threads"):
            self._own.threads = self.threads
            torch.set_num_threads(self.threads)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            images = torch.from_numpy(images_B3HW).to(self.device)
            logits: NDArray[np.float32] = self.forward(images).float().cpu().numpy()
        return logits


def default_device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
