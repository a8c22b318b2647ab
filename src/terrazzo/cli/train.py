"""`terrazzo train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption
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
    weights: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    crop: tuple[int, int] | None = None,
    lr: float | None = None,
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
        The data set's folder.
    output
        The run's folder: weights, log, curves, report, pictures.
    model
        What to train: a model such as segformer_b0 (the default without a recipe), or ENCODER+DECODER such as
        mit_b0+setr_pup; with --encoder a decoder alone (by default all_mlp). `terrazzo models` lists them.
    encoder
        An encoder of our own such as mit_b0, or a backbone of Hugging Face transformers: hf: and a model of its hub, or
        a folder, with weights; hf: and a config.json for random ones.
    recipe
        A complete recipe file; other options change single values of it. Without one the settings are chosen from the
        photos; the defaults below are those.
    labels
        A bundled class list (such as camvid) or a YAML file, for a folder that does not say what its classes are;
        by default the folder's own.
    weights
        What to start from: a model of the same architecture, whose preprocessing is kept unless a recipe has another,
        or an encoder alone (file, folder, hub id); by default what the recipe says, else random weights, which `random`
        asks for.
    epochs
        Passes over the training photos; by default 100.
    steps
        Optimiser steps, instead of --epochs.
    batch_size
        Photos per step, over all processes; by default 8.
    crop
        Height and width of the training windows; by default the photos' usual shorter side, from 128 to 512.
    lr
        Base learning rate; by default 0.001, or 0.0001 where training starts from weights.
    seed
        Seed of weights, order and augmentation; by default 0.
    precision
        fp32, bf16, or auto (the default: bf16 where the hardware multiplies it natively).
    checkpointing
        Activation checkpointing: less memory for a longer step; by default off.
    compile
        Have PyTorch compile the network: a shorter step on GPUs, after some minutes; by default off.
    patience
        Validations without a better mIoU before the run stops early; by default 30.
    train_split
        Split to learn from; by default train.
    val_split
        Split that chooses the best epoch; by default val.
    val
        Share of the photos to validate on, such as 0.1, where nobody has split them: always the same ones.
    group_by
        With --val: regular expression in quotes; photos whose names begin alike by it stay together: '[^_]+' groups
        by all up to the first _.
    crowds
        What iscrowd: 1 means in COCO JSON: ignore (the default), or objects, where a tool marks all objects so.
    holdout
        Pattern in quotes, such as '0001TP*': training photos to validate on instead of learning from them.
    settings
        Any field of the recipe, as in optimizer.weight_decay=0.01, augment.flip.p=0 or augment.cutmix.p=0.5, which adds
        that augmentation; give --set once for each.
    reset_head
        With --weights for other classes than the data set's: learn a new classifier.
    check
        Decode every photo and mask before the first step; otherwise only headers and masks are read by then.
    resume
        Go on from the newest checkpoint in the output folder, with the run's own recipe.
    workers
        Loader processes; by default one for each core but one, at most 8.
    """
    from terrazzo.data.splits import SplitRule

    given: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "lr": lr,
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
    }

    from terrazzo.training.overrides import parse_setting
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
        resume=resume,
        workers=workers,
        device=device,
    )
    if run is not None:
        say(*run.report.table().split("\n"))
        say(f"run written to {run.output}; use it with: terrazzo predict PHOTO --model {run.output}")
