"""Which maps of an encoder a decoder reads."""

from __future__ import annotations

from typing import Literal

__all__ = ["Maps"]

Maps = Literal["last", "levels", "one_size", "dilated"]
"""`last`: the last map alone. `levels`: several, finest first, whose strides may differ. `one_size`: several of one
stride. `dilated`: the last map of an encoder whose last two stages have dilation in place of strides."""
