"""Types of the fields of encoders and decoders, with upper bounds, so that a config.json cannot fill the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from terrazzo.fields import Within

__all__ = ["LARGEST", "LIMITS", "Depth", "Depths", "Size", "Sizes"]

LARGEST = 65_536
"""Upper bound of widths, sides, strides and numbers of bands."""
LONGEST = 64
"""Upper bound of the length of a list."""
MOST_BLOCKS = 512
"""Upper bound of an encoder's blocks; the deepest published ones have about a hundred."""

LIMITS = (Within(at_least=-LARGEST, at_most=LARGEST), Within(items=LONGEST))
"""Bounds of every field, besides those of its annotation."""

Size: TypeAlias = Annotated[int, Within(at_least=1, at_most=LARGEST)]
Sizes: TypeAlias = Annotated[Sequence[int], Within(at_least=1, at_most=LARGEST)]
Depth: TypeAlias = Annotated[int, Within(at_least=1, at_most=MOST_BLOCKS)]
"""Blocks of an encoder."""
Depths: TypeAlias = Annotated[Sequence[int], Within(at_least=0, total=(1, MOST_BLOCKS))]
"""Blocks of each of an encoder's stages."""
