"""`terrazzo train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption, LearntBandsOption, NodataOption, learnt_bands
from terrazzo.cli.say import say
from terrazzo.errors import ConfigError

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
    teacher: str | None = None,
    unlabelled: Path | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
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
    fsdp: bool | None = None,
    patience: int | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    val: float | None = None,
    group_by: str | None = None,
    folds: int | None = None,
    crowds: Literal["ignore", "objects"] | None = None,
    holdout: Annotated[list[str] | None, Parameter(negative=())] = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    reset_head: Annotated[bool, Parameter(negative=())] = False,
    check: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    find_lr: Annotated[bool, Parameter(negative=())] = False,
    resume: Annotated[bool, Parameter(negative=())] = False,
    workers: int | None = None,
    device: DeviceOption = None,
    log: str | None = None,
) -> None:
    """Train a model on a folder of photos and masks.

    The folder holds train/images, train/masks, val/images and val/masks, or images and masks alone and --val is given;
    labels.yaml names the classes. With nothing but --data and --output the settings are chosen from the photos. Start
    it with torchrun to use several GPUs.

    Examples:
        terrazzo train --data my-folder --model segformer_b0 --output runs/mine
        terrazzo train --data camvid --recipe camvid.yaml --output runs/camvid
        terrazzo train --data my-folder --val 0.1 --output runs/mine
        terrazzo train --data my-folder --folds 5 --group-by '[^_]+' --output run
        terrazzo train --data camvid --encoder hf:OpenGVLab/pvt_v2_b2 --output pvt

    Parameters
    ----------
    data
        Read the data set in this folder.
    output
        Write the run into this folder: weights, log, curves, report, pictures.
    model
        Train this: a model such as segformer_b0 (the default without a recipe), or ENCODER+DECODER such as
        mit_b0+setr_pup; with --encoder a decoder alone (by default all_mlp). `terrazzo models` lists them.
    encoder
        Take this encoder: one of our own such as mit_b0, or a backbone of Hugging Face transformers: hf: and a model of
        its hub, or a folder, with weights; hf: and a config.json for random ones.
    recipe
        Train by this recipe file; other options change single values of it. Without one the settings are chosen from
        the photos; the defaults below are those.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file; by default they are the folder's own.
    weights
        Start from these weights: a model of the same architecture, whose preprocessing is kept unless a recipe has
        another, or an encoder alone (file, folder, hub id); by default from what the recipe says, else from random
        weights, which random asks for.
    teacher
        Learn from what this model of the same classes says of each window too (knowledge distillation), such as a
        larger one that you have trained.
    unlabelled
        Learn from the photos of this folder too, which have no masks, by pseudo-labels of the weight average; to
        resume, name it again.
    epochs
        Train for this many epochs (passes over the training photos); by default 100.
    steps
        Train for this many optimiser steps instead of --epochs.
    batch_size
        Use batches of this many photos, over all processes; by default 8. auto takes the largest power of two that
        fits into the free memory.
    accumulate
        Use gradient accumulation: compute each batch in this many parts, one after another, which takes less memory; by
        default 1.
    crop
        Train on windows of this height and width; by default the photos' usual shorter side, from 128 to 512.
    short_side
        Resize photos to this shorter side, in training, validation and prediction; by default that of the weights, else
        the photos' own where all have one size.
    lr
        Begin with this learning rate; by default 0.001, or 0.0001 where training starts from weights.
    layer_decay
        Use layer-wise learning-rate decay: multiply the rate by this factor, such as 0.9, from each encoder block to
        the one before it; by default 1, which is off.
    freeze
        Keep the weights of the encoder (encoder), or of its first stages (a number; of a ViT, blocks); by default all
        are trained.
    loss
        Minimise these losses, by name and summed, each with a weight where it needs one, such as ce+dice or
        ce+0.5*lovasz; by default ce. The manual's page on recipes lists them.
    class_weight
        Weigh a class in the loss, as in "traffic sign=5"; give the option once for each class. Classes left out weigh
        1; by default rare classes weigh more.
    seed
        Draw weights, order and augmentation from this seed; by default 0.
    precision
        Compute in fp32, bf16, or auto (the default: bf16 where the hardware multiplies it natively).
    checkpointing
        Use activation checkpointing: less memory for a longer step; by default it is off.
    compile
        Have PyTorch compile the network: a shorter step on GPUs, after some minutes; by default it is off.
    fsdp
        With several processes, let each keep a share of parameters, gradients and optimiser states (FSDP2); by default
        each has all of them.
    patience
        Stop early after this many validations without a better mIoU; by default 30.
    train_split
        Learn from this split; by default train.
    val_split
        Choose the best epoch on this split; by default val.
    val
        Validate on this share of the photos, such as 0.1, where nobody has split them: always the same ones.
    group_by
        Keep photos together whose names begin alike by this regular expression in quotes, with --val or --folds:
        '[^_]+' groups by all up to the first _.
    folds
        Cross-validate: divide the photos into so many parts, train a model for each on the others, and a final one on
        all photos; write the runs and a report with mean and spread.
    crowds
        Take iscrowd: 1 in COCO JSON for areas to ignore (the default), or for objects, where a tool marks all objects
        so.
    holdout
        Hold out the training photos whose names match this pattern in quotes, such as '0001TP*', and validate on them.
    settings
        Set any field of the recipe, as in optimizer.weight_decay=0.01, augment.flip.p=0 or augment.cutmix.p=0.5, which
        adds that augmentation; give --set once for each.
    reset_head
        Start with a new classifier if the --weights are for other classes than the data set's.
    check
        Decode every photo and mask before the first step, also where they do not fit into memory; by default only
        headers and masks are read then.
    dry_run
        Train nothing: print every setting and the memory, disk and time that the run takes, and draw the first batch
        into batch.png.
    find_lr
        Train nothing: try 100 steps with a growing learning rate, draw the loss over it into find_lr.png, and say which
        rate to use.
    resume
        Continue from the newest checkpoint in the output folder, with the run's own recipe; more --epochs or --steps
        than before extend the run.
    workers
        Load photos in this many worker processes; by default one for each core but one, at most 8.
    log
        Report the numbers of every epoch to these trackers, with commas between: tensorboard, wandb, mlflow; by default
        to TensorBoard, where it is installed.
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
        "run.fsdp": fsdp,
        "patience": patience,
        "train_split": train_split,
        "val_split": val_split,
        "split": SplitRule.of_options(val, None if folds is not None else group_by),
        "crowds": crowds,
        "holdout": holdout,
        "data.bands": learnt_bands(bands),
        "data.nodata": nodata,
    }

    arguments: dict[str, Any] = {
        "encoder": encoder,
        "recipe": recipe,
        "labels": labels,
        "weights": weights,
        "teacher": teacher,
        "unlabelled": unlabelled,
        "overrides": {
            **{key: value for key, value in given.items() if value is not None},
            **dict(parse_setting(text) for text in settings or ()),
        },
        "reset_head": reset_head,
        "check": check,
        "resume": resume,
        "workers": workers,
        "device": device,
        "log": log,
    }
    if folds is not None:
        from terrazzo.training.cross_validation import cross_validate

        if dry_run or find_lr:
            raise ConfigError(
                f"--{'dry-run' if dry_run else 'find-lr'} is for one run, and --folds makes several",
                fix="leave --folds out, and give --val 0.2 where the photos are not split",
                code="folds-options",
            )
        result = cross_validate(data, output, model, folds=folds, group_by=group_by, **arguments)
        say(*result.table().split("\n"))
        say(f"runs written to {output}; use the final model with: terrazzo predict PHOTO --model {result.model.parent}")
        return

    from terrazzo.training.train import train as run_training

    run = run_training(data, output, model, dry_run=dry_run, find_lr=find_lr, **arguments)
    if run is not None:
        say(*run.report.table().split("\n"))
        say(f"run written to {run.output}; use it with: terrazzo predict PHOTO --model {run.output}")
