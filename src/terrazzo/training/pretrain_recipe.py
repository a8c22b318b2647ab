"""PretrainRecipe: everything that decides what self-supervised pretraining learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from terrazzo.config import read_yaml_mapping
from terrazzo.fields import LARGEST, Bounds, Count, Within, as_plain
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.preprocess import Preprocess
from terrazzo.training.rows import Checked, plain, read_fields
from terrazzo.training.sections import OptimizerSection

__all__ = ["PretrainRecipe"]


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Checked):
    """One complete recipe of masked image modelling.

    Attributes:
        model: whose encoder is trained: an encoder such as ``mit_b0`` or ``vit_small``, or a model that has one.
        crop: (height, width) of the windows.
        scale: bounds of the random resizing before windows are cut.
        mask_ratio: share of a window's patches that is hidden.
        mask_patch: side of these patches in pixels.
        epochs: passes over the photos.
        batch_size: photos per step, over all ranks.
        optimizer: the optimiser and its schedule.
        precision: ``bf16`` autocast, ``fp32``, or ``auto``: bf16 where the hardware multiplies it natively.
        seed: of weights, order, augmentation and masks.
        preprocess: normalisation.
    """

    model: str
    crop: Annotated[tuple[int, int], Within(above=0, pixels=MAX_PIXELS)] = (192, 192)
    scale: Bounds = (0.5, 2.0)
    mask_ratio: Annotated[float, Within(above=0, below=1)] = 0.6
    mask_patch: Annotated[int, Within(at_least=1, at_most=4096)] = 32
    epochs: Count = 100
    batch_size: Count = 16
    optimizer: OptimizerSection = OptimizerSection(  # noqa: RUF009  # frozen
        name="adamw",
        lr=4e-4,
        momentum=0.9,
        weight_decay=0.05,
        decoder_lr_factor=1.0,
        warmup_steps=500,
        warmup_ratio=1e-3,
        power=1.0,
        min_lr=0.0,
        clip_norm=5.0,
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Annotated[int, Within(at_least=0, below=LARGEST)] = 0
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        for name, kind in (("optimizer", OptimizerSection),):
            if isinstance(given := getattr(self, name), Mapping):
                object.__setattr__(self, name, read_fields(kind, given, name))
        super().__post_init__()
        fits = self.mask_patch <= min(self.crop)
        self._require("mask_patch", fits, f"at most {min(self.crop)}, the shorter side of the crop")

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML and JSON values."""
        return {field.name: as_plain(getattr(self, field.name)) for field in fields(self)}

    def changed(self, changes: Mapping[str, Any]) -> PretrainRecipe:
        """Return the recipe with some fields changed; those of the optimiser are called ``optimizer.lr`` and so on.

        Raises:
            ConfigError: there is no such field, or a value has the wrong type or range.
        """
        values = self.to_dict()
        for name, value in changes.items():
            section, _, inner = name.partition(".")
            if inner and isinstance(values.get(section), dict):
                values[section][inner] = value
            else:
                values[name] = value
        return self.from_dict(values, "the options")

    def differences(self, other: PretrainRecipe) -> list[str]:
        """Return the names of the fields in which two recipes differ."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [name for name in mine if mine[name] != theirs[name]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> PretrainRecipe:
        """Read `to_dict`'s output back.

        Raises:
            ConfigError: a field is unknown or missing, or a value has the wrong type or range.
        """
        return read_fields(cls, plain(values, where), where)

    @classmethod
    def from_file(cls, path: Path) -> PretrainRecipe:
        """Read a recipe file.

        Raises:
            ConfigError: as `from_dict`, or the file cannot be read.
        """
        return cls.from_dict(read_yaml_mapping(path), str(path))
