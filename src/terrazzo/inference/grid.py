"""The mask of an image, and the probabilities of a regular grid of its pixels: what evaluation looks at.

Probabilities of all pixels would take several times as long as the network of an image with 150 classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from terrazzo.inference.scores import Block, Classes, Floats, Size

__all__ = ["mask_and_grid"]


def mask_and_grid(blocks: Iterable[Block], size: Size, step: int, temperature: float = 1.0) -> tuple[Classes, Floats]:
    """Decide an image's pixels from one view of it, with the probabilities of some.

    Args:
        blocks: the scores of the image; one alone, for all of it, will do.
        size: (height, width) of the image.
        step: from one row of the grid to the next, and from one pixel to the next; the first is the image's first.
        temperature: that logits are divided by for probabilities.

    Returns:
        The mask, and (K, h, w) probabilities.

    Raises:
        CheckpointError: the logits hold NaN or infinity (code "logits-not-finite").
    """
    height, width = size
    mask_HW: Classes | None = None
    grid_Khw: Floats | None = None
    for block in blocks:
        scores, top, left = block.scores, block.top, block.left
        part_HW = scores.mask()
        if mask_HW is None or grid_Khw is None:
            mask_HW = part_HW if part_HW.shape == size else np.empty(size, part_HW.dtype)
            grid_Khw = np.empty((scores.shape[0], -(-height // step), -(-width // step)), np.float32)
        if mask_HW is not part_HW:
            mask_HW[top : top + part_HW.shape[0], left : left + part_HW.shape[1]] = part_HW
        first_row, first_column = -top % step, -left % step  # of the grid, in the block
        if first_row < part_HW.shape[0] and first_column < part_HW.shape[1]:
            part_Khw = scores.every(step, first_row, first_column).probabilities(temperature)
            row, column = (top + first_row) // step, (left + first_column) // step
            grid_Khw[:, row : row + part_Khw.shape[1], column : column + part_Khw.shape[2]] = part_Khw
    assert mask_HW is not None and grid_Khw is not None
    return mask_HW, grid_Khw
