"""Recipe: everything that decides what a training run learns, in one flat record.

A recipe file holds every field, so that it reads on its own; nothing is inherited. Where a run takes place (data
folder, output folder, loader processes, device) is not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from terrazzo.config import read_yaml_mapping, refuse_unknown_keys
from terrazzo.data.rules import Crowds, DataRules
from terrazzo.data.splits import SplitRule
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.inference.protocols import find_protocol
from terrazzo.models import refuse_unknown_model
from terrazzo.models.encoders.backbones import weights_folder
from terrazzo.preprocess import Preprocess
from terrazzo.weights.processor import normalisation, read_processor

__all__ = ["BEFORE", "Recipe", "automatic_recipe"]

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["auto", "fp32", "bf16"]
Normalization = Literal["valid", "all"]

BEFORE: Mapping[str, Any] = {"checkpointing": False, "compile": False, "split": None, "crowds": "ignore"}
"""What runs did before a field was there: their recipes and checkpoints lack it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete training recipe.

    Attributes:
        model: architecture name.
        encoder: a backbone of Hugging Face transformers, as `create_model` takes it, for a `model` that is a decoder
            alone; None for all others.
        labels: name of a bundled class list, or None for the data set's own classes.
        weights: what to start from, or None for random weights: a model, or a file that the recipe's reader has to
            bring, such as an encoder trained on ImageNet. Where it is not found, the run does not start.
        train_split: split to learn from.
        val_split: split that chooses the best epoch.
        split: splits photos off to validate on, where the data set has no split for that: ``val``, the share;
            ``group_by``, a regular expression for what stays together; ``seed``. None for the data set's own splits.
        crowds: what ``iscrowd: 1`` means in a COCO document: ``ignore``, as COCO means it, or ``objects``.
        holdout: photos of the training split whose name matches one of these patterns (such as ``0001TP*``) are not
            learnt from, and take the place of the validation split.
        epochs: passes over the training photos; None where `steps` is given.
        steps: optimiser steps (the papers' iterations); the last pass is cut short. None where `epochs` is given.
        batch_size: photos per step, over all ranks.
        crop: (height, width) of the training windows.
        resize: (long, short) side of the box that photos are scaled into before cropping; None is each photo's own
            size.
        ratio_range: bounds of the random factor on that box.
        cat_max_ratio: most of a window that one class may fill (papers: 0.75; 1 switches it off).
        flip: probability of mirroring.
        brightness: largest shift, 0-255 scale (papers: 32).
        contrast: bounds of the factor (papers: 0.5, 1.5).
        saturation: bounds of the factor (papers: 0.5, 1.5).
        hue: largest turn in half degrees (papers: 18).
        gamma: probability of a random tone curve.
        gray: probability of dropping the colour.
        blur: probability of a Gaussian blur.
        rotate: largest turn in degrees, tried on half of the photos; 0 switches it off.
        preprocess: resize rule and normalisation of validation and of everything after training.
        optimizer: ``adamw`` or ``sgd``.
        lr: base learning rate.
        momentum: SGD's, or AdamW's first beta (its second is 0.999).
        weight_decay: none on the encoder's norms.
        decoder_lr_factor: the rate of the decoder and the auxiliary heads over the encoder's.
        warmup_steps: linear warm-up.
        warmup_ratio: factor at the first step.
        power: of the poly decay.
        min_lr: where the decay ends.
        clip_norm: largest gradient norm, or None.
        drop_path: stochastic depth of the last encoder block, where the encoder has it.
        sync_batchnorm: take BatchNorm's statistics over the photos of all ranks; only GPUs can.
        class_weight_power: classes weigh frequency ** -power; 0 weighs pixels alike.
        normalize_by: divide the loss by the labelled pixels (``valid``) or by all of them (``all``, the papers' code).
        auxiliary_weight: what the loss of each auxiliary head counts beside the main one; 0 trains without the heads.
        ema_decay: of the weight average that is validated and kept; None keeps the weights themselves.
        precision: ``bf16`` autocast, ``fp32``, or ``auto``: bf16 where the hardware multiplies it natively.
        checkpointing: keep only what goes into each encoder block for the backward pass, and compute the rest again:
            less memory, a longer step, the same result.
        compile: have PyTorch compile the network: on GPUs a shorter step, after some minutes.
        seed: of weights, order and augmentation.
        protocol: name of how photos are shown to the network in validation, such as ``whole``.
        validate_every: epochs from one validation to the next.
        patience: validations without a better mIoU before the run stops early, or None.
    """

    model: str
    encoder: str | None
    labels: str | None
    weights: str | None
    train_split: str
    val_split: str
    split: SplitRule | None
    crowds: Crowds
    holdout: tuple[str, ...]
    epochs: int | None
    steps: int | None
    batch_size: int
    crop: tuple[int, int]
    resize: tuple[int, int] | None
    ratio_range: tuple[float, float]
    cat_max_ratio: float
    flip: float
    brightness: float
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    hue: int
    gamma: float
    gray: float
    blur: float
    rotate: float
    preprocess: Preprocess
    optimizer: Optimizer
    lr: float
    momentum: float
    weight_decay: float
    decoder_lr_factor: float
    warmup_steps: int
    warmup_ratio: float
    power: float
    min_lr: float
    clip_norm: float | None
    drop_path: float
    sync_batchnorm: bool
    class_weight_power: float
    normalize_by: Normalization
    auxiliary_weight: float
    ema_decay: float | None
    precision: Precision
    checkpointing: bool
    compile: bool
    seed: int
    protocol: str
    validate_every: int
    patience: int | None

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            self._require(name, _is(getattr(self, name), kind), _described(kind))
        for name in ("epochs", "steps", "batch_size", "validate_every"):
            self._require(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        self._require(
            "steps", (self.epochs is None) != (self.steps is None), "given where epochs is null, and only there"
        )
        rates = ("lr", "weight_decay", "decoder_lr_factor", "warmup_steps", "power", "min_lr")
        losses = ("class_weight_power", "auxiliary_weight")
        for name in (*rates, *losses, "rotate", "brightness", "hue", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("flip", "gamma", "gray", "blur", "cat_max_ratio", "warmup_ratio"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("crop", "resize", "ratio_range", "contrast", "saturation"):
            pair = getattr(self, name)
            self._require(name, pair is None or min(pair) > 0, "two positive numbers")
        for name in ("batch_size", "epochs", "steps", "warmup_steps", "hue", "seed"):
            self._require(name, (getattr(self, name) or 0) < 1 << 31, "less than 2**31")
        for name in ("crop", "resize"):
            self._require(name, math.prod(getattr(self, name) or ()) <= MAX_PIXELS, f"{MAX_PIXELS:,} pixels at most")
        for name in ("ratio_range", "contrast", "saturation"):
            low, high = getattr(self, name)
            self._require(name, low <= high, "a lower and an upper bound")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or null")
        self._require("patience", self.patience is None or self.patience >= 0, "0 or more, or null")
        for name in ("drop_path", "momentum"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("ema_decay", self.ema_decay is None or 0 <= self.ema_decay < 1, "at least 0 and below 1, or null")
        find_protocol(self.protocol)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            shown = repr(getattr(self, name))[:200]
            raise ConfigError(f"{name} is {shown}", fix=f"it must be {expected}", code="recipe-value")

    @property
    def network(self) -> str:
        """What is trained, for messages."""
        return self.model if self.encoder is None else f"{self.model} on {self.encoder}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML and JSON values."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**values, "preprocess": self.preprocess.to_dict()}

    @property
    def data_rules(self) -> DataRules:
        """How the data set is read where its files leave it open."""
        return DataRules(split=self.split, crowds=self.crowds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Recipe:
        """Read a complete mapping.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type or range.
        """
        known = [field.name for field in fields(cls)]
        refuse_unknown_keys(values, known, where)
        values = {**BEFORE, **values}
        if missing := [key for key in known if key not in values]:
            raise ConfigError(
                f"{where} lacks {', '.join(missing)}", fix="a recipe is complete: copy the line from another"
            )
        converted: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if isinstance(values["preprocess"], Mapping):
            converted["preprocess"] = Preprocess.from_dict(values["preprocess"])
        if isinstance(values["split"], Mapping):
            converted["split"] = SplitRule.from_dict(values["split"])
        try:
            return cls(**converted)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", fix=error.fix, code=error.code) from error

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            ConfigError: as `from_dict`, or the file cannot be read.
        """
        return cls.from_dict(read_yaml_mapping(path), str(path))


def _is(value: object, kind: Any) -> bool:
    """Tell whether a value is of a field's type; whole numbers are numbers, and true is not 1."""
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is(value, part) for part in parts)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _described(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        return " or ".join(_described(part) for part in parts)
    if get_origin(kind) is Literal:
        return " or ".join(parts)
    if get_origin(kind) is tuple:
        return "a list of names" if parts[-1] is Ellipsis else f"a list of {len(parts)}, each {_described(parts[0])}"
    return {
        NoneType: "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number, such as 6.0e-5",  # YAML takes 6e-5 for text; numbers in it need a point.
        str: "a name",
        Preprocess: "a mapping, as in recipes/",
        SplitRule: "a mapping such as {val: 0.1}",
    }[kind]


def automatic_recipe(
    model: str,
    image_sizes: list[tuple[int, int]],
    *,
    encoder: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 8,
    weights: str | None = None,
    preprocess: Preprocess | None = None,
) -> Recipe:
    """Return the recipe for someone who gives only a folder.

    Photos that all have one size are later brought to its shorter side, whatever their size, by an antialiased bilinear
    filter; mixed sizes are taken to be meant as they are. The crop is the usual shorter side, between 128 and 512
    pixels, as a multiple of 32.

    Args:
        model: architecture name.
        image_sizes: (height, width) of the training photos.
        encoder: see `Recipe`. Photos are then normalised as its folder says. An encoder with weights learns at a tenth
            of the decoder's rate.
        epochs: passes over the training photos; 100 where neither this nor `steps` is given.
        steps: optimiser steps, instead of `epochs`.
        batch_size: photos per step.
        weights: model to start from, or None for random weights.
        preprocess: that of the model to start from, which is kept. Windows are cut from photos of the size that it
            gives them.
    """
    refuse_unknown_model(model, encoder is not None)
    seen = image_sizes if preprocess is None else [preprocess.target_size(*size) for size in image_sizes]
    short_sides = sorted(min(size) for size in seen)
    usual = short_sides[len(short_sides) // 2]
    side = min(max(usual // 32 * 32, 128), 512)
    one_size = len(set(image_sizes)) == 1
    if steps is None and epochs is None:
        epochs = 100
    folder = None if encoder is None else weights_folder(encoder)
    resizes = preprocess is not None and (preprocess.short_side is not None or preprocess.size is not None)
    resize = (max(max(size) for size in seen), usual) if resizes and seen != image_sizes else None
    if preprocess is None:
        # Antialiased: large photos must look like those trained on (docs/prediction.md has the numbers). Rounded down:
        # then transformers can be told the same rule.
        preprocess = replace(_normalised_for(folder), antialias=True, rounding="down")
        if one_size:
            preprocess = replace(preprocess, short_side=usual, long_side=usual * 4)
    total = (steps or 0) + (epochs or 0) * max(len(image_sizes) // batch_size, 1)
    return Recipe(
        model=model,
        encoder=encoder,
        labels=None,
        weights=weights,
        train_split="train",
        val_split="val",
        split=None,
        crowds="ignore",
        holdout=(),
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        crop=(side, side),
        resize=resize,
        ratio_range=(0.5, 2.0),
        cat_max_ratio=0.75,
        flip=0.5,
        brightness=32.0,
        contrast=(0.5, 1.5),
        saturation=(0.5, 1.5),
        hue=18,
        gamma=0.0,
        gray=0.0,
        blur=0.0,
        rotate=0.0,
        preprocess=preprocess,
        optimizer="adamw",
        lr=1e-3 if weights is None and folder is None else 1e-4,
        momentum=0.9,
        weight_decay=0.05,
        decoder_lr_factor=10.0 if weights is None and folder is not None else 1.0,
        warmup_steps=min(300, total // 10),
        warmup_ratio=1e-3,
        power=1.0,
        min_lr=0.0,
        clip_norm=1.0,
        drop_path=0.1,
        sync_batchnorm=True,
        class_weight_power=0.25,
        normalize_by="valid",
        auxiliary_weight=0.4,
        ema_decay=0.999,
        precision="auto",
        checkpointing=False,
        compile=False,
        seed=0,
        protocol="whole",
        validate_every=1,
        patience=30,
    )


def _normalised_for(folder: Path | None) -> Preprocess:
    """Take mean and std from what an encoder's folder says of its training, if it does."""
    theirs = None if folder is None else read_processor(folder)
    return Preprocess() if theirs is None else normalisation(theirs, f"the image processor in {folder}")
