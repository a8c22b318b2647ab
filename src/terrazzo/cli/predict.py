"""`terrazzo predict`."""

from __future__ import annotations

import csv
import sys
from os import PathLike
from os.path import isdir
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from terrazzo.cli.distributed import predict_with_ray
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
from terrazzo.data.sources.find_videos import find_videos
from terrazzo.data.sources.region import parse_region
from terrazzo.engines.engine import Precision
from terrazzo.engines.memory import keep_freed_memory, share_freed_memory
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.find_images import find_images
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.inference.failure import Failure
from terrazzo.inference.kinds import DEFAULT_KINDS
from terrazzo.inference.overlay import Style
from terrazzo.inference.predict_folder import Written, output_places, predict_folder
from terrazzo.inference.predict_video import VideoSummary, predict_video
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE
from terrazzo.inference.raster import RasterOptions
from terrazzo.inference.video_kinds import DEFAULT_VIDEO_KINDS
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
    save: str | None = None,
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
    every: int = 1,
    start: float = 0.0,
    stop: float | None = None,
    smooth: float = 0.0,
    value_range: ValueRangeOption = None,
    max_pixels: int = MAX_PIXELS,
    region: str | None = None,
    cog: Annotated[bool, Parameter(negative=())] = False,
    simplify: float = 0.0,
    mpp: float | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    skip_bad: SkipBadOption = False,
    trust_file: TrustOption = False,
    ray: Annotated[bool, Parameter(negative=())] = False,
    workers: int | None = None,
) -> None:
    """Turn photos into masks and pictures, at the photos' own size, and videos into videos.

    For each photo this writes NAME_mask.png (class indices, shown in colours), NAME_color.png, NAME_overlay.png (the
    photo under its classes, with a legend) and NAME.json (area of each class). A georeferenced raster becomes
    NAME_mask.tif with the same place on the map.

    For each video, animated GIF or WebP it writes NAME_overlay.mp4 (H.264, with the video's sound), NAME.csv (area of
    each class in each frame) and NAME.json.

    Examples:
        terrazzo predict --example
        terrazzo predict street.jpg
        terrazzo predict photos/ '*.png' --output masks --save mask,json
        terrazzo predict drive.mp4 --every 5 --save overlay,csv,mask

    Parameters
    ----------
    example
        Segment the example photo that ships with the model, in place of photos of your own.
    output
        Write the results into this folder; subfolders of a folder of photos are kept. For a single photo and kind it
        can be a file.
    save
        Write these kinds of files, with commas between: mask, color, overlay, cutout, probabilities, confidence,
        entropy, polygons, json, and geopackage of rasters; by default mask,color,overlay,json. Of videos: overlay,
        color, csv, json, mask (a folder with a PNG for each frame), mask-video (lossless FFV1); by default
        overlay,csv,json.
    classes
        Paint only these classes in the overlay, such as Car,Sky; by default all but one called background. A name that
        has a comma in it is given in quotes: '"Car, parked",Sky'.
    alpha
        Give the colours this weight in the overlay, from 0 (only the photo) to 1 (only the colours).
    cutout
        Write NAME_cutout.png too: the photo where it shows these classes, named as in --classes, transparent
        elsewhere.
    batch_size
        Use batches of at most this many photos of equal size.
    precision
        Compute in fp32; in bf16, where the processor has it: faster, and some pixels on edges differ; or auto, which
        takes bf16 (on a GPU float16) for many photos where the first ones get the same classes in less time.
    every
        Segment only every n-th frame of a video, beginning with the first.
    start
        Start at this second of a video.
    stop
        Stop at this second of a video.
    smooth
        Average the logits of a video over time: give earlier frames this weight, from 0 to below 1. Masks flicker
        less, and lag by smooth / (1 - smooth) frames.
    max_pixels
        Refuse photos with more pixels than this, but for TIFFs that are read in windows (--protocol slide).
    region
        Segment only this part of georeferenced rasters: left,bottom,right,top in their coordinates, or the outline in
        this GeoJSON file.
    cog
        Write cloud-optimised GeoTIFFs.
    simplify
        Leave out of a raster's polygons what is smaller than about this, in the units of its coordinates. Borders that
        areas share stay shared.
    mpp
        Read whole-slide images, at the level of about so many micrometres a pixel.
    overwrite
        Replace files even if they are not results of `terrazzo predict`. Photos are never replaced.
    ray
        Spread the photos over the Ray cluster in RAY_ADDRESS, or over processes of this machine; Parquet tables and
        WebDataset shards (.tar) are photos too. The same command again does what is left.
    workers
        Processes with --ray; by default as many as the cluster has cores for.
    """
    if ray:
        given: dict[str, object] = {
            "--classes": classes, "--cutout": cutout, "--bands": bands, "--frame": frame, "--value-range": value_range,
            "--region": region, "--cog": cog, "--compile": compile, "--overwrite": overwrite, "--stop": stop,
        }  # fmt: skip
        predict_with_ray(
            _images(images or [], example, model), output, model, given, skip_bad, save=save, workers=workers,
            protocol=protocol, engine=engine, device=device, threads=threads, batch_size=batch_size,
            precision=precision, trust=trust_file,
        )  # fmt: skip
        return
    if workers is not None:
        raise ConfigError("--workers is for --ray", fix="leave it out, or add --ray", code="usage")
    style = Style(alpha, _class_names("--classes", classes), _class_names("--cutout", cutout) or ())
    chosen = _images(images or [], example, model)
    keep_freed_memory()
    share_freed_memory()
    videos, photos = find_videos(chosen) if frame is None else ([], list(chosen))
    timing: dict[str, Any] = {"every": every, "start": start, "stop": stop, "smooth": smooth}
    if videos:
        _refuse_photo_options(bands=bands, value_range=value_range, cutout=cutout, region=region)
    elif timing != {"every": 1, "start": 0.0, "stop": None, "smooth": 0.0}:
        raise ConfigError(
            "--every, --start, --stop and --smooth are for videos, and no video is named",
            fix="leave them out, or name a video",
            code="usage",
        )
    loaded: list[Predictor] = []  # once for all videos

    def started(predictor: Predictor) -> None:
        if not loaded:
            tell_origin(model, predictor.record)
        loaded.append(predictor)

    options: dict[str, Any] = {
        "overwrite": overwrite,
        "style": style,
        "protocol": protocol,
        "engine": engine,
        "device": device,
        "threads": threads,
        "precision": precision,
        "compiled": compile,
        "batch_size": batch_size,
        "trust": trust_file,
        "started": started,
    }
    done, failed = 0, 0
    for video, (folder, stem) in zip(videos, _places(videos, photos, chosen, output), strict=True):
        try:
            with progress_bar("predict") as bar:
                made = predict_video(
                    video,
                    folder,
                    loaded[0] if loaded else model,
                    save=save or DEFAULT_VIDEO_KINDS,
                    stem=stem,
                    progress=bar,
                    **timing,
                    **options,
                )
        except ImageError as error:
            if len(videos) == 1 and not photos:
                raise
            say(f"skipped: {error.message}", f"  fix: {error.fix}", error=True)
            failed += 1
        else:
            _show(made)
            done += 1
    if photos:
        with progress_bar("predict") as bar:

            def progress(outcome: Written | Failure, number: int, count: int) -> None:
                if isinstance(outcome, Failure):
                    say(f"skipped: {outcome.error.message}", f"  fix: {outcome.error.fix}", error=True)
                bar(number, count)

            def within(number: int, share: float, count: int) -> None:
                bar(number - 1 + share, count)

            kinds = save or ",".join(DEFAULT_KINDS)
            summary = predict_folder(
                photos,
                output,
                loaded[0] if loaded else model,
                save=kinds if cutout is None else f"{kinds},cutout",
                reading=read_options(bands, frame, value_range, max_pixels),
                raster=RasterOptions(None if region is None else parse_region(region), cog, simplify, mpp),
                progress=progress,
                within=within,
                **options,
            )
        written, lost = len(summary.written), len(summary.failures)
        if written == 1 and not lost:
            _show(summary.written[0])
        else:
            say(f"{written} of {written + lost} photos written to {output}" + (f", {lost} failed" if lost else ""))
        done, failed = done + written, failed + lost
    if failed and not (skip_bad and done):
        sys.exit(2)


def _show(made: Written | VideoSummary) -> None:
    for area in made.areas:
        say(f"  {area.share:6.1%}  {area.name}")
    say(*map(str, made.files.values()))


def _places(
    videos: list[Path], photos: list[str | PathLike[str]], arguments: list[str], output: Path
) -> list[tuple[Path, str | None]]:
    """Where each video's results go, and how their names begin: such that no two share one, nor one of the photos."""
    if not videos:
        return []
    if len(videos) == 1 and not photos and not isdir(arguments[0]):
        return [(output, None)]
    paths = [*videos, *(find_images(photos) if photos else [])]
    return list(output_places(paths, arguments, output)[: len(videos)])


def _refuse_photo_options(**options: str | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for photos, and a video is named",
                fix="leave it out, or segment photos and videos in separate runs",
                code="usage",
            )


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
