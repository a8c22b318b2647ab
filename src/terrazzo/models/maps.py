"""Which maps of an encoder a decoder reads."""

from __future__ import annotations

from typing import Literal

__all__ = ["Maps"]

Maps = Literal["last", "levels", "one_size", "dilated"]
"""`last`: the last map alone. `levels`: several, finest first, whose strides may differ. `one_size`: several of one
stride. `dilated`: the last map, where the strides of the encoder's last two stages have been turned into dilation."""
