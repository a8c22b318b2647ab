"""`terrazzo average`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption, ProtocolOption
from terrazzo.cli.say import say

__all__ = ["average"]


def average(
    models: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    split: str = "val",
    labels: str | None = None,
    protocol: ProtocolOption = "whole",
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    device: DeviceOption = None,
) -> None:
    """Average the weights of several training runs, and keep what is better on validation photos.

    The models are taken from the best to the worst; each comes into the average if that raises its mIoU (a greedy model
    soup). Runs that started from the same weights gain by it; runs from different random weights do not.

    Examples:
        terrazzo average runs/a runs/b runs/c --data my-folder --output runs/soup
        terrazzo average runs/seed* --data my-folder --split holdout-drive --output soup

    Parameters
    ----------
    models
        Average these: two or more models of one architecture and with the same classes, such as the folders of runs.
    data
        Let the photos of this folder decide.
    output
        Write the model into this folder, which must not be there yet, or be empty.
    split
        Take this split of them.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file; by default they are the folder's own.
    overwrite
        Replace a folder that holds a model and nothing else.
    """
    from terrazzo.training.averaging import average as make_average

    made = make_average(
        list(models),
        output,
        data,
        split=split,
        labels=labels,
        protocol=protocol,
        overwrite=overwrite,
        device=device,
    )
    for name, score in made.scores.items():
        added = "" if name not in made.tried else f", the average with it {made.tried[name]:.2f}"
        say(f"{name}: mIoU {score:.2f}{added}; {'kept' if name in made.kept else 'left out'}")
    if len(made.kept) > 1:
        say(f"average of {len(made.kept)} models, mIoU {made.mIoU:.2f}, written to {made.output}")
    else:
        say(f"no average is better than {made.kept[0]} alone, which was written to {made.output}")
