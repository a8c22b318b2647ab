"""Flat recipes, as they were before recipes had sections, read to the same training.

They are still found in files, in run folders, in checkpoints and in the records of models. Their names remain the short
names of the fields in options: `lr` is `optimizer.lr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terrazzo.fields import refuse_missing, refuse_unknown

__all__ = ["PATHS", "is_flat", "sectioned"]

PATHS: Mapping[str, str] = {
    "model": "model.name",
    "encoder": "model.encoder",
    "labels": "data.labels",
    "weights": "model.weights",
    "train_split": "data.train_split",
    "val_split": "data.val_split",
    "split": "data.split",
    "crowds": "data.crowds",
    "holdout": "data.holdout",
    "epochs": "run.epochs",
    "steps": "run.steps",
    "batch_size": "run.batch_size",
    "crop": "augment.crop.size",
    "resize": "augment.resize.box",
    "ratio_range": "augment.resize.ratio_range",
    "cat_max_ratio": "augment.crop.cat_max_ratio",
    "flip": "augment.flip.p",
    "brightness": "augment.photometric.brightness",
    "contrast": "augment.photometric.contrast",
    "saturation": "augment.photometric.saturation",
    "hue": "augment.photometric.hue",
    "gamma": "augment.gamma.p",
    "gray": "augment.gray.p",
    "blur": "augment.blur.p",
    "rotate": "augment.rotate.degrees",
    "preprocess": "data.preprocess",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "decoder_lr_factor": "optimizer.decoder_lr_factor",
    "warmup_steps": "optimizer.warmup_steps",
    "warmup_ratio": "optimizer.warmup_ratio",
    "power": "optimizer.power",
    "min_lr": "optimizer.min_lr",
    "clip_norm": "optimizer.clip_norm",
    "drop_path": "model.drop_path",
    "sync_batchnorm": "run.sync_batchnorm",
    "class_weight_power": "loss.cross_entropy.class_weight_power",
    "normalize_by": "loss.cross_entropy.normalize_by",
    "auxiliary_weight": "model.auxiliary_weight",
    "ema_decay": "run.ema_decay",
    "precision": "run.precision",
    "checkpointing": "run.checkpointing",
    "compile": "run.compile",
    "seed": "run.seed",
    "protocol": "run.protocol",
    "validate_every": "run.validate_every",
    "patience": "run.patience",
}
"""Where each field of a flat recipe is now."""

BEFORE: Mapping[str, Any] = {
    "encoder": None, "steps": None, "optimizer": "adamw", "momentum": 0.9, "sync_batchnorm": True,
    "auxiliary_weight": 0.0, "protocol": "whole", "checkpointing": False, "compile": False, "split": None,
    "crowds": "ignore",
}  # fmt: skip
"""What runs did before flat recipes had a field: the first ones lack all of these."""

FIXED: Mapping[str, Any] = {
    "augment.rotate.p": 0.5, "augment.gamma.bounds": [0.5, 2.0], "augment.blur.sigma": [0.3, 1.5],
    "loss.cross_entropy.weight": 1.0,
}  # fmt: skip
"""What flat recipes could not say."""

ONLY_WHERE_USED = ("rotate", "gamma", "gray", "blur")
"""Augmentations that a flat recipe switches off by 0; they then draw no random numbers."""

ORDER = ("resize", "rotate", "crop", "flip", "photometric", "gamma", "gray", "blur")


def is_flat(values: Mapping[str, Any]) -> bool:
    """Tell whether a recipe's values are from before there were sections."""
    return not {"data", "augment", "loss", "run"} & values.keys()


def sectioned(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the sections of a flat recipe.

    Raises:
        ConfigError: a key is unknown or missing.
    """
    refuse_unknown(values, PATHS, where)
    values = {**BEFORE, **values}
    refuse_missing(values, PATHS, where, fix="a recipe is complete: copy the line from another")
    sections: dict[str, Any] = {}
    for path, value in [*((PATHS[name], values[name]) for name in PATHS), *FIXED.items()]:
        section, *inner, field = path.split(".")
        place = sections.setdefault(section, {})
        for row in inner:
            place = place.setdefault(row, {"name": row})
        place[field] = value
    unused = [name for name in ONLY_WHERE_USED if not values[name]]
    sections["augment"] = [sections["augment"][row] for row in ORDER if row not in unused]
    sections["loss"] = list(sections["loss"].values())
    return sections
