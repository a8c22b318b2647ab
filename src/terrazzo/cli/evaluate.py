"""`terrazzo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.engine import EngineOption
from terrazzo.cli.options import (
    BandsOption,
    CompileOption,
    DeviceOption,
    FrameOption,
    ModelOption,
    ProtocolOption,
    ThreadsOption,
    TrustOption,
    ValueRangeOption,
    read_options,
)
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.provenance import tell_origin
from terrazzo.cli.say import say
from terrazzo.data.sources.raster import is_raster
from terrazzo.data.sources.region import parse_region
from terrazzo.engines.engine import Precision
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.protocols import WHOLE, find_protocol
from terrazzo.inference.raster import RasterOptions
from terrazzo.ownership import check_outputs, write_result
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["evaluate"]


def evaluate(
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    split: str = "val",
    model: ModelOption = DEFAULT_MODEL,
    labels: str | None = None,
    mask_values: Literal["stored", "indices"] | None = None,
    only: str | None = None,
    crowds: Literal["ignore", "objects"] | None = None,
    protocol: ProtocolOption = WHOLE.name,
    engine: EngineOption = "auto",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    precision: Precision = "fp32",
    compile: CompileOption = False,
    bands: BandsOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    truth: Path | None = None,
    attribute: str | None = None,
    region: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    trust_file: TrustOption = False,
) -> None:
    """Measure a model on labelled photos: mIoU, mAcc, aAcc, per-class values, boundary IoU.

    Examples:
        terrazzo evaluate --data my-folder --split val --model runs/mine
        terrazzo evaluate --data camvid --model segformer_b0.camvid --output report
        terrazzo evaluate --data my-folder --model runs/mine --protocol multi-scale
        terrazzo evaluate --data scene.tif --truth buildings.geojson --model runs/mine

    Parameters
    ----------
    data
        Read the data set in this folder; or, with --truth, this georeferenced raster.
    split
        Measure on this split of it.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file, where the folder does not name them.
    mask_values
        Read the masks of such a folder as stored (they hold the values that the model's own masks stored) or as
        indices (they hold class indices); the command asks for it where both are possible.
    only
        Measure only on photos whose name matches this pattern in quotes.
    crowds
        Take iscrowd: 1 in COCO JSON for areas to ignore, or for objects; by default as in the model's training.
    precision
        Compute in fp32; bf16 where the processor has it; or auto, what `terrazzo predict` takes for many photos.
    truth
        Compare a raster with this: a GeoTIFF of class indices in its grid, or polygons in GeoJSON.
    attribute
        Read the class of a polygon from this property; by default from class, where the polygons have it.
    region
        Compare only left,bottom,right,top in the raster's coordinates, or the outline in this GeoJSON file.
    output
        Write the report into this folder: JSON, table, per-class chart, confusion matrix.
    json
        Write the report as JSON into this file.
    overwrite
        Replace files even if they are not results of `terrazzo evaluate`. Data and model are never replaced.
    """
    procedure = find_protocol(protocol)
    reading = read_options(bands, frame, value_range)

    from terrazzo.data import find_layout
    from terrazzo.evaluation.evaluator import MANY_IMAGES
    from terrazzo.evaluation.evaluator import evaluate as measure
    from terrazzo.evaluation.report import report_files

    options = None if region is None else RasterOptions(parse_region(region))
    inputs = [data, Path(model), *(Path(file) for file in (labels, truth) if file is not None)]
    if output is not None:
        check_outputs(report_files(output), "evaluate", inputs=inputs, overwrite=overwrite)
    if json is not None:
        check_outputs([json], "evaluate", inputs=inputs, overwrite=overwrite, option="--json")

    keep_freed_memory()
    if truth is None and not is_raster(data):
        say(f"{data}: taken for {find_layout(data).name}")
    predictor = make_predictor(
        model,
        device,
        procedure,
        engine=engine,
        threads=threads,
        precision=precision,
        compiled=compile,
        workload=MANY_IMAGES,
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
            truth=truth,
            attribute=attribute,
            raster=options,
            progress=progress,
        )
    say(*report.table().split("\n"))
    if output is not None:
        report.save(output, overwrite=overwrite)
        say(f"report written to {output}")
    if json is not None:
        write_result(json, report.to_json().encode("utf-8", "backslashreplace"), "evaluate")
