"""An array in memory as a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from terrazzo.data.sources.source import Image

__all__ = ["ArraySource"]


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An (H, W, C) array; its windows are views of it."""

    array_HWC: Image
    name: str = "the image"

    @property
    def size(self) -> tuple[int, int]:
        height, width, _ = self.array_HWC.shape
        return height, width

    @property
    def bands(self) -> tuple[int, ...]:
        return tuple(range(1, self.array_HWC.shape[2] + 1))

    @property
    def has_windows(self) -> bool:
        return True

    @property
    def about(self) -> Mapping[str, Any]:
        return {}

    def read(self) -> Image:
        return self.array_HWC

    def read_window(self, rows: slice, columns: slice) -> Image:
        return self.array_HWC[rows, columns]
