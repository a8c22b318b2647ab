"""A network on a GPU: float32's classes in less time.

* float16, where it finds the classes that float32 finds: the first passes are computed in both, give float32's logits,
  and decide. Logits that overflow later are computed again in float32. bfloat16 on request, without a question.
* CUDA graphs: small photos keep the processor longer with launching hundreds of kernels than the GPU with running them.
  The second pass of a size is captured, and compared with what it should give; later ones replay it.

This was written without a GPU at hand and has not run on one, which is why nothing here is taken on trust: a capture
that fails or gives something else is not used, and none is tried again.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from terrazzo.engines.engine import Precision

__all__ = ["GPUNetwork", "capture", "same_classes"]

Pass: TypeAlias = Callable[[Tensor], Tensor]

COMPARED_PASSES = 4
"""Passes that are computed in both precisions before float16 is trusted."""

LEAST_SAME = 0.999
"""Least share of positions at which float16 must find float32's class, in each of them.

float16 finds 99.97% to 99.99% of them in photos of CamVid with the shipped model, bfloat16 99.85% to 99.9%.
"""

CAPTURED_SIZES = 4
"""How many sizes have a graph at once. Each holds memory for feature maps of its own."""

WARMING_PASSES = 3


class GPUNetwork:
    """Called like the network it is made of, from any thread, one pass at a time; it returns float32.

    Args:
        network: in evaluation mode, on its device. Lower precisions work on a copy of the weights that it has now.
        precision: ``fp32``; ``bf16``; or ``auto``, for float16 where that finds the same classes.
    """

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        self._network = network
        lower = {"auto": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self._lower: Pass | None = None if lower is None else _cast(network, lower)
        self._to_compare = COMPARED_PASSES if precision == "auto" else 0
        self._captured: OrderedDict[torch.Size, Pass | None] = OrderedDict()  # the latest sizes
        self._may_capture = True
        self._one_at_a_time = threading.Lock()  # a graph has one place for its images

    @torch.inference_mode()
    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """Return (B, K, h, w) float32 logits."""
        with self._one_at_a_time:
            if self._to_compare:
                return self._compared(images_B3HW)
            logits = self._repeated(images_B3HW).to(torch.float32, copy=True)  # the next replay writes there
            if self._lower is not None and not bool(logits.isfinite().all()):
                return self._exact(images_B3HW)
            return logits

    def forget_sizes(self) -> None:
        """Let go of the captured passes, each of which holds memory."""
        with self._one_at_a_time:
            self._captured.clear()

    @property
    def is_exact(self) -> bool:
        """Whether passes give float32's logits, as they do until enough of them have been compared."""
        return self._lower is None or self._to_compare > 0

    def _exact(self, images_B3HW: Tensor) -> Tensor:
        # PyTorch would let convolutions round float32 to TensorFloat-32, which keeps no more digits than float16.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits: Tensor = self._network(images_B3HW)
        return logits

    def _compared(self, images_B3HW: Tensor) -> Tensor:
        assert self._lower is not None
        expected = self._exact(images_B3HW)
        self._to_compare -= 1
        if same_classes(self._lower(images_B3HW), expected) < LEAST_SAME:
            self._lower, self._to_compare = None, 0
        return expected

    def _repeated(self, images_B3HW: Tensor) -> Tensor:
        run, shape = self._lower or self._exact, images_B3HW.shape
        again = shape in self._captured
        replay = self._captured.pop(shape, None)
        self._captured[shape] = replay
        if len(self._captured) > CAPTURED_SIZES:
            self._captured.popitem(last=False)
        if replay is not None:
            return replay(images_B3HW)
        logits = run(images_B3HW)
        if again and self._may_capture:
            self._captured[shape] = self._checked_capture(run, images_B3HW)
        return logits

    def _checked_capture(self, run: Pass, images_B3HW: Tensor) -> Pass | None:
        others = images_B3HW.flip(-1)  # with its own images, a replay that reads none would pass
        try:
            replay = capture(run, images_B3HW)
            same = same_classes(replay(others), run(others))
        except RuntimeError:  # CUDA cannot capture this network, or has no memory for it
            same = 0.0
        if same < LEAST_SAME:
            self._may_capture = False
            self._captured.clear()
            return None
        return replay


def capture(run: Pass, images: Tensor) -> Pass:
    """Record the kernels of a pass as a CUDA graph.

    Args:
        run: images to logits; must not make the processor wait for the GPU.
        images: of the shape that will come.

    Returns:
        What replays them for other images of this shape. Its result is overwritten by the next replay.

    Raises:
        RuntimeError: the pass cannot be captured.
    """
    fixed = images.clone()
    stream = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(stream):  # libraries set themselves up and choose their kernels now
        for _ in range(WARMING_PASSES):
            run(fixed)
    torch.cuda.current_stream(images.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Threads that decode photos and copy them to the GPU meanwhile do not disturb this one's capture.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        logits = run(fixed)

    def replay(images: Tensor) -> Tensor:
        fixed.copy_(images)
        graph.replay()
        return logits

    return replay


def same_classes(logits: Tensor, expected: Tensor) -> float:
    """Return the share of positions at which two (B, K, h, w) logits name the same class; 0 for any that overflowed."""
    if not bool(logits.isfinite().all()):
        return 0.0
    return float((logits.argmax(1) == expected.argmax(1)).float().mean())


def _cast(network: nn.Module, dtype: torch.dtype) -> Pass:
    cast = copy.deepcopy(network).to(dtype)
    return lambda images: cast(images.to(dtype))
