"""Where a model comes from: what its config.json says about the run that made it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

import terrazzo
from terrazzo.data.dataset import Dataset
from terrazzo.profiling.machine import processor_name
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.recipe import Recipe

__all__ = ["machine_name", "pretraining_record", "training_record"]


def training_record(
    origin: Mapping[str, Any], recipe: Recipe, train: Dataset, val: Dataset, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Return what a model's config.json says about the run that made it.

    Args:
        origin: licence and origin of what it started from.
        recipe: how it was trained.
        train: what it learnt from.
        val: what it was validated on.
        seconds: how long it took.
        device: what it ran on.
    """
    return {
        **origin,
        "data": train.root.resolve().name,
        "train_photos": len(train),
        "val_photos": len(val),
        **_circumstances(seconds, device),
        "recipe": recipe.to_dict(),
    }


def pretraining_record(
    photos: Mapping[str, Any], recipe: PretrainRecipe, step: int, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Return what an encoder's config.json says about the run that made it.

    Args:
        photos: what it learnt from.
        recipe: how it was trained.
        step: steps so far.
        seconds: how long they took.
        device: what it ran on.
    """
    return {**photos, "step": step, **_circumstances(seconds, device), "pretraining": recipe.to_dict()}


def _circumstances(seconds: float, device: torch.device) -> dict[str, Any]:
    return {
        "hours": round(seconds / 3600, 2),
        "machine": machine_name(device),
        "versions": {"terrazzo": terrazzo.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def machine_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor_name()}, {threads} thread{'' if threads == 1 else 's'}"
