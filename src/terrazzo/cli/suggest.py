"""`terrazzo suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.options import (
    PHOTOS,
    BandsOption,
    DeviceOption,
    FrameOption,
    ModelOption,
    ValueRangeOption,
    read_options,
)
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.provenance import tell_origin
from terrazzo.cli.say import say
from terrazzo.ownership import check_outputs
from terrazzo.text import shown_path

__all__ = ["suggest"]


def suggest(
    images: Annotated[list[str], Parameter(name="PHOTOS", negative=(), help=PHOTOS)],
    /,
    *,
    model: ModelOption,
    budget: int = 50,
    labelled: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("terrazzo-suggestions"),
    device: DeviceOption = None,
    bands: BandsOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Choose the photos to label next, and write their masks for CVAT and Label Studio to correct.

    Chosen are photos of which the model is unsure (the entropy of its probabilities over the photo and its mirror
    image), spread by the distance of the encoder's features, so that no two are alike.

    Written are suggestions.csv and .json (the list), suggestions.png (a contact sheet), photos.zip (the photos),
    cvat.zip (masks as CVAT's "Segmentation mask 1.1"), label_studio.json (tasks with brush masks) and label_studio.xml
    (the project's labelling configuration).

    Examples:
        terrazzo suggest new/ --model runs/mine --budget 50
        terrazzo suggest new/ --model runs/mine --labelled my-folder/train/images

    Parameters
    ----------
    budget
        Choose so many photos.
    labelled
        Name photos that have labels already, so that others come first than those that resemble them.
    output
        Write the files into this folder.
    overwrite
        Replace files even if they are not results of `terrazzo suggest`. Photos are never replaced.
    """
    from terrazzo.labelling.suggest import suggest as choose
    from terrazzo.labelling.suggest import suggestion_files

    inputs = [Path(path) for path in [*images, *(labelled or ()), model]]
    check_outputs(suggestion_files(output), "suggest", inputs=inputs, overwrite=overwrite)
    reading = read_options(bands, frame, value_range)
    with progress_bar("suggest") as progress:
        chosen = choose(
            images, model, budget=budget, labelled=labelled, device=device, reading=reading, progress=progress
        )
    tell_origin(model, chosen.predictor.record)
    say(f"{len(chosen.photos)} of {chosen.candidates} photos to label next; the first of them:")
    say(*chosen.table().split("\n"))
    chosen.save(output, overwrite=overwrite)
    say(f"written to {shown_path(output)}: suggestions.png shows them")
