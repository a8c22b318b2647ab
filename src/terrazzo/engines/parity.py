"""The parity check: a file's outputs against those of the PyTorch network that it was made from, on the same images.

Exported files and kept conversions are used only after they have passed it. The images are noise, where a network is
least sure of itself, so that a mask has as many near ties as it can have; among their sizes are odd ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models.segmenter import Segmenter
from terrazzo.text import printable, said_by
from terrazzo.weights.exported import ExportedDescription

__all__ = ["FEW_INPUTS", "INPUTS", "Comparison", "Parity", "check_parity"]

SIZES = ((64, 64), (97, 131), (96, 160), (129, 65), (33, 47))
INPUTS = tuple((batch, *size) for size in SIZES for batch in (1, 3))
"""Batch, height and width of what an exported file is compared on."""

FEW_INPUTS = ((1, 97, 131), (2, 65, 47))
"""Of what a conversion is compared on, which its user waits for."""

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
    network: Segmenter,
    run: Callable[[NDArray[np.float32]], NDArray[Any]],
    description: ExportedDescription,
    inputs: Sequence[tuple[int, int, int]] = INPUTS,
    *,
    what: str = "the exported file",
    fix: str = "choose another format, or run the model itself (--engine torch)",
    code: str = "export-parity",
) -> Parity:
    """Run a file and its model on the same images and compare what they give.

    Args:
        network: the model, in float32 on the CPU; it is put into evaluation mode.
        run: an engine that has loaded the file.
        description: what the file says about itself.
        inputs: (batch, height, width) of the images; sides are raised to the least that the file takes.
        what: the file, for messages.
        fix: what its user can do instead.
        code: of the error.

    Raises:
        CheckpointError: the outputs differ by more than rounding, or the file does not run.
        ConfigError: memory ran out (code "engine-memory").
    """
    generator = np.random.default_rng(0)
    comparisons = []
    for batch, *size in inputs:
        height, width = (max(side, description.minimum_side) for side in size)
        images = generator.standard_normal((batch, network.in_channels, height, width), dtype=np.float32)
        try:
            comparisons.append(_compare(network, run, images, description.output))
        except Exception as error:  # whatever a runtime raises for a graph that fails at some sizes
            if is_out_of_memory(error):
                raise ConfigError(
                    f"there is not enough memory to compare {what} with its model",
                    fix="use a machine with more memory",
                    code="engine-memory",
                ) from error
            raise CheckpointError(
                f"{what} does not run on images of {height} x {width} and was not kept: {said_by(error)}",
                fix=fix,
                code=code,
            ) from error
    parity = Parity(tuple(comparisons), description.precision)
    if not parity.passed:
        raise CheckpointError(
            f"{what} does not compute what {printable(description.name) or description.architecture} does and was not "
            f"kept: logits differ by up to {max(c.difference or 0.0 for c in comparisons):.1e}, "
            f"{1 - min(c.equal for c in comparisons):.2%} of mask pixels differ",
            fix=f"{fix}, and report this with the versions of torch, onnxruntime and openvino",
            code=code,
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
