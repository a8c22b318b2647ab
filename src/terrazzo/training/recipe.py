"""Recipe: everything that decides what a training run learns, in sections.

A recipe file holds every field of its sections, so that it reads on its own; nothing is inherited. `augment` and `loss`
are lists whose entries name a row of a table and give its own fields, so that a new augmentation or loss changes no
recipe on disk. Where a run takes place (data folder, output folder, loader processes, device) is not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terrazzo.arguments import checked
from terrazzo.config import read_yaml_mapping
from terrazzo.errors import ConfigError
from terrazzo.fields import as_plain, refuse_missing, refuse_unknown
from terrazzo.models import ModelSpec, refuse_unknown_model
from terrazzo.preprocess import Preprocess
from terrazzo.text import show
from terrazzo.training.augment import AUGMENTATIONS, Step
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.augment.flip import RandomFlip
from terrazzo.training.augment.photometric import PhotometricDistortion
from terrazzo.training.augment.resize import RandomResize
from terrazzo.training.flat_recipe import PATHS, is_flat, sectioned
from terrazzo.training.losses import LOSSES, Loss
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.overrides import TABLES, full_paths, with_values
from terrazzo.training.rows import plain, read_fields, read_row, row_name
from terrazzo.training.sections import (
    OPTIONAL,
    SECTIONS,
    DataSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    TeacherSection,
    UnlabelledSection,
)

__all__ = ["Recipe", "automatic_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete training recipe.

    Attributes:
        model: what is trained, and from where.
        data: what is learnt from and validated on.
        augment: the steps that every training photo goes through, in their order; one of them is `crop`.
        loss: what is minimised: the weighted sum of these.
        optimizer: the optimiser and its schedule.
        run: how long, in what batches and numbers, and what is kept.
        teacher: another model that is learnt from, or None.
        unlabelled: how photos without masks are learnt from, or None.

    Raises:
        ConfigError: there is not one crop, nothing to minimise, or nothing that labels photos without masks.
    """

    model: ModelSection
    data: DataSection
    augment: tuple[Step, ...]
    loss: tuple[Loss, ...]
    optimizer: OptimizerSection
    run: RunSection
    teacher: TeacherSection | None = None
    unlabelled: UnlabelledSection | None = None

    def __post_init__(self) -> None:
        names = [row_name(AUGMENTATIONS, step) for step in self.augment]
        if names.count("crop") != 1 or "resize" in names[names.index("crop") :]:
            raise ConfigError(
                f"augment has {'the rows ' if names else 'no rows'}{', '.join(names)}",
                fix="it must have one crop, and no resize after it: the windows of a batch have one size",
                code="recipe-augment",
            )
        if not any(row.weight for row in self.loss):
            raise ConfigError(
                "loss has no row with a weight", fix="write `loss: [{name: cross_entropy}]`", code="recipe-loss"
            )
        if self.unlabelled is not None and self.unlabelled.weight and self.run.ema_decay is None:
            raise ConfigError(
                "unlabelled takes its pseudo-labels from the weight average, and run.ema_decay is null",
                fix="set run.ema_decay=0.999, or unlabelled.weight=0 where a teacher labels them",
                code="recipe-unlabelled",
            )
        if self.unlabelled is not None and not self.unlabelled.weight and self.teacher is None:
            raise ConfigError(
                "unlabelled.weight is 0 and there is no teacher: nothing labels the photos without masks",
                fix="give unlabelled.weight, or a teacher",
                code="recipe-unlabelled",
            )

    @property
    def network(self) -> str:
        """What is trained, for messages."""
        return self.model.name if self.model.encoder is None else f"{self.model.name} on {self.model.encoder}"

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of the training windows."""
        return next(step.size for step in self.augment if isinstance(step, RandomCrop))

    def changed(self, changes: Mapping[str, Any], where: str = "the options") -> Recipe:
        """Return the recipe with some fields changed.

        Args:
            changes: values by the path of their field, such as ``optimizer.lr``, ``augment.flip.p`` or ``loss``; for
                the fields of old flat recipes the short name, such as ``lr``, is enough.
            where: what the changes are called in messages.

        Raises:
            ConfigError: there is no such field, or a value has the wrong type or range.
        """
        return Recipe.from_dict(with_values(self.to_dict(), full_paths(changes, where)), where) if changes else self

    def differences(self, other: Recipe) -> list[str]:
        """Return the paths of the fields in which two recipes differ; of other rows, that of their list.

        Earlier versions wrote no spec. Where one of the recipes lacks it, their names are compared.
        """
        found: list[str] = []
        mine, theirs = self.to_dict(), other.to_dict()
        if (self.model.spec is None) != (other.model.spec is None):
            for values in (mine, theirs):
                values["model"] = {k: v for k, v in values["model"].items() if k not in ("spec", "encoder")}
        for section in {**mine, **theirs}:
            if section not in mine or section not in theirs:
                found.append(section)
                continue
            pairs = [(section, mine[section], theirs[section])]
            if section in TABLES:
                names = [[row["name"] for row in recipe[section]] for recipe in (mine, theirs)]
                if names[0] != names[1]:
                    found.append(section)
                    continue
                rows = zip(names[0], mine[section], theirs[section], strict=True)
                pairs = [(f"{section}.{name}", *both) for name, *both in rows]
            found += [f"{place}.{key}" for place, a, b in pairs for key in a if a[key] != b[key]]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML and JSON values."""
        model = as_plain(self.model)
        if self.model.spec is None:
            del model["spec"]
        return {
            "model": model,
            "data": as_plain(self.data),
            "augment": [{"name": row_name(AUGMENTATIONS, row), **as_plain(row)} for row in self.augment],
            "loss": [{"name": row_name(LOSSES, row), **as_plain(row)} for row in self.loss],
            "optimizer": as_plain(self.optimizer),
            "run": as_plain(self.run),
            **{name: as_plain(section) for name in OPTIONAL if (section := getattr(self, name)) is not None},
        }

    @classmethod
    @checked
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Recipe:
        """Read a complete mapping: sections, or the fields of a flat recipe of earlier versions.

        Raises:
            ConfigError: a section, a row or a field is unknown or missing, or a value has the wrong type or range.
        """
        values = plain(values, where)
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} is {show(values)}", fix="give a mapping of sections", code="recipe-value")
        if is_flat(values):
            values = sectioned(values, where)
        names = [*cls.__dataclass_fields__]
        if flat := next((key for key in values if key not in names and key in PATHS), None):
            raise ConfigError(f"{where} has an unknown key {flat!r}", fix=f"write it in its section, as {PATHS[flat]}")
        refuse_unknown(values, names, where)
        needed = [name for name in names if name not in OPTIONAL]
        refuse_missing(values, needed, where, fix="a recipe is complete: copy the section from another")
        read: dict[str, Any] = {
            name: read_fields(kind, values[name], f"{where}: {name}") for name, kind in SECTIONS.items()
        }
        for name, kind in OPTIONAL.items():
            if values.get(name) is not None:
                read[name] = read_fields(kind, values[name], f"{where}: {name}")
        for name, table in TABLES.items():
            rows = values[name]
            if not isinstance(rows, list | tuple):
                raise ConfigError(
                    f"{where}: {name} is {show(rows)}",
                    fix=f"write a list of rows such as {{name: {next(iter(table))}}}",
                    code="recipe-row",
                )
            read[name] = tuple(read_row(table, row, f"{where}: {name}") for row in rows)
        try:
            return cls(**read)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", fix=error.fix, code=error.code) from error

    @classmethod
    @checked
    def from_file(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            ConfigError: as `from_dict`, or the file cannot be read.
        """
        return cls.from_dict(read_yaml_mapping(path), str(path))


def automatic_recipe(
    model: str | ModelSpec,
    image_sizes: list[tuple[int, int]],
    *,
    encoder: str | None = None,
    pretrained: Preprocess | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 8,
    weights: str | None = None,
    preprocess: Preprocess | None = None,
    short_side: int | None = None,
) -> Recipe:
    """Return the recipe for someone who gives only a folder.

    Photos that all have one size are later brought to its shorter side, whatever their size, by an antialiased bilinear
    filter; mixed sizes are taken to be meant as they are. The crop is the usual shorter side, between 128 and 512
    pixels, as a multiple of 32.

    Args:
        model: architecture name, or what the network is.
        image_sizes: (height, width) of the training photos.
        encoder: see `Recipe`.
        pretrained: how photos are normalised for the weights that the encoder brings, which then learn at a tenth of
            the decoder's rate; None where it brings none.
        epochs: passes over the training photos; 100 where neither this nor `steps` is given.
        steps: optimiser steps, instead of `epochs`.
        batch_size: photos per step.
        weights: model to start from, or None for random weights.
        preprocess: that of the model to start from, which is kept. Windows are cut from photos of the size that it
            gives them.
        short_side: that photos are brought to, in training and after it, instead of the usual one.
    """
    spec = model if isinstance(model, ModelSpec) else None
    drop_path = 0.1
    if spec is not None:
        drop_path = spec.encoder.fields.get("drop_path_rate", drop_path)
    else:
        refuse_unknown_model(str(model), encoder is not None)
    if short_side is not None:
        preprocess = preprocess or replace(pretrained or Preprocess(), antialias=True, rounding="down")
        preprocess = replace(preprocess, size=None, short_side=short_side, long_side=4 * short_side)
    seen = image_sizes if preprocess is None else [preprocess.target_size(*size) for size in image_sizes]
    short_sides = sorted(min(size) for size in seen)
    usual = short_sides[len(short_sides) // 2]
    side = min(max(usual // 32 * 32, 128), 512)
    one_size = len(set(image_sizes)) == 1
    if steps is None and epochs is None:
        epochs = 100
    resizes = preprocess is not None and (preprocess.short_side is not None or preprocess.size is not None)
    resize = (max(max(size) for size in seen), usual) if resizes and seen != image_sizes else None
    if preprocess is None:
        # Antialiased: large photos must look like those trained on (docs/prediction.md has the numbers). Rounded down:
        # then transformers can be told the same rule.
        preprocess = replace(pretrained or Preprocess(), antialias=True, rounding="down")
        if one_size:
            preprocess = replace(preprocess, short_side=usual, long_side=usual * 4)
    total = (steps or 0) + (epochs or 0) * max(len(image_sizes) // batch_size, 1)
    return Recipe(
        model=ModelSection(
            name=str(model) if spec is None else spec.title,
            encoder=encoder,
            weights=weights,
            drop_path=drop_path,
            auxiliary_weight=0.4,
            spec=spec,
        ),
        data=DataSection(
            labels=None,
            train_split="train",
            val_split="val",
            split=None,
            crowds="ignore",
            holdout=(),
            preprocess=preprocess,
        ),
        augment=(
            RandomResize(box=resize, ratio_range=(0.5, 2.0)),
            RandomCrop(size=(side, side), cat_max_ratio=0.75),
            RandomFlip(p=0.5),
            PhotometricDistortion(brightness=32.0, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=18),
        ),
        loss=(CrossEntropy(weight=1.0, class_weight_power=0.25, normalize_by="valid"),),
        optimizer=OptimizerSection(
            name="adamw",
            lr=1e-3 if weights is None and pretrained is None else 1e-4,
            momentum=0.9,
            weight_decay=0.05,
            decoder_lr_factor=10.0 if weights is None and pretrained is not None else 1.0,
            warmup_steps=min(300, total // 10),
            warmup_ratio=1e-3,
            power=1.0,
            min_lr=0.0,
            clip_norm=1.0,
        ),
        run=RunSection(
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            ema_decay=0.999,
            precision="auto",
            sync_batchnorm=True,
            checkpointing=False,
            compile=False,
            seed=0,
            protocol="whole",
            validate_every=1,
            patience=30,
        ),
    )
