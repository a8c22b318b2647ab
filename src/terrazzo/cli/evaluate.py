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
from terrazzo.errors import ConfigError
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.protocols import WHOLE, find_protocol
from terrazzo.inference.raster import RasterOptions
from terrazzo.ownership import check_outputs, write_result
from terrazzo.text import show
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
    group_by: str | None = None,
    corruptions: str | None = None,
    severities: str | None = None,
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
        terrazzo evaluate --data scene.tif --truth houses.geojson --model runs/mine
        terrazzo evaluate --data my-folder --model runs/mine --corruptions noise

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
    group_by
        Draw confidence intervals from groups of photos whose names begin alike by this regular expression in quotes,
        such as '[^_]+' for all up to the first _: photos of one drive or patient are not independent.
    corruptions
        Measure on corrupted photos too: all, or some of noise, blur, weather, digital, or single ones such as fog,jpeg.
    severities
        Corrupt them by these severities of 1 to 5, such as 1,3,5; by default by all five.
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
    from terrazzo.evaluation.corruptions import choose_corruptions
    from terrazzo.evaluation.evaluator import MANY_IMAGES
    from terrazzo.evaluation.evaluator import evaluate as measure
    from terrazzo.evaluation.report import report_files
    from terrazzo.evaluation.robustness import evaluate_corruptions, robustness_files

    options = None if region is None else RasterOptions(parse_region(region))
    inputs = [data, Path(model), *(Path(file) for file in (labels, truth) if file is not None)]
    levels = _severities(severities, corruptions)
    if corruptions is not None:
        choose_corruptions(corruptions)  # a wrong name is told before anything is measured
    if output is not None:
        files = [*report_files(output), *(robustness_files(output) if corruptions is not None else ())]
        check_outputs(files, "evaluate", inputs=inputs, overwrite=overwrite)
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
            group_by=group_by,
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
    if corruptions is None:
        return
    with progress_bar("corruptions") as progress:
        robustness = evaluate_corruptions(
            predictor,
            data,
            corruptions=corruptions,
            severities=levels,
            split=split,
            labels=labels,
            mask_values=mask_values,
            only=only,
            crowds=crowds,
            reading=reading,
            clean=report,
            progress=progress,
        )
    say("", *robustness.table().split("\n"))
    if output is not None:
        robustness.save(output, overwrite=overwrite)
        say(f"robustness written to {output}")


def _severities(text: str | None, corruptions: str | None) -> tuple[int, ...]:
    if text is None:
        return (1, 2, 3, 4, 5)
    levels = [word.strip() for word in text.split(",")]
    if corruptions is None or not all(level in ("1", "2", "3", "4", "5") for level in levels):
        raise ConfigError(
            f"--severities is {show(text)}" + ("" if corruptions is not None else ", and there are no --corruptions"),
            fix="give some of 1,2,3,4,5 with --corruptions all",
            code="corruption-severity",
        )
    return tuple(int(level) for level in levels)
