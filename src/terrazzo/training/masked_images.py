"""Masked image modelling (SimMIM, Xie et al. 2022, arXiv 2111.09886): an encoder learns to fill in hidden patches.

Hidden pixels are given a learned value, one linear layer reads the pixels off the encoder's last map, and the loss is
the mean distance (L1) on what was hidden. The value is put in before the patch embedding rather than after it, so that
it works for any encoder: MiT's windows overlap, and its tokens of four pixels are smaller than a hidden patch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from terrazzo.training.augment import Augmentation
from terrazzo.training.augment.step import Image, Mask

__all__ = ["HIDDEN", "HidingAugmentation", "MaskedImageModel", "hidden_patches"]

HIDDEN = 1
"""In the masks of the loader; 0 is what the network sees."""


class HidingAugmentation:
    """An augmentation for a `TrainLoader` whose mask says which pixels of the window are hidden.

    Args:
        steps: what a photo goes through before.
        crop: (height, width) of the windows.
        patch: side of the patches that are hidden.
        ratio: share of them.
    """

    def __init__(self, steps: Augmentation, crop: tuple[int, int], patch: int, ratio: float) -> None:
        self.steps, self.crop, self.patch, self.ratio = steps, crop, patch, ratio

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[Image, Mask]:
        image, _ = self.steps(index, rng)
        height, width = image.shape[:2]  # less than the crop where the photo is smaller: the rest is ignored
        return image, hidden_patches(rng, self.crop, self.patch, self.ratio)[:height, :width]


def hidden_patches(rng: np.random.Generator, size: tuple[int, int], patch: int, ratio: float) -> NDArray[np.uint8]:
    """Draw which pixels of a window are hidden, (H, W) of 0 and 1, in whole patches; at least one is, and not all."""
    rows, columns = (-(-side // patch) for side in size)
    count = min(max(round(ratio * rows * columns), 1), max(rows * columns - 1, 1))
    grid = np.zeros(rows * columns, np.uint8)
    grid[rng.choice(rows * columns, count, replace=False)] = HIDDEN
    return np.kron(grid.reshape(rows, columns), np.ones((patch, patch), np.uint8))[: size[0], : size[1]]


class MaskedImageModel(nn.Module):
    """An encoder, the value of hidden pixels, and the linear layer that fills them in.

    Args:
        encoder: whose last map is read.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder: nn.Module = encoder
        self.stride: int = encoder.strides[-1]
        self.hidden = nn.Parameter(torch.zeros(1, encoder.in_channels, 1, 1))
        self.decoder = nn.Conv2d(encoder.channels[-1], encoder.in_channels * self.stride**2, 1)

    def forward(self, images_BCHW: Tensor, masks_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the pixels that the network would put everywhere."""
        hidden_B1HW = (masks_BHW == HIDDEN)[:, None]
        seen = torch.where(hidden_B1HW, self.hidden.to(images_BCHW.dtype), images_BCHW)
        maps = self.encoder(seen.contiguous(memory_format=torch.channels_last))
        pixels = nn.functional.pixel_shuffle(self.decoder(maps[-1]), self.stride)
        pixels = pixels[..., : images_BCHW.shape[2], : images_BCHW.shape[3]].float()
        distance = (pixels - images_BCHW).abs().mean(1, keepdim=True)
        return (distance * hidden_B1HW).sum() / hidden_B1HW.sum().clamp(min=1), pixels
