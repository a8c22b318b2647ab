"""Inflates or reduces the encoder's first convolution for another number of image bands.

With more bands than before, the old ones keep their filters and each new one gets their mean. With fewer, each gets the
mean. All are then multiplied by bands before / bands after, so that an image whose bands are all equal gives the same
map as before.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["fitted_bands", "with_bands"]


def with_bands(weight_CBkk: Tensor, bands: int) -> Tensor:
    """Return a convolution's weight for another number of bands."""
    before = weight_CBkk.shape[1]
    if bands == before:
        return weight_CBkk
    mean = weight_CBkk.mean(1, keepdim=True)
    kept = weight_CBkk if bands > before else weight_CBkk[:, :0]
    further = mean.expand(-1, bands - kept.shape[1], -1, -1)
    return torch.cat([kept, further], dim=1) * (before / bands)


def fitted_bands(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], before: int, after: int
) -> dict[str, Tensor]:
    """Return tensors whose convolutions of the images' bands are those of a network for another number of bands.

    Args:
        tensors: by name.
        like: the network's, by the same names.
        before: bands that the tensors are for.
        after: bands that the network is for.
    """

    def reads_bands(name: str) -> bool:
        mine, theirs = like.get(name), tensors[name]
        return (
            mine is not None
            and theirs.ndim == 4
            and mine.shape[:1] + mine.shape[2:] == theirs.shape[:1] + theirs.shape[2:]
            and (theirs.shape[1], mine.shape[1]) == (before, after)
        )

    if before == after:
        return dict(tensors)
    return {name: with_bands(value, after) if reads_bands(name) else value for name, value in tensors.items()}
