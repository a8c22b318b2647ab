"""`terrazzo train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption, LearntBandsOption, NodataOption, learnt_bands
from terrazzo.cli.say import say

__all__ = ["train"]


def train(
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    encoder: str | None = None,
    recipe: Path | None = None,
    labels: str | None = None,
    bands: LearntBandsOption = None,
    nodata: NodataOption = None,
    weights: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    crop: tuple[int, int] | None = None,
    short_side: int | None = None,
    lr: float | None = None,
    layer_decay: float | None = None,
    freeze: str | None = None,
    loss: str | None = None,
    class_weight: Annotated[list[str] | None, Parameter(negative=())] = None,
    seed: int | None = None,
    precision: str | None = None,
    checkpointing: bool | None = None,
    compile: bool | None = None,
    patience: int | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    val: float | None = None,
    group_by: str | None = None,
    crowds: Literal["ignore", "objects"] | None = None,
    holdout: Annotated[list[str] | None, Parameter(negative=())] = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    reset_head: Annotated[bool, Parameter(negative=())] = False,
    check: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    resume: Annotated[bool, Parameter(negative=())] = False,
    workers: int | None = None,
    device: DeviceOption = None,
) -> None:
    """Train a model on a folder of photos and masks.

    The folder holds train/images, train/masks, val/images and val/masks, or images and masks alone and --val is given;
    labels.yaml names the classes. With nothing but --data and --output the settings are chosen from the photos. Start
    it with torchrun to use several GPUs.

    Examples:
        terrazzo train --data my-folder --model segformer_b0 --output runs/mine
        terrazzo train --data camvid --recipe camvid.yaml --output runs/camvid
        terrazzo train --data my-folder --val 0.1 --output runs/mine
        terrazzo train --data camvid --encoder hf:OpenGVLab/pvt_v2_b2 --output pvt

    Parameters
    ----------
    data
        The folder of the data set.
    output
        The folder of the run, which gets the weights, log, curves, report and pictures.
    model
        The model to train: a name such as segformer_b0, or ENCODER+DECODER such as mit_b0+setr_pup; with --encoder the
        name of a decoder. Default: segformer_b0, or all_mlp with --encoder. `terrazzo models` lists all.
    encoder
        The encoder under the decoder: one of our own such as mit_b0, or a backbone of Hugging Face transformers, as hf:
        and a model of its hub or a folder (with weights), or hf: and a config.json (random weights).
    recipe
        A complete recipe file, of which the other options change single values. Default: settings made from the photos;
        the defaults below are those.
    labels
        The name of a bundled class list, such as camvid, for a folder that does not name its classes. Default: the
        folder's own classes.
    weights
        The weights to start from: a model of the same architecture, whose preprocessing is kept unless a recipe has
        another, or an encoder alone (file, folder or hub id). Default: what the recipe says, else random; `random` asks
        for random weights.
    epochs
        The number of passes over the training photos. Default: 100.
    steps
        The number of optimiser steps, in place of --epochs.
    batch_size
        The number of photos in a step, over all processes. Default: 8.
    accumulate
        Gradient accumulation: each step's photos are computed in this many parts, one after another, which takes less
        memory. Default: 1.
    crop
        The height and width of the training windows. Default: the photos' usual shorter side, from 128 to 512.
    short_side
        The shorter side that photos are resized to, in training, validation and prediction. Default: that of the
        weights, else the photos' own where all have one size; photos of several sizes are not resized.
    lr
        The base learning rate. Default: 0.001, or 0.0001 where training starts from weights.
    layer_decay
        Layer-wise learning-rate decay: the factor on the rate from each encoder block to the one before it, such as
        0.9. Default: 1, which is off.
    freeze
        What keeps its weights: `encoder`, or a number for the first stages of the encoder (of a ViT, its first blocks).
        Default: nothing.
    loss
        The losses to minimise, by name and summed, each with a weight where it needs one, such as ce+dice or
        ce+0.5*lovasz. Default: ce. The manual's page on recipes lists them.
    class_weight
        The weight of a class in the loss, as in "traffic sign=5"; give the option once for each class. Classes left out
        weigh 1. Default: rare classes weigh more.
    seed
        The seed of weights, order and augmentation. Default: 0.
    precision
        The precision of the forward pass: fp32, bf16, or auto, which is bf16 where the hardware multiplies it natively.
        Default: auto.
    checkpointing
        Use activation checkpointing, which takes less memory and more time. Default: off.
    compile
        Compile the network with torch.compile: a shorter step on GPUs, after some minutes. Default: off.
    patience
        The number of validations without a better mIoU after which the run stops early. Default: 30.
    train_split
        The split to learn from. Default: train.
    val_split
        The split that chooses the best epoch. Default: val.
    val
        The share of the photos to validate on, such as 0.1, for a folder that nobody has split; it is always the same
        photos.
    group_by
        With --val: a regular expression in quotes; photos whose names begin alike by it stay together. '[^_]+' groups
        by all up to the first _.
    crowds
        What iscrowd: 1 means in COCO JSON: ignore, or objects, for tools that mark all objects so. Default: ignore.
    holdout
        A pattern of photo names in quotes, such as '0001TP*': training photos to validate on instead of learning from
        them.
    settings
        Any field of the recipe, as in optimizer.weight_decay=0.01 or augment.cutmix.p=0.5, which adds that
        augmentation; give --set once for each field.
    reset_head
        With --weights for other classes than the data set's: learn a new classifier.
    check
        Decode every photo and mask before the first step, also where they do not fit into memory. Default: headers and
        masks are read.
    dry_run
        Train nothing: print every setting and the memory, disk and time that the run takes, and draw the first batch
        into batch.png.
    resume
        Continue from the newest checkpoint in the output folder, with the run's own recipe; more --epochs or --steps
        than before extend the run.
    workers
        The number of loader processes. Default: one for each core but one, at most 8.
    """
    from terrazzo.data.splits import SplitRule
    from terrazzo.training.overrides import parse_class_weights, parse_setting

    given: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "run.accumulate": accumulate,
        "crop": crop,
        "data.preprocess.short_side": short_side,
        "lr": lr,
        "optimizer.layer_decay": layer_decay,
        "model.freeze": freeze if freeze is None or not freeze.isdecimal() else int(freeze),
        "loss": loss,
        "loss.class_weights": parse_class_weights(class_weight) if class_weight else None,
        "seed": seed,
        "precision": precision,
        "checkpointing": checkpointing,
        "compile": compile,
        "patience": patience,
        "train_split": train_split,
        "val_split": val_split,
        "split": SplitRule.of_options(val, group_by),
        "crowds": crowds,
        "holdout": holdout,
        "data.bands": learnt_bands(bands),
        "data.nodata": nodata,
    }

    from terrazzo.training.train import train as run_training

    run = run_training(
        data,
        output,
        model,
        encoder=encoder,
        recipe=recipe,
        labels=labels,
        weights=weights,
        overrides={
            **{key: value for key, value in given.items() if value is not None},
            **dict(parse_setting(text) for text in settings or ()),
        },
        reset_head=reset_head,
        check=check,
        dry_run=dry_run,
        resume=resume,
        workers=workers,
        device=device,
    )
    if run is not None:
        say(*run.report.table().split("\n"))
        say(f"run written to {run.output}; use it with: terrazzo predict PHOTO --model {run.output}")
