"""`terrazzo check-labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.say import say
from terrazzo.ownership import check_outputs
from terrazzo.text import shown_path

__all__ = ["check_labels"]


def check_labels(
    data: Path,
    /,
    *,
    model: Annotated[list[str], Parameter(name=["--model", "-m"], negative=(), consume_multiple=True)],
    split: str = "val",
    labels: str | None = None,
    worst: int = 24,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("terrazzo-labels"),
    device: DeviceOption = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Find the masks of a data set that are most likely wrong.

    Each mask is judged by a model that has not learnt from it: it is likely wrong where the model is sure of another
    class. Written are masks.csv and masks.json (all masks, the worst first, with the region in doubt) and masks.png
    (photo, mask and prediction of the worst, with this region framed). Masks are never changed.

    Examples:
        terrazzo check-labels my-folder --model runs/mine
        terrazzo check-labels my-folder --model runs/fold1 runs/fold2 runs/fold3

    Parameters
    ----------
    data
        Read the data set in this folder.
    model
        Judge by these models: runs, model folders or shipped ones. Of the runs of a cross-validation each judges the
        photos that it was validated on.
    split
        Judge the masks of this split; val are those that a run was validated on.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file, where the folder does not name them.
    worst
        Look closely at so many of the worst, and draw them.
    output
        Write the files into this folder.
    overwrite
        Replace files even if they are not results of `terrazzo check-labels`. Data and models are never replaced.
    """
    from terrazzo.labelling.check_labels import check_labels as check
    from terrazzo.labelling.check_labels import label_check_files

    inputs = [data, *map(Path, model), *([] if labels is None else [Path(labels)])]
    check_outputs(label_check_files(output), "check-labels", inputs=inputs, overwrite=overwrite)
    with progress_bar("check-labels") as progress:
        found = check(data, model, split=split, labels=labels, worst=worst, device=device, progress=progress)
    say(f"{len(found.masks)} masks, the likeliest to be wrong first:")
    say(*found.table().split("\n"))
    found.save(output, overwrite=overwrite)
    say(f"written to {shown_path(output)}: masks.png shows the worst")
