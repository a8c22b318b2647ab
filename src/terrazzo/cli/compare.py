"""`terrazzo compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.engine import EngineOption
from terrazzo.cli.options import (
    BandsOption,
    DeviceOption,
    FrameOption,
    ProtocolOption,
    ThreadsOption,
    TrustOption,
    ValueRangeOption,
    read_options,
)
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.say import say
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.protocols import WHOLE, find_protocol
from terrazzo.ownership import check_outputs, write_result

__all__ = ["compare"]


def compare(
    a: Annotated[str, Parameter(negative=())],
    b: Annotated[str, Parameter(negative=())],
    /,
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    split: str = "val",
    labels: str | None = None,
    mask_values: Literal["stored", "indices"] | None = None,
    only: str | None = None,
    crowds: Literal["ignore", "objects"] | None = None,
    group_by: str | None = None,
    protocol: ProtocolOption = WHOLE.name,
    engine: EngineOption = "auto",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    bands: BandsOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    trust_file: TrustOption = False,
) -> None:
    """Measure two models on the same labelled photos: the difference of their mIoU, and how sure it is.

    The interval comes from drawing photos again and again, the same for both models (paired bootstrap). Where it holds
    0, these photos do not show which model is better.

    Examples:
        terrazzo compare runs/old runs/new --data my-folder
        terrazzo compare runs/new new.int8.onnx --data my-folder --output difference

    Parameters
    ----------
    a
        Take this model for A, in any form that `terrazzo evaluate` takes.
    b
        Take this model for B; the difference is its score less A's.
    data
        Read the data set in this folder.
    split
        Measure on this split of it.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file, where the folder does not name them.
    mask_values
        Read the masks of such a folder as stored or as indices, as `terrazzo evaluate` does.
    only
        Measure only on photos whose name matches this pattern in quotes.
    crowds
        Take iscrowd: 1 in COCO JSON for areas to ignore, or for objects; by default as in each model's training.
    group_by
        Draw groups of photos whose names begin alike by this regular expression in quotes, such as '[^_]+' for all up
        to the first _: photos of one drive or patient are not independent.
    output
        Write into this folder: table, JSON, scores of each photo, a chart by class, and a sheet of the photos on which
        the models differ most.
    json
        Write the comparison as JSON into this file.
    overwrite
        Replace files even if they are not results of `terrazzo compare`. Data and models are never replaced.
    """
    procedure = find_protocol(protocol)
    reading = read_options(bands, frame, value_range)

    from terrazzo.evaluation.compare import compare as measure
    from terrazzo.evaluation.comparison import comparison_files
    from terrazzo.evaluation.evaluator import MANY_IMAGES

    inputs = [data, Path(a), Path(b), *([] if labels is None else [Path(labels)])]
    if output is not None:
        check_outputs(comparison_files(output), "compare", inputs=inputs, overwrite=overwrite)
    if json is not None:
        check_outputs([json], "compare", inputs=inputs, overwrite=overwrite, option="--json")

    keep_freed_memory()
    first, second = (
        make_predictor(
            model,
            device,
            procedure,
            engine=engine,
            threads=threads,
            precision="fp32",
            workload=MANY_IMAGES,
            trust=trust_file,
        )
        for model in (a, b)
    )
    with progress_bar("compare") as progress:
        comparison = measure(
            first,
            second,
            data,
            split=split,
            labels=labels,
            mask_values=mask_values,
            only=only,
            crowds=crowds,
            group_by=group_by,
            reading=reading,
            progress=progress,
        )
    say(*comparison.table().split("\n"))
    if output is not None:
        comparison.save(output, overwrite=overwrite)
        say(f"comparison written to {output}")
    if json is not None:
        write_result(json, comparison.to_json().encode("utf-8", "backslashreplace"), "compare")
