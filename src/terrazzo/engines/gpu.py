"""Inference on a CUDA GPU: float16 and CUDA graphs, compared with float32 before they are used.

* float16, if it predicts float32's classes: the first passes run in both precisions, return float32's logits, and
  decide. Logits that overflow later are computed again in float32. bfloat16 is used on request, without a comparison.
* CUDA graphs: for small images, the CPU takes longer to launch hundreds of kernels than the GPU to run them. The second
  pass of a size is captured and compared with an ordinary one; later passes replay it.

This was written without a GPU and has not run on one. So every capture is compared; after one that fails or differs, no
more are made.
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
"""Smallest share of positions with float32's class, in each compared pass, for which float16 is used.

With the shipped model on photos of CamVid it is 99.97% to 99.99% for float16, and 99.85% to 99.9% for bfloat16.
"""

CAPTURED_SIZES = 4
"""Number of sizes whose graphs are kept. Each holds memory for its own feature maps."""

WARMING_PASSES = 3


class GPUNetwork:
    """A network on a GPU, called like the network itself; one pass runs at a time, and logits are float32.

    Args:
        network: in evaluation mode, on its device. Lower precisions work on a copy of the weights that it has now.
        precision: ``fp32``; ``bf16``; or ``auto``, for float16 if it predicts the same classes.
    """

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        self._network = network
        lower = {"auto": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self._lower: Pass | None = None if lower is None else _cast(network, lower)
        self._to_compare = COMPARED_PASSES if precision == "auto" else 0
        self._captured: OrderedDict[torch.Size, Pass | None] = OrderedDict()  # the latest sizes
        self._may_capture = True
        self._one_at_a_time = threading.Lock()  # a graph has one input buffer

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
        """Free the captured passes, each of which holds memory."""
        with self._one_at_a_time:
            self._captured.clear()

    @property
    def is_exact(self) -> bool:
        """Whether passes return float32's logits, as they do until enough of them have been compared."""
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
        others = images_B3HW.flip(-1)  # with the captured images, a replay that ignores its input would pass
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
        run: images to logits; must not synchronise with the GPU.
        images: an example of the shape to capture.

    Returns:
        A function that replays them for other images of this shape; the next replay overwrites its result.

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
    """Return the share of positions at which two (B, K, h, w) logits have the same class; 0 if any overflowed."""
    if not bool(logits.isfinite().all()):
        return 0.0
    return float((logits.argmax(1) == expected.argmax(1)).float().mean())


def _cast(network: nn.Module, dtype: torch.dtype) -> Pass:
    cast = copy.deepcopy(network).to(dtype)
    return lambda images: cast(images.to(dtype))
