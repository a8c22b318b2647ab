"""The global random generators of a process: seeding them, keeping their states, and going back to them.

Weights, dropout and drop path draw from PyTorch's; encoders from elsewhere may draw from Python's and NumPy's. The
loaders carry generators of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["generator_states", "seed_everything", "set_generators"]


def seed_everything(seed: int) -> None:
    """Seed all global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of this process's generators, in values that a checkpoint can hold.

    Args:
        device: where the run computes: of GPUs, only its own generator is kept.
    """
    numpy: Any = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Set this process's generators to states that `generator_states` returned; those that are None stay as they are.

    Raises:
        ValueError, TypeError, KeyError, RuntimeError: they are something else.
    """
    if states["python"] is not None:
        random.setstate(states["python"])
    if states["numpy"] is not None:
        numpy = states["numpy"]
        np.random.set_state({**numpy, "state": {**numpy["state"], "key": np.array(numpy["state"]["key"], np.uint32)}})
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
