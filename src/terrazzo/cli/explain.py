"""`terrazzo explain`."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.advice import fitting
from terrazzo.cli.options import (
    PHOTOS,
    BandsOption,
    DeviceOption,
    FrameOption,
    SkipBadOption,
    ValueRangeOption,
    read_options,
)
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.provenance import tell_origin
from terrazzo.cli.say import say
from terrazzo.data.choose_images import choose_images
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.read import image_size
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict_folder import output_places
from terrazzo.interpret.points import Point, check_points
from terrazzo.ownership import check_outputs
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["explain"]

SHOWN = ("attention", "receptive-field")


def explain(
    images: Annotated[list[str], Parameter(name="PHOTOS", negative=(), help=PHOTOS)],
    /,
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = DEFAULT_MODEL,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("terrazzo-output"),
    show: str = "attention,receptive-field",
    at: list[str] | None = None,
    layers: str | None = None,
    heads: bool = False,
    window: int = 512,
    device: DeviceOption = None,
    bands: BandsOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    skip_bad: SkipBadOption = False,
) -> None:
    """Show what a model looks at: attention maps and effective receptive fields.

    For each photo this writes NAME_attention.png and .npz: where some points of it look, in some layers. For all photos
    together it writes receptive_field.png and .npz: which pixels the middle of each feature map and of the result
    depends on, on average.

    Examples:
        terrazzo explain street.jpg
        terrazzo explain street.jpg --at 240,180 --at 30,300 --layers 1.1,4.2
        terrazzo explain photos/ --model runs/mine --show receptive-field

    Parameters
    ----------
    model
        Explain this model: a shipped one, a model folder, or the output folder of a training run.
    output
        Write the results into this folder; subfolders of a folder of photos are kept.
    show
        Show these, with commas between: attention, receptive-field.
    at
        Ask about the point X,Y, in pixels of the photo from its upper left; give --at once for each point. By default
        it asks about the photo's centre and the middles of the largest classes seen.
    layers
        Show these layers of attention, with commas between: 2.1 is block 1 of stage 2 of a SegFormer, 12 a block of a
        SETR, decoder the attention of a decoder. By default it shows the last block of each stage, or the blocks whose
        output the decoders read, and the decoder's.
    heads
        Draw each head of a layer too.
    window
        Cut windows of this side, in pixels, from the middle of larger photos for the receptive fields.
    overwrite
        Replace files even if they are not results of `terrazzo explain`. Photos are never replaced.
    """
    kinds = [kind.strip() for kind in show.split(",")]
    if unknown := [kind for kind in kinds if kind not in SHOWN]:
        raise ConfigError(f"--show has an unknown kind {unknown[0]!r}", fix=f"choose from {', '.join(SHOWN)}")
    points = None if at is None else [_point(text) for text in at]
    reading = read_options(bands, frame, value_range)
    paths, _ = choose_images(images)
    places = output_places(paths, images, output)
    files = [[folder / f"{stem}_attention{suffix}" for suffix in (".png", ".npz")] for folder, stem in places]
    files = files if "attention" in kinds else []
    if "receptive-field" in kinds:
        files.append([output / f"receptive_field{suffix}" for suffix in (".png", ".npz")])
    check_outputs(chain.from_iterable(files), "explain", inputs=[*paths, Path(model)], overwrite=overwrite)
    if points is not None:
        for path in paths:
            with suppress(ImageError):  # told when its turn comes
                check_points(points, *image_size(path, bands_chosen=bands is not None), str(path))

    # Only here, so that a mistyped path is told at once and not after torch has been imported.
    from terrazzo.engines.torch import find_device
    from terrazzo.interpret.attention import attention_maps
    from terrazzo.interpret.receptive_field import check_window, receptive_fields
    from terrazzo.weights.load import load

    find_device(device)  # a wrong one is told before anything else is
    check_window(window)
    trained = load(model)
    chosen = None if layers is None else [layer.strip() for layer in layers.split(",")]
    tell_origin(model, trained.record)
    good: list[Path] = []
    written: list[Path] = []
    with progress_bar("attention") as progress:
        for number, (path, (folder, stem)) in enumerate(zip(paths, places, strict=True), 1):
            try:
                if "attention" not in kinds:
                    reading.for_model(trained.preprocess.bands).read(path)
                else:
                    maps = attention_maps(path, trained, points=points, layers=chosen, device=device, reading=reading)
                    written += maps.save(folder, stem, heads=heads, overwrite=overwrite)
                    if len(paths) == 1:
                        say(*maps.table().split("\n"), "")
                good.append(path)
            except ConfigError:
                raise  # an option that fits no photo
            except Exception as error:
                failure = Failure.of(path, error)
                fix = fitting(failure.error.fix, "explain")
                say(f"skipped: {failure.error.message}", f"  fix: {fix}", error=True)
            progress(number, len(paths))
    if good and "receptive-field" in kinds:
        with progress_bar("receptive field") as progress:
            fields = receptive_fields(good, trained, window=window, device=device, reading=reading, progress=progress)
        written += fields.save(output, overwrite=overwrite)
        say(*fields.table().split("\n"), "")
    failed = len(paths) - len(good)
    if len(good) == 1:
        say(*map(str, written))
    else:
        told = f", {failed} failed" if failed else ""
        say(f"{len(good)} of {len(paths)} photos explained, {len(written)} files written to {output}{told}")
    if failed and not (skip_bad and good):
        sys.exit(2)


def _point(text: str) -> Point:
    try:
        x, y = (int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--at {text!r} is not a point", fix="give whole pixels x,y such as --at 240,180", code="explain-point"
        ) from None
    return x, y
