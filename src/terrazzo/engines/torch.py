"""The PyTorch engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.engines.bfloat16 import multiplies_bfloat16, stay_in_float32
from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.fused_segformer import FusedSegFormer, can_fuse
from terrazzo.engines.gpu import GPUNetwork
from terrazzo.engines.layer_times import PASSES, LayerTime, mean_of_passes
from terrazzo.errors import ConfigError
from terrazzo.models import Segmenter
from terrazzo.text import show
from terrazzo.weights.files import TrainedModel

__all__ = ["TorchEngine", "find_device", "open_model"]

ACCELERATORS = ("cuda", "mps", "xpu")
FLOATS = {"float": "f32", "c10::BFloat16": "bf16", "c10::Half": "f16"}  # as PyTorch's profiler calls them


class TorchEngine:
    """Runs a network: (B, C, H, W) float32 in, (B, K, h, w) float32 out, both numpy arrays.

    On a CPU, a SegFormer runs with fused operators (`engines/fused_segformer.py`) and a copy of the weights that it has
    now, in float32 or bfloat16. Other networks compute in bfloat16 under autocast. On a GPU, half precision and CUDA
    graphs are used where they give the same classes (`engines/gpu.py`).

    Args:
        network: the model; it is put into evaluation mode and onto the device.
        device: as `find_device` takes it; by default the one that the network is on.
        options: threads, streams and precision. If threads or streams are given, each thread that calls the engine on a
            CPU gets its number of PyTorch threads set; otherwise PyTorch's setting stays.
        compiled: run through ``torch.compile`` instead, in fp32 unless the options say bf16. The first image then takes
            a minute. For GPUs: on CPUs it was not faster.
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
        first = next(network.parameters())
        if first.is_meta:
            raise ConfigError(
                "the network is on PyTorch's meta device, where it has no weights",
                fix="load the model again",
                code="engine-device",
            )
        self.device = find_device(device) if device is not None else first.device
        network.eval().to(self.device)
        on_cpu = self.device.type == "cpu"
        if not on_cpu:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_float32 = first.dtype == torch.float32  # else its owner has chosen a precision
        on_cuda = self.device.type == "cuda" and not compiled and is_float32  # other accelerators have no CUDA graphs
        lower = options.precision == "bf16" and not on_cuda and is_float32
        if lower and on_cpu and not multiplies_bfloat16():
            stay_in_float32()
            lower = False
        self.has_bfloat16 = on_cpu and is_float32 and not lower and not compiled and multiplies_bfloat16()
        fused = not compiled and can_fuse(network)
        self.autocast = lower and not fused
        self.network = network
        self.forward: Callable[[Tensor], Tensor]
        if on_cuda:
            self.forward = GPUNetwork(network, options.precision)
        elif compiled:
            self.forward = torch.compile(network)
        elif fused:
            self.forward = FusedSegFormer(network, torch.bfloat16 if lower else torch.float32)
        else:
            self.forward = self._as_it_is
        chosen = options.threads is not None or options.streams > 1
        self.threads = options.threads_per_stream if chosen and on_cpu else None
        self._own = threading.local()

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.threads is not None and not hasattr(self._own, "threads"):
            self._own.threads = self.threads
            torch.set_num_threads(self.threads)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            images = torch.from_numpy(images_B3HW).to(self.device)
            logits: NDArray[np.float32] = self.forward(images).float().cpu().numpy()
        return logits

    def layer_times(self, images_B3HW: NDArray[np.float32]) -> list[LayerTime]:
        """Return the times of the operators by PyTorch's profiler; on a GPU, those of the processor that starts them.

        An operator's time is without that of the operators that it calls.
        """
        from torch.profiler import ProfilerActivity, profile

        passes = []
        for _ in range(PASSES):
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
                self(images_B3HW)
            passes.append([_layer_time(event) for event in profiler.events()])
        return mean_of_passes(passes)

    def release_memory(self) -> None:
        """Free what is kept on a GPU for repeated sizes."""
        if isinstance(self.forward, GPUNetwork):
            self.forward.forget_sizes()
        if self.device.type in ACCELERATORS:
            getattr(torch, self.device.type).empty_cache()

    def _as_it_is(self, images_B3HW: Tensor) -> Tensor:
        """Run the network on the device and in the precision that it has now."""
        logits: Tensor = self.network(images_B3HW.to(next(self.network.parameters())))
        return logits


def _layer_time(event: Any) -> LayerTime:
    shapes = [str(tuple(shape)).replace(" ", "") for shape in event.input_shapes if shape]
    types = dict.fromkeys(FLOATS[kind] for kind in event.input_dtypes if kind in FLOATS)
    return LayerTime(" ".join(shapes), event.name, " ".join(types), event.self_cpu_time_total / 1e6)


def open_model(model: TrainedModel, options: EngineOptions, device: str | None, compiled: bool) -> TorchEngine:
    """Open a model on a device; by default on the accelerator that it is on, else on a GPU if there is one."""
    own = next(model.network.parameters()).device.type
    place = find_device() if device is None and own == "cpu" else device
    return TorchEngine(model.network, place, options, compiled=compiled)


def find_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device of this name, after checking that this machine has it.

    Args:
        device: ``cpu``; ``cuda``, ``cuda:1`` or the number of a GPU, such as ``1``; ``mps`` (Apple) or ``xpu`` (Intel);
            by default a CUDA GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is no such device here (code "engine-device").
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(device).strip().lower()
    wanted = f"cuda:{int(name)}" if name.isascii() and name.isdigit() else name
    here = _devices_here()
    if wanted in here:
        return torch.device(wanted)
    raise ConfigError(
        f"PyTorch finds no device {show(str(device))} on this machine",
        fix=f"choose from {', '.join(here)}" if here[1:] else "leave the device out, or use cpu",
        code="engine-device",
    )


def _devices_here() -> list[str]:
    counts = {kind: getattr(torch, kind).device_count() for kind in ACCELERATORS if getattr(torch, kind).is_available()}
    numbered = [[kind, *(f"{kind}:{number}" for number in range(count))] for kind, count in counts.items()]
    return ["cpu", *(name for names in numbered for name in names)]
