"""PVT's names in the files of its authors (github.com/whai362/PVT): ImageNet weights, for an encoder to start from.

Positions are a sequence (1, N, C) for each stage. The last stage's begin with that of the class token, which only the
classifier uses: both are left out.
"""

from __future__ import annotations

import math
from itertools import count

from torch import Tensor

from terrazzo.models.encoders.pvt import SIZES
from terrazzo.models.names import find_spec
from terrazzo.models.spec import ModelSpec
from terrazzo.weights.remap.layout import Layout, Place, Shapes

__all__ = ["LAYOUTS", "OFFICIAL", "variant_in"]

BLOCK = "block{I}.{j}"
PLACES = {
    "encoder.stages.{i}.patch_embed.proj": Place("patch_embed{I}.proj"),
    "encoder.stages.{i}.patch_embed.norm": Place("patch_embed{I}.norm"),
    "encoder.stages.{i}.pos_embed": Place("pos_embed{I}", tokens=True),
    "encoder.stages.{i}.blocks.{j}.norm1": Place(f"{BLOCK}.norm1"),
    "encoder.stages.{i}.blocks.{j}.norm2": Place(f"{BLOCK}.norm2"),
    "encoder.stages.{i}.blocks.{j}.attn.q": Place(f"{BLOCK}.attn.q"),
    "encoder.stages.{i}.blocks.{j}.attn.kv": Place(f"{BLOCK}.attn.kv"),
    "encoder.stages.{i}.blocks.{j}.attn.proj": Place(f"{BLOCK}.attn.proj"),
    "encoder.stages.{i}.blocks.{j}.attn.sr.conv": Place(f"{BLOCK}.attn.sr"),
    "encoder.stages.{i}.blocks.{j}.attn.sr.norm": Place(f"{BLOCK}.attn.norm"),
    "encoder.stages.{i}.blocks.{j}.ffn.fc1": Place(f"{BLOCK}.mlp.fc1"),
    "encoder.stages.{i}.blocks.{j}.ffn.fc2": Place(f"{BLOCK}.mlp.fc2"),
}


def _without_class_token(tensors: dict[str, Tensor]) -> None:
    """Take the class token's position, the first, out of the last stage's."""
    last = f"pos_embed{max((number for number in range(1, 9) if f'pos_embed{number}' in tensors), default=0)}"
    positions = tensors.get(last)
    if positions is not None and positions.ndim == 3 and _side(positions.shape[1]) is None:
        tensors[last] = positions[:, 1:]


OFFICIAL = Layout(
    "PVT encoder, its authors' names",
    "pos_embed1",
    PLACES,
    dropped=("cls_token", "norm.*", "head.*"),
    encoder_only=True,
    prepare=_without_class_token,
    licence="Apache-2.0 (that of the PVT repository)",
)

LAYOUTS = (OFFICIAL,)


def variant_in(layout: Layout, shapes: Shapes) -> tuple[ModelSpec | None, str]:
    """Return a model that has a file's encoder, under Semantic FPN as in the paper, and a description."""
    depths = []
    for stage in count(1):
        blocks = next(j for j in count() if f"block{stage}.{j}.norm1.weight" not in shapes)
        if not blocks:
            break
        depths.append(blocks)
    channels = [shapes.get(f"patch_embed{stage}.proj.weight", (0,))[0] for stage in range(1, len(depths) + 1)]
    described = f"stages of {tuple(channels)} channels and {tuple(depths)} blocks"
    side = _side(shapes.get("pos_embed1", (0, 0))[1])
    for name, fields in SIZES.items():
        spec = find_spec(f"{name}+fpn")
        if side and fields["depths"] == tuple(depths) and spec.encoder.fields["embed_dims"] == tuple(channels):
            stride = spec.encoder.fields["patch_strides"][0]
            return spec.adapted(2, image_size=(stride * side, stride * side)), described
    return None, described


def _side(tokens: int) -> int | None:
    """Return the side of a square grid; None where the tokens fill none."""
    side = math.isqrt(max(tokens, 0))
    return side if side and side * side == tokens else None
