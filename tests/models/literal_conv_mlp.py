"""mmsegmentation's SegFormer decoder step by step, with the wide tensor that ours avoids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.models.decoders.conv_mlp import ConvMLPDecoder


def literal_conv_mlp(decoder: ConvMLPDecoder, features: Sequence[Tensor]) -> Tensor:
    """1 x 1 convolution, BatchNorm, ReLU per level; resize; concatenate finest first; fuse; classify."""
    size = features[0].shape[-2:]
    levels = []
    for x_BCHW, projection, norm in zip(features, decoder.projections, decoder.projection_norms, strict=True):
        x_BCHW = F.relu(norm(F.conv2d(x_BCHW, projection.weight[:, :, None, None])))
        levels.append(F.interpolate(x_BCHW, size, mode="bilinear", align_corners=False))
    fused = F.conv2d(torch.cat(levels, dim=1), decoder.fuse.weight[:, :, None, None])
    hidden = decoder.classifier.dropout(F.relu(decoder.norm(fused)))
    return F.conv2d(hidden, decoder.classifier.weight[:, :, None, None], decoder.classifier.bias)
