"""`terrazzo predict`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.engine import EngineOption
from terrazzo.cli.options import (
    PHOTOS,
    BandsOption,
    CompileOption,
    DeviceOption,
    FrameOption,
    ModelOption,
    ProtocolOption,
    SkipBadOption,
    ThreadsOption,
    TrustOption,
    ValueRangeOption,
    read_options,
)
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.provenance import tell_origin
from terrazzo.cli.say import say
from terrazzo.data.sources.region import parse_region
from terrazzo.engines.engine import Precision
from terrazzo.engines.memory import keep_freed_memory, share_freed_memory
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.inference.failure import Failure
from terrazzo.inference.overlay import Style
from terrazzo.inference.predict_folder import Written, predict_folder
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE
from terrazzo.inference.raster import RasterOptions
from terrazzo.text import list_names, show, shown_path
from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_names, example_image

__all__ = ["predict"]


def predict(
    images: Annotated[list[str] | None, Parameter(name="PHOTOS", negative=(), help=PHOTOS)] = None,
    /,
    *,
    example: Annotated[bool, Parameter(negative=())] = False,
    model: ModelOption = DEFAULT_MODEL,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("terrazzo-output"),
    save: str = "mask,color,overlay,json",
    classes: str | None = None,
    alpha: float = 0.55,
    cutout: str | None = None,
    protocol: ProtocolOption = WHOLE.name,
    engine: EngineOption = "auto",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    batch_size: int = 1,
    precision: Precision = "auto",
    compile: CompileOption = False,
    bands: BandsOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    max_pixels: int = MAX_PIXELS,
    region: str | None = None,
    cog: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    skip_bad: SkipBadOption = False,
    trust_file: TrustOption = False,
) -> None:
    """Turn photos into masks and pictures, at the photos' own size.

    For each photo this writes NAME_mask.png (class indices, shown in colours), NAME_color.png, NAME_overlay.png (the
    photo under its classes, with a legend) and NAME.json (area of each class). A georeferenced raster becomes
    NAME_mask.tif with the same place on the map.

    Examples:
        terrazzo predict --example
        terrazzo predict street.jpg
        terrazzo predict photos/ '*.png' --output masks --save mask,json

    Parameters
    ----------
    example
        Segment the example photo that ships with the model, in place of photos of your own.
    output
        Write the results into this folder; subfolders of a folder of photos are kept. For a single photo and kind it
        can be a file.
    save
        Write these kinds of files, with commas between: mask, color, overlay, cutout, probabilities, confidence,
        entropy, polygons, json.
    classes
        Paint only these classes in the overlay, such as Car,Sky; by default all but one called background. A name that
        has a comma in it is given in quotes: '"Car, parked",Sky'.
    alpha
        Give the colours this weight in the overlay, from 0 (only the photo) to 1 (only the colours).
    cutout
        Write NAME_cutout.png too: the photo where it shows these classes, named as in --classes, transparent
        elsewhere.
    batch_size
        Put at most so many photos of equal size through the network together.
    precision
        Compute in fp32; in bf16, where the processor has it: faster, and some pixels on edges differ; or auto: fp32 on
        a CPU, and on a GPU float16 where that finds the same classes.
    max_pixels
        Refuse photos with more pixels than this, but for TIFFs that are read in windows (--protocol slide).
    region
        Of georeferenced rasters, take only left,bottom,right,top in their coordinates, or the outline in this GeoJSON
        file.
    cog
        Write cloud-optimised GeoTIFFs.
    overwrite
        Replace files even if they are not results of `terrazzo predict`. Photos are never replaced.
    """
    style = Style(alpha, _class_names("--classes", classes), _class_names("--cutout", cutout) or ())
    chosen = _images(images or [], example, model)
    keep_freed_memory()
    share_freed_memory()
    with progress_bar("predict") as bar:

        def started(predictor: Predictor) -> None:
            tell_origin(model, predictor.record)

        def progress(outcome: Written | Failure, number: int, count: int) -> None:
            if isinstance(outcome, Failure):
                say(f"skipped: {outcome.error.message}", f"  fix: {outcome.error.fix}", error=True)
            bar(number, count)

        summary = predict_folder(
            chosen,
            output,
            model,
            save=save if cutout is None else f"{save},cutout",
            style=style,
            overwrite=overwrite,
            protocol=protocol,
            engine=engine,
            device=device,
            threads=threads,
            precision=precision,
            compiled=compile,
            batch_size=batch_size,
            reading=read_options(bands, frame, value_range, max_pixels),
            raster=RasterOptions(None if region is None else parse_region(region), cog),
            trust=trust_file,
            started=started,
            progress=progress,
        )
    done, failed = len(summary.written), len(summary.failures)
    if done == 1 and not failed:
        (written,) = summary.written
        for area in written.areas:
            say(f"  {area.share:6.1%}  {area.name}")
        say(*map(str, written.files.values()))
    else:
        say(f"{done} of {done + failed} photos written to {output}" + (f", {failed} failed" if failed else ""))
    if failed and not (skip_bad and done):
        sys.exit(2)


def _class_names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Split names at commas, as a line of CSV: a name in double quotes may have commas in it."""
    if text is None:
        return None
    try:
        (names,) = csv.reader([text], skipinitialspace=True, strict=True)
        if option == "--classes" and not any(map(str.strip, names)):
            raise ValueError("which would paint nothing")
    except (csv.Error, ValueError):  # ValueError: line breaks too
        raise ConfigError(
            f"{option} is {show(text)}", fix=f"give names with commas between, as in {option} '\"Car, parked\",Sky'"
        ) from None
    return tuple(name.strip() for name in names if name.strip())


def _images(images: list[str], example: bool, model: str) -> list[str]:
    """Return the photos to segment: those named, or the model's example."""
    if not example:
        if not images:
            raise ConfigError(
                "no photos are named",
                fix="name photos, folders or patterns, or try --example; see `terrazzo predict --help`",
                code="usage",
            )
        return images
    if images:
        raise ConfigError(
            f"--example takes the place of photos, and {list_names(images)} is given too",
            fix="leave out one of them",
            code="usage",
        )
    path = example_image(model)
    if path is None:
        with_one = [name for name in bundled_names() if example_image(name)]
        raise ConfigError(
            f"{shown_path(model)} has no example photo",
            fix=f"name photos of your own, or take a model that ships with one: {list_names(with_one)}",
            code="example-none",
        )
    return [str(path)]
