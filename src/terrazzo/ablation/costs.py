"""What a network costs: parameters, counted operations, time and memory.

Operations are counted on the meta device, where nothing is computed: there attention is the two matrix products that it
stands for, which the counter of torch misses in the CPU's own kernel, and SETR's decoders are the paper's steps. The
all-MLP decoder is counted as it runs, composed. The unit is a multiply-accumulate, which the papers' tables call FLOP.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Operations", "count_operations", "count_parameters", "peak_memory", "seconds_of_forward"]

ROUNDS = 3
MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates of one forward of one image.

    Attributes:
        total: of convolutions, linear layers and attention.
        attention: of attention's two products alone, which grow with the square of the number of tokens.
    """

    total: int
    attention: int


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters without auxiliary heads, which only training has."""
    return sum(parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("auxiliary."))


@torch.no_grad()
def count_operations(network: nn.Module, height: int, width: int) -> Operations:
    """Count one forward of an image of this size."""
    on_meta = copy.deepcopy(network).eval().to("meta")
    with FlopCounterMode(display=False) as counter, _AttentionCount() as attention:
        on_meta(torch.empty(1, 3, height, width, device="meta"))
    return Operations(counter.get_total_flops() // 2, attention.products)


@torch.inference_mode()
def seconds_of_forward(network: nn.Module, height: int, width: int, device: torch.device) -> float:
    """Return the least time of some forward passes of one image: on a CPU, the time that its threads computed."""
    image = torch.zeros(1, 3, height, width, device=device)
    network = network.eval().to(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    least = float("inf")
    for _ in range(1 + ROUNDS):  # the first one, which may set things up, is the least of none
        _synchronize(device)
        started = clock()
        network(image)
        _synchronize(device)
        least = min(least, clock() - started)
    return least


@torch.inference_mode()
def peak_memory(network: nn.Module, height: int, width: int, device: torch.device) -> int:
    """Return the most bytes that the tensors of one forward of one image held at once, weights not counted.

    Tensors are followed from one operation to the next. What an operation needs for itself, and gives back, is not
    seen.
    """
    image = torch.zeros(1, 3, height, width, device=device)
    network = network.eval().to(device)
    with _StorageCount() as count:
        network(image)
    peak: int = count.peak
    return peak


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _AttentionCount(TorchFunctionMode):
    """Adds up attention's products: of torch's function, and of (B, heads, N, C) matrices where that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            self.products += query.numel() * key.shape[-2] + query.shape[:-1].numel() * value.shape[-2:].numel()
        elif func in MATRIX_PRODUCTS and args[0].ndim == args[1].ndim == 4:
            self.products += args[0].numel() * args[1].shape[-1]
        return func(*args, **(kwargs or {}))


class _StorageCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of the tensors that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # A view, and a result in place, is memory that is counted already, or the weights' or the image's.
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=False)
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=True)
        return out

    def _note(self, tensor: Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if new else 0
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
