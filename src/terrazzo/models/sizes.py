"""Types of the fields of encoders and decoders, with upper bounds, so that a config.json cannot fill the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from terrazzo.fields import Within

__all__ = ["LARGEST", "LIMITS", "Depth", "Depths", "Size", "Sizes"]

LARGEST = 65_536
"""No width, side, stride or band count is larger."""
LONGEST = 64
"""No list is longer."""
MOST_BLOCKS = 512
"""No encoder has more blocks: the deepest that are published have about a hundred."""

LIMITS = (Within(at_least=-LARGEST, at_most=LARGEST), Within(items=LONGEST))
"""Bounds of every field, besides those of its annotation."""

Size: TypeAlias = Annotated[int, Within(at_least=1, at_most=LARGEST)]
Sizes: TypeAlias = Annotated[Sequence[int], Within(at_least=1, at_most=LARGEST)]
Depth: TypeAlias = Annotated[int, Within(at_least=1, at_most=MOST_BLOCKS)]
"""Blocks of an encoder."""
Depths: TypeAlias = Annotated[Sequence[int], Within(at_least=0, total=(1, MOST_BLOCKS))]
"""Blocks of each of an encoder's stages."""
