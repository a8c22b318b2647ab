"""`terrazzo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.engine import EngineOption
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.provenance import tell_origin
from terrazzo.cli.reading import read_options
from terrazzo.cli.say import say
from terrazzo.engines.engine import Precision
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.protocols import WHOLE, find_protocol
from terrazzo.ownership import check_outputs, write_result
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["evaluate"]


def evaluate(
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    split: str = "val",
    model: Annotated[str, Parameter(name=["--model", "-m"])] = DEFAULT_MODEL,
    labels: str | None = None,
    mask_values: Literal["stored", "indices"] | None = None,
    only: str | None = None,
    crowds: Literal["ignore", "objects"] | None = None,
    protocol: str = WHOLE.name,
    engine: EngineOption = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    compile: Annotated[bool, Parameter(negative=())] = False,
    bands: str | None = None,
    frame: int | None = None,
    value_range: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    trust_file: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure a model on labelled photos: mIoU, mAcc, aAcc, per-class values, boundary IoU.

    Examples:
        terrazzo evaluate --data my-folder --split val --model runs/mine
        terrazzo evaluate --data camvid --model segformer_b0.camvid --output report
        terrazzo evaluate --data my-folder --model runs/mine --protocol multi-scale

    Parameters
    ----------
    data
        The data set's folder.
    split
        Which split of it.
    model
        Shipped model, model folder, output folder of a training run, checkpoint file, hub id, or an exported file.
    labels
        A bundled class list (such as camvid), for a folder that does not say what its classes are.
    mask_values
        For such a folder: `stored` where masks hold the values that the model's own masks stored, or `indices` where
        they hold class indices; asked for where both are possible.
    only
        A pattern in quotes: only photos whose name matches it.
    crowds
        What iscrowd: 1 means in COCO JSON: ignore, or objects; by default as in the model's training.
    protocol
        How photos are shown to the network: whole, slide, multi-scale, or a paper's, such as segformer-ade20k.
    device
        cpu; cuda, cuda:1 or a GPU's number; mps or xpu. By default a GPU where there is one.
    threads
        Computing threads; by default one for each core.
    precision
        fp32; bf16 where the processor has it; or auto: on a GPU float16 where that finds the same classes.
    compile
        Compile PyTorch's network. For GPUs, and many photos of few sizes.
    bands
        Which bands of TIFF photos are red, green and blue, counted from 1, such as 4,3,2; or the one that is grey.
    frame
        Which frame or page to take of photos that have several, from 0.
    value_range
        Which values are black and white in photos of more than 8 bits, such as 0,4095.
    output
        Folder for the report: JSON, table, per-class chart, confusion matrix.
    json
        File for the report as JSON.
    overwrite
        Replace files that are not results of `terrazzo evaluate`, too. Data and model are never replaced.
    trust_file
        Open a .pt2 file that was not exported here, and remember it: such files can run any code on this machine.
    """
    procedure = find_protocol(protocol)
    reading = read_options(bands, frame, value_range)

    from terrazzo.data import find_layout
    from terrazzo.evaluation.evaluator import MANY_PHOTOS
    from terrazzo.evaluation.evaluator import evaluate as measure
    from terrazzo.evaluation.report import report_files

    inputs = [data, Path(model)]
    if output is not None:
        check_outputs(report_files(output), "evaluate", inputs=inputs, overwrite=overwrite)
    if json is not None:
        check_outputs([json], "evaluate", inputs=inputs, overwrite=overwrite, option="--json")

    keep_freed_memory()
    say(f"{data}: taken for {find_layout(data).name}")
    predictor = make_predictor(
        model,
        device,
        procedure,
        engine=engine,
        threads=threads,
        precision=precision,
        compiled=compile,
        workload=MANY_PHOTOS,
        trust=trust_file,
    )
    tell_origin(model, predictor.record)
    with progress_bar("evaluate") as progress:
        report = measure(
            predictor,
            data,
            split=split,
            labels=labels,
            mask_values=mask_values,
            only=only,
            crowds=crowds,
            reading=reading,
            progress=progress,
        )
    say(*report.table().split("\n"))
    if output is not None:
        report.save(output, overwrite=overwrite)
        say(f"report written to {output}")
    if json is not None:
        write_result(json, report.to_json().encode("utf-8", "backslashreplace"), "evaluate")
