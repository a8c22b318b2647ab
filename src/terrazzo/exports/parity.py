"""Does an exported file compute what its model computes? Asked of every file before it takes its place.

Five sizes, odd ones and rectangles among them, each with one image and with three. The images are noise, where a
network is least sure of itself, so that a mask has as many near ties as it can have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from terrazzo.errors import CheckpointError
from terrazzo.models import Segmenter
from terrazzo.text import said_by
from terrazzo.weights.exported import ExportedDescription

__all__ = ["SIZES", "Comparison", "Parity", "check_parity"]

SIZES = ((64, 64), (97, 131), (96, 160), (129, 65), (33, 47))
BATCHES = (1, 3)
LOGIT_TOLERANCE = 1e-4
"""Of the largest logit, or of 1 if that is less: the rounding of float32 through the deepest of the networks."""

HALF_AGREEMENT = 0.99
"""Least share of equal mask pixels, on noise, where the weights are rounded to half precision."""


@dataclass(frozen=True)
class Comparison:
    """One input, through the file and through the model.

    Attributes:
        batch: B.
        size: (H, W).
        difference: largest difference of a logit, divided by the largest logit where that is above 1. None where the
            file gives masks.
        equal: share of mask pixels, at the input's size, that have the same class.
        wrong: share of those that differ and are not ties: where the model prefers its class by more than twice the
            tolerance.
    """

    batch: int
    size: tuple[int, int]
    difference: float | None
    equal: float
    wrong: float


@dataclass(frozen=True)
class Parity:
    """All comparisons of one file."""

    comparisons: tuple[Comparison, ...]
    precision: str

    @property
    def passed(self) -> bool:
        """Whether the file may be used for its model."""
        if self.precision != "fp32":
            return all(c.equal >= HALF_AGREEMENT for c in self.comparisons)
        return all(c.wrong == 0 and (c.difference or 0.0) <= LOGIT_TOLERANCE for c in self.comparisons)

    def table(self) -> str:
        """Return the comparisons as lines of text."""
        lines = [f"{'batch':>5}  {'height x width':>14}  {'logits differ by':>16}  {'equal mask pixels':>17}"]
        for c in self.comparisons:
            difference = "-" if c.difference is None else f"{c.difference:.1e}"
            size = f"{c.size[0]} x {c.size[1]}"
            lines.append(f"{c.batch:>5}  {size:>14}  {difference:>16}  {c.equal:>16.3%} ")
        return "\n".join(line.rstrip() for line in lines)


def check_parity(
    network: Segmenter, run: Callable[[NDArray[np.float32]], NDArray[Any]], description: ExportedDescription
) -> Parity:
    """Run a file and its model on the same images.

    Args:
        network: the model.
        run: an engine that has loaded the file.
        description: what the file says about itself.

    Raises:
        CheckpointError: they disagree.
    """
    generator = np.random.default_rng(0)
    comparisons = []
    for size in SIZES:
        height, width = (max(side, description.minimum_side) for side in size)
        for batch in BATCHES:
            images = generator.standard_normal((batch, 3, height, width), dtype=np.float32)
            try:
                comparisons.append(_compare(network, run, images, description.output))
            except Exception as error:  # whatever a runtime raises for a graph that fails at some sizes
                raise CheckpointError(
                    f"the exported file does not run on images of {height} x {width} and was removed: {said_by(error)}",
                    fix="choose another format, or the engine torch",
                    code="export-parity",
                ) from error
    parity = Parity(tuple(comparisons), description.precision)
    if not parity.passed:
        raise CheckpointError(
            f"the exported file does not compute what {description.name or description.architecture} does and was "
            f"removed: logits differ by up to {max(c.difference or 0.0 for c in comparisons):.1e}, "
            f"{1 - min(c.equal for c in comparisons):.2%} of mask pixels differ",
            fix="choose another format, and report this with the versions of torch, onnxruntime and openvino",
            code="export-parity",
        )
    return parity


def _compare(
    network: Segmenter, run: Callable[[NDArray[np.float32]], NDArray[Any]], images: NDArray[np.float32], output: str
) -> Comparison:
    batch, _, *size = images.shape
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(images))
        upsampled = F.interpolate(expected, size, mode="bilinear", align_corners=False)
    result = torch.from_numpy(np.array(run(images)))
    scale = max(float(expected.abs().max()), 1.0)
    difference = None
    if output == "logits":
        difference = float((result - expected).abs().max()) / scale if result.shape == expected.shape else np.inf
        # NaN compares as neither more nor less, and must not pass.
        difference = np.inf if np.isnan(difference) else difference
        masks = F.interpolate(result, size, mode="bilinear", align_corners=False).argmax(1)
    else:
        masks = result.long()
    best, second = upsampled.topk(2, dim=1).values.unbind(1)
    differs = masks != upsampled.argmax(1)
    wrong = differs & (best - second > 2 * LOGIT_TOLERANCE * scale)
    share = float(differs.float().mean())
    return Comparison(batch, (size[0], size[1]), difference, 1 - share, float(wrong.float().mean()))
