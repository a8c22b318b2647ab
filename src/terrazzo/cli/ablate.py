"""`terrazzo ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption, LearntBandsOption, NodataOption, learnt_bands
from terrazzo.cli.say import say

__all__ = ["ablate"]


def ablate(
    study: str,
    /,
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    labels: str | None = None,
    bands: LearntBandsOption = None,
    nodata: NodataOption = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    crop: tuple[int, int] | None = None,
    short_side: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    precision: str | None = None,
    sides: Annotated[list[int] | None, Parameter(consume_multiple=True, negative=())] = None,
    only: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    workers: int = 0,
    device: DeviceOption = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Test a claim of the papers: train variants of a network in the same way, and compare them.

    Studies: position (Mix-FFN or learned positions), patches (overlapping, plain, larger), reduction (of attention's
    keys), width (of the decoder), stages (fed to the decoder), decoders (SETR's three), models (SegFormer, SETR, PVT,
    FCN and all other decoders; needs the extra backbones).

    Each study writes STUDY.md, .json and .png. After an interruption the same command goes on where it was, and
    studies in one output folder share the networks that they have in common.

    Examples:
        terrazzo ablate stages --data my-folder --output ablation
        terrazzo ablate position --data my-folder --output ablation --sides 180 360

    Parameters
    ----------
    study
        Do this study: position, patches, reduction, width, stages, decoders or models.
    data
        Read the data set in this folder.
    output
        Write the table, the plots and the trained networks into this folder.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file, where the folder does not name them.
    epochs
        Train for this many epochs (passes over the training photos); by default 20.
    steps
        Train for this many optimiser steps instead of --epochs.
    batch_size
        Use batches of this many photos; by default 8.
    crop
        Train on windows of this height and width; by default the photos' usual shorter side, from 128 to 512.
    short_side
        Resize photos to this shorter side before windows are cut, and for validation; by default they keep their size.
    lr
        Begin with this learning rate; by default 0.001.
    seed
        Draw weights, order and augmentation from this seed; by default 0.
    precision
        Compute in fp32, bf16, or auto (the default: bf16 where the hardware multiplies it natively).
    sides
        Validate at these shorter sides of the photos, in the study position; in reduction and models, measure square
        images of these sides.
    only
        Compare these networks of the study alone, by the names of their run folders, such as segformer_b0 mit_b0_fpn.
    workers
        Load photos in this many worker processes.
    overwrite
        Replace tables and pictures even if they are not those of an earlier study.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "data.bands": learnt_bands(bands),
        "data.nodata": nodata,
    }

    from terrazzo.ablation.ablate import ablate as run_study

    result = run_study(
        study,
        data,
        output,
        labels=labels,
        overrides={key: value for key, value in given.items() if value is not None},
        short_side=short_side,
        sides=sides,
        only=only,
        workers=workers,
        device=device,
        overwrite=overwrite,
    )
    say(*result.markdown().split("\n"))
    say(f"written to {output}: {study}.md, .json and .png")
