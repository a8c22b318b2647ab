"""`terrazzo calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.options import BandsOption, DeviceOption, FrameOption, ProtocolOption, ValueRangeOption, read_options
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.say import say
from terrazzo.inference.protocols import WHOLE, find_protocol

__all__ = ["calibrate"]


def calibrate(
    model: Annotated[str, Parameter(negative=())],
    /,
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    split: str = "val",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    labels: str | None = None,
    mask_values: Literal["stored", "indices"] | None = None,
    only: str | None = None,
    crowds: Literal["ignore", "objects"] | None = None,
    protocol: ProtocolOption = WHOLE.name,
    device: DeviceOption = None,
    bands: BandsOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Fit a temperature on labelled photos, so that the model is right in 80% of pixels where it says 80%.

    The temperature is stored with the model, and goes into files exported from it. Probabilities, confidence and
    entropy are then computed with it. Masks stay as they are.

    Examples:
        terrazzo calibrate runs/mine --data my-folder
        terrazzo calibrate segformer_b0.camvid --data camvid --output calibrated

    Parameters
    ----------
    model
        Calibrate this run's folder or model folder; with --output any model that `terrazzo convert` reads.
    data
        Read the data set in this folder.
    split
        Fit on this split of it; the model should not have learnt from its photos.
    output
        Write a copy of the model with its temperature into this folder, and leave the model as it is.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file, where the folder does not name them.
    mask_values
        Read the masks of such a folder as stored or as indices, as `terrazzo evaluate` does.
    only
        Fit only on photos whose name matches this pattern in quotes.
    crowds
        Take iscrowd: 1 in COCO JSON for areas to ignore, or for objects; by default as in the model's training.
    overwrite
        Replace an --output that holds a converted model and nothing else.
    """
    procedure = find_protocol(protocol)
    reading = read_options(bands, frame, value_range)

    from terrazzo.evaluation.calibrate import calibrate as fit

    with progress_bar("calibrate") as progress:
        result = fit(
            model,
            data,
            output,
            split=split,
            labels=labels,
            mask_values=mask_values,
            only=only,
            crowds=crowds,
            protocol=procedure,
            device=device,
            reading=reading,
            overwrite=overwrite,
            progress=progress,
        )
    say(*str(result).split("\n"))
    say(f"written to {result.folder}")
