"""The sections of a recipe that are not lists, each a frozen dataclass of its own fields.

A field that is added must have a default: what runs did before, since recipes on disk lack it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from terrazzo.data.rules import Crowds, DataRules
from terrazzo.data.splits import SplitRule
from terrazzo.fields import LARGEST, BelowOne, Count, NotNegative, Share, Within
from terrazzo.imaging.band_rule import MOST_BANDS
from terrazzo.inference.protocols import find_protocol
from terrazzo.models import ModelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.rows import Checked

__all__ = [
    "OPTIONAL",
    "SECTIONS",
    "DataSection",
    "ModelSection",
    "OptimizerSection",
    "RunSection",
    "TeacherSection",
    "UnlabelledSection",
]


@dataclass(frozen=True, kw_only=True)
class ModelSection(Checked):
    """What is trained, and from where.

    Attributes:
        name: architecture; with `spec` its title.
        encoder: a backbone of Hugging Face transformers, as `create_model` takes it, for a `name` that is a decoder
            alone; null for all others.
        weights: what the run starts from: a model, or a file that you have to provide, such as an encoder trained on
            ImageNet; null for random weights. Where it is not found, the run does not start.
        drop_path: stochastic depth of the last encoder block, where the encoder has it.
        auxiliary_weight: what the loss of each auxiliary head counts beside the main one; 0 trains without the heads.
        spec: what the network is, where a name does not say it; the number of classes and the image size in it give way
            to those of the data and of the crop.
        freeze: what keeps the values that it starts with: ``encoder``, or the number of its first stages (of a ViT,
            blocks), with their embeddings; null trains everything.
    """

    name: str
    encoder: str | None
    weights: str | None
    drop_path: BelowOne
    auxiliary_weight: NotNegative
    spec: ModelSpec | None = None
    freeze: Literal["encoder"] | Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spec is not None:
            self._require("name", self.name == self.spec.title, f"{self.spec.title}, as the spec has it")
            self._require("encoder", self.encoder is None, "null, since the spec has an encoder")


@dataclass(frozen=True, kw_only=True)
class DataSection(Checked):
    """What is learnt from and validated on.

    Attributes:
        labels: name of a bundled class list, path of a YAML file, or null for the data set's own classes.
        train_split: split to learn from.
        val_split: split that chooses the best epoch.
        split: splits photos off to validate on, where the data set has no split for that: ``val``, the share;
            ``group_by``, a regular expression for what stays together; ``seed``. Null for the data set's own splits.
        crowds: what ``iscrowd: 1`` means in a COCO document: ``ignore``, as COCO means it, or ``objects``.
        holdout: photos of the training split whose name matches one of these patterns (such as ``0001TP*``) are not
            learnt from, and take the place of the validation split.
        preprocess: resize rule and normalisation of validation and of everything after training.
        bands: the bands to learn from, by number from 1 or by name; null for photos, 8-bit RGB. Their range, mean and
            standard deviation are measured over the training images, and put into `preprocess`.
        nodata: the number that stands for "no measurement"; null takes what the images' headers say.
    """

    labels: str | None
    train_split: str
    val_split: str
    split: SplitRule | None
    crowds: Crowds
    holdout: tuple[str, ...]
    preprocess: Preprocess
    bands: Annotated[tuple[int | str, ...] | None, Within(at_least=1, items=MOST_BANDS)] = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        reads_bands = self.bands is not None or self.preprocess.bands is not None
        self._require("nodata", self.nodata is None or reads_bands, "null where bands is null")

    @property
    def rules(self) -> DataRules:
        """How the data set is read where its files leave it open."""
        return DataRules(split=self.split, crowds=self.crowds)


@dataclass(frozen=True, kw_only=True)
class OptimizerSection(Checked):
    """The optimiser and the schedule of its learning rate.

    Attributes:
        name: ``adamw`` or ``sgd``.
        lr: base learning rate.
        momentum: SGD's, or AdamW's first beta (its second is 0.999).
        weight_decay: none on the encoder's norms.
        decoder_lr_factor: the rate of the decoder and the auxiliary heads over the encoder's.
        warmup_steps: steps of the linear warm-up.
        warmup_ratio: factor on the rate at the first step.
        power: exponent of the poly decay.
        min_lr: learning rate at the end of the decay, at most `lr`.
        clip_norm: largest gradient norm, or null.
        layer_decay: layer-wise learning-rate decay: factor on the rate from each encoder block to the one before it;
            the decoder keeps its own rate. 1 is off.
    """

    name: Literal["adamw", "sgd"]
    lr: Annotated[float, Within(above=0)]
    momentum: BelowOne
    weight_decay: NotNegative
    decoder_lr_factor: NotNegative
    warmup_steps: Annotated[int, Within(at_least=0, below=LARGEST)]
    warmup_ratio: Share
    power: NotNegative
    min_lr: NotNegative
    clip_norm: Annotated[float | None, Within(above=0)]
    layer_decay: Annotated[float, Within(above=0, at_most=1)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("min_lr", self.min_lr <= self.lr, f"at most lr, which is {self.lr:g}")


@dataclass(frozen=True, kw_only=True)
class RunSection(Checked):
    """How long, in what batches and numbers, and what is kept.

    Attributes:
        epochs: passes over the training photos; null where `steps` is given.
        steps: optimiser steps (the papers' iterations); the last pass is cut short. Null where `epochs` is given.
        batch_size: photos per step, over all ranks.
        ema_decay: decay of the exponential moving average of the weights, which is validated and kept; null keeps the
            weights themselves.
        precision: ``bf16`` autocast, ``fp32``, or ``auto``: bf16 where the hardware multiplies it natively.
        sync_batchnorm: take BatchNorm's statistics over the photos of all ranks; only GPUs can.
        checkpointing: activation checkpointing: keep only what goes into each encoder block for the backward pass, and
            compute the rest again: less memory, a longer step, the same result.
        compile: have PyTorch compile the network: on GPUs a shorter step, after some minutes.
        seed: of weights, order and augmentation.
        protocol: name of how photos are shown to the network in validation, such as ``whole``.
        validate_every: epochs from one validation to the next.
        patience: validations without a better mIoU before the run stops early, or null.
        accumulate: gradient accumulation: parts that each step's photos are computed in, one after another. It takes
            less memory, and the step is the same, but that BatchNorm's statistics are those of each part.
        fsdp: with several processes, have each keep a share of parameters, gradients and optimiser states (FSDP2), for
            networks that are too large to be in each GPU's memory as a whole.
    """

    epochs: Count | None
    steps: Count | None
    batch_size: Count
    ema_decay: BelowOne | None
    precision: Literal["auto", "fp32", "bf16"]
    sync_batchnorm: bool
    checkpointing: bool
    compile: bool
    seed: Annotated[int, Within(at_least=0, below=LARGEST)]
    protocol: str
    validate_every: Annotated[int, Within(at_least=1)]
    patience: Annotated[int | None, Within(at_least=0)]
    accumulate: Count = 1
    fsdp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        is_one = (self.epochs is None) != (self.steps is None)
        self._require("steps", is_one, "given where epochs is null, and only there")
        find_protocol(self.protocol)


@dataclass(frozen=True, kw_only=True)
class TeacherSection(Checked):
    """Knowledge distillation from another model, whose classes are matched by name.

    Attributes:
        model: the teacher: a run, a model folder or a name, as everywhere.
        weight: what the divergence from the teacher's probabilities counts beside the loss of the labels.
        temperature: that logits of both are divided by; above 1 the less likely classes count more.
        features: what the distance of the encoders' maps counts, of those that have one shape; 0 compares none.
    """

    model: str
    weight: NotNegative = 1.0
    temperature: Annotated[float, Within(at_least=0.1, at_most=100)] = 2.0
    features: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("model", bool(self.model.strip()), "the name or the folder of a model")


@dataclass(frozen=True, kw_only=True)
class UnlabelledSection(Checked):
    """Consistency training on photos without masks, by pseudo-labels of the weight average.

    Attributes:
        weight: what the loss of the pseudo-labels counts beside that of the labels; with 0 only a teacher labels them.
        threshold: a pixel has a pseudo-label where the average gives its class at least this probability.
        ratio: photos without masks in a step, for each with a mask.
        cutmix: probability that a rectangle of another photo, with its pseudo-labels, is put into a strong view.
    """

    weight: NotNegative = 1.0
    threshold: Share = 0.95
    ratio: Annotated[int, Within(at_least=1, at_most=64)] = 1
    cutmix: Share = 0.5


SECTIONS: Mapping[str, type[Any]] = {
    "model": ModelSection,
    "data": DataSection,
    "optimizer": OptimizerSection,
    "run": RunSection,
}
"""The sections that are not lists."""

OPTIONAL: Mapping[str, type[Any]] = {"teacher": TeacherSection, "unlabelled": UnlabelledSection}
"""The sections that a recipe may lack, or have as null."""
