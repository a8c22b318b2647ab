"""`terrazzo ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption
from terrazzo.cli.say import say

__all__ = ["ablate"]


def ablate(
    study: str,
    /,
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    labels: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    crop: tuple[int, int] | None = None,
    short_side: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    precision: str | None = None,
    sides: Annotated[list[int] | None, Parameter(consume_multiple=True, negative=())] = None,
    workers: int = 0,
    device: DeviceOption = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Put a claim of the papers to the test: train variants of a network alike, and compare them.

    Studies: position (Mix-FFN or learned positions), patches (overlapping, plain, larger), reduction (of attention's
    keys), width (of the decoder), stages (fed to the decoder), decoders (SETR's three), models (SegFormer, PVT v2, SETR
    and FCN; needs the extra backbones).

    Each writes STUDY.md, .csv, .json and .png. The same command goes on where an interrupted one was, and studies in
    one output folder share the networks that they have in common.

    Examples:
        terrazzo ablate stages --data my-folder --output ablation
        terrazzo ablate position --data my-folder --output ablation --sides 180 360

    Parameters
    ----------
    study
        position, patches, reduction, width, stages, decoders or models.
    data
        The data set's folder.
    output
        Folder for the table, the plots, and the trained networks.
    labels
        A bundled class list (such as camvid) or a YAML file, for a folder that does not say what its classes are.
    epochs
        Passes over the training photos; by default 20.
    steps
        Optimiser steps, instead of --epochs.
    batch_size
        Photos per step.
    crop
        Height and width of the training windows.
    short_side
        Shorter side that photos are brought to before windows are cut, and for validation.
    lr
        Base learning rate.
    seed
        Of weights, order and augmentation.
    precision
        fp32, bf16, or auto (bf16 where the hardware multiplies it natively).
    sides
        For position: shorter sides of the photos to validate at. For reduction and models: sides of the square images
        that are measured.
    workers
        Loader processes.
    overwrite
        Replace tables and pictures that are not those of an earlier study, too.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "lr": lr,
        "seed": seed,
        "precision": precision,
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
        workers=workers,
        device=device,
        overwrite=overwrite,
    )
    say(*result.markdown().split("\n"))
    say(f"written to {output}: {study}.md, .csv, .json and .png")
