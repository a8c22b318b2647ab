"""What a network costs: parameters, floating-point operations, and the memory of the tensors alive in a pass."""

from __future__ import annotations

import copy
import os
import sys
import time
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = [
    "LiveTensors",
    "Operations",
    "count_operations",
    "count_operations_of_size",
    "count_parameters",
    "machine_memory",
    "memory_of_forward",
    "seconds_of_forward",
]

ROUNDS = 3
MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one forward pass; a multiplication and its addition are two.

    Attributes:
        flop: of convolutions, linear layers and attention.
        attention: of attention's two matrix products alone, which grow with the square of the number of tokens.
    """

    flop: int
    attention: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates: half as many, and what the papers' tables call FLOP."""
        return self.flop // 2

    @property
    def attention_macs(self) -> int:
        """Multiply-accumulates of attention's two products."""
        return self.attention // 2


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters without auxiliary heads, which only training has."""
    return sum(parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("auxiliary."))


@torch.no_grad()
def count_operations(network: nn.Module, images_BCHW: Tensor) -> Operations:
    """Count a forward pass by running it, in evaluation mode; on the meta device nothing is computed.

    The all-MLP decoder counts as it runs, composed; what SETR's decoders run depends on the device, and on meta it is
    the paper's steps.
    """
    # On a CPU attention is an operator of its own, which PyTorch's counter passes over.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _flop_of_attention}
    training = network.training
    try:
        with FlopCounterMode(display=False, custom_mapping=known) as counter, _AttentionCount() as attention:
            network.eval()(images_BCHW)
    finally:
        network.train(training)
    return Operations(int(counter.get_total_flops()), attention.flop)


def count_operations_of_size(network: nn.Module, height: int, width: int) -> Operations:
    """Count a forward pass of one image of this size on the meta device, where it takes neither time nor memory."""
    meta = torch.device("meta")
    return count_operations(copy.deepcopy(network).to(meta), _image(network, height, width, meta))


@torch.inference_mode()
def seconds_of_forward(network: nn.Module, height: int, width: int, device: torch.device) -> float:
    """Return the least time of some forward passes of one image: on a CPU, the time that its threads computed."""
    image = _image(network, height, width, device)
    network = network.eval().to(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    least = float("inf")
    for _ in range(1 + ROUNDS):  # the first may set things up, and so is never the least
        _synchronize(device)
        started = clock()
        network(image)
        _synchronize(device)
        least = min(least, clock() - started)
    return least


@torch.inference_mode()
def memory_of_forward(network: nn.Module, height: int, width: int, device: torch.device) -> int:
    """Return the most bytes that the tensors of one forward of one image held at once, weights not counted."""
    image = _image(network, height, width, device)
    network = network.eval().to(device)
    with LiveTensors() as tensors:
        network(image)
    peak: int = tensors.peak
    return peak


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of live tensors that operations make: at present, and at the peak.

    Weights and inputs, which come from outside, do not count. What an operation needs for itself and gives back before
    it ends is not seen.

    Attributes:
        live: bytes at present.
        peak: the most there have been.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, object] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A storage that is first seen as an input came from outside. A view of it or an in-place result adds none.
        for tensor in tree_leaves((args, kwargs)):
            self._note(tensor, made_here=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._note(tensor, made_here=True)
        return result

    def _note(self, tensor: Any, made_here: bool) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        if (key := storage._cdata) in self._known:
            return
        size = storage.nbytes() if made_here else 0
        self._known[key] = weakref.ref(storage, partial(self._freed, key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int, _: object) -> None:
        del self._known[key]
        self.live -= size


class _AttentionCount(TorchFunctionMode):
    """Adds up attention's products: of torch's function, and of (B, heads, N, C) matrices where that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            scores = query.numel() * key.shape[-2]
            self.flop += 2 * (scores + query.shape[:-1].numel() * value.shape[-2:].numel())
        elif func in MATRIX_PRODUCTS and args[0].ndim == args[1].ndim == 4:
            self.flop += 2 * args[0].numel() * args[1].shape[-1]
        return func(*args, **(kwargs or {}))


def _image(network: nn.Module, height: int, width: int, device: torch.device) -> Tensor:
    """Return an image of zeros with as many bands as the network takes."""
    return torch.zeros(1, getattr(network, "in_channels", 3), height, width, device=device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _flop_of_attention(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))  # type: ignore[no-untyped-call]


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
