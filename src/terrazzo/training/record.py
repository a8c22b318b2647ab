"""Where a model comes from: what its config.json says about the run that made it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import terrazzo

if TYPE_CHECKING:
    from terrazzo.training.trainer import Trainer

__all__ = ["machine_name", "training_record"]


def training_record(trainer: Trainer) -> dict[str, Any]:
    """Return what a model's config.json says about where it comes from."""
    return {
        **trainer.origin,
        "data": trainer.loader.dataset.root.resolve().name,
        "train_photos": len(trainer.loader.dataset),
        "val_photos": len(trainer.val),
        "hours": round(trainer.seconds / 3600, 2),
        "machine": machine_name(trainer.ranks.device),
        "versions": {"terrazzo": terrazzo.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "recipe": trainer.recipe.to_dict(),
    }


def machine_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'' if threads == 1 else 's'}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
