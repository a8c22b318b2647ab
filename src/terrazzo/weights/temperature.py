"""The temperature that a model's file carries: by what its logits are divided before they become probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from terrazzo.errors import CheckpointError
from terrazzo.text import show

__all__ = ["HIGHEST", "LOWEST", "read_temperature"]

LOWEST, HIGHEST = 0.01, 100.0


def read_temperature(values: Mapping[str, Any], where: str = "the file") -> float:
    """Return the temperature among a document's values; 1 where there is none.

    Raises:
        CheckpointError: it is not a number from `LOWEST` to `HIGHEST`.
    """
    value = values.get("temperature", 1.0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not LOWEST <= value <= HIGHEST:
        raise CheckpointError(
            f"{where} has the temperature {show(value)}",
            fix="fit it again with `terrazzo calibrate`, or take it out",
            code="checkpoint-temperature",
        )
    return float(value)
