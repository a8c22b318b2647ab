"""How unsure a network is of an image, and where the image lies among others: one pass over it and its mirror image.

The entropy is that of the mean of both views' probabilities. It holds both ways of being unsure: no class wins within
a view, or the views disagree. Entropies are means over the pixels of the logits, divided by log K.

Features are the encoder's maps, averaged over the image: all levels, side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.data.sources.array import ArraySource
from terrazzo.data.sources.source import Image
from terrazzo.inference.protocols import WHOLE
from terrazzo.models import Segmenter
from terrazzo.preprocess import Preprocess

__all__ = ["Look", "look_at"]


@dataclass(frozen=True, eq=False)
class Look:
    """What a network makes of an image.

    Attributes:
        entropy: 0 where it is certain of every pixel, 1 where every class is as likely as any other.
        disagreement: share of the pixels that get another class where the image is mirrored.
        features_C: the encoder's maps, averaged over both views.
    """

    entropy: float
    disagreement: float
    features_C: NDArray[np.float32]


def look_at(image: Image, network: Segmenter, preprocess: Preprocess) -> Look:
    """Run a network, in evaluation mode, over an image and its mirror image."""
    (view,) = WHOLE.views(ArraySource(image), preprocess)
    first = next(network.parameters())
    shown_CHW = torch.from_numpy(view.read()).to(first)
    with torch.inference_mode():
        images = torch.stack([shown_CHW, shown_CHW.flip(-1)]).contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = network.encoder(images)
        logits_2KHW: Tensor = network.decoder(maps).float()
        features_C = torch.cat([map_.float().mean(dim=(0, 2, 3)) for map_ in maps])
        log_KHW, mirrored_KHW = logits_2KHW.log_softmax(1)
        mirrored_KHW = mirrored_KHW.flip(-1)
        mean_KHW = torch.logaddexp(log_KHW, mirrored_KHW) - math.log(2)
        entropy = -(mean_KHW.exp() * mean_KHW).sum(0).mean() / math.log(max(len(mean_KHW), 2))
        disagreement = (log_KHW.argmax(0) != mirrored_KHW.argmax(0)).float().mean()
    return Look(max(float(entropy), 0.0), float(disagreement), features_C.cpu().numpy())
