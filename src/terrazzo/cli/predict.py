"""`terrazzo predict`."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.origin import tell_origin
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.reading import read_options
from terrazzo.engines.engine import Precision
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.errors import ConfigError
from terrazzo.images import find_images
from terrazzo.inference.choice import Workload
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Failure
from terrazzo.inference.protocols import WHOLE, find_protocol
from terrazzo.inference.result import KINDS, Segmentation
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["predict"]

SAVING_THREADS = 2


def predict(
    photos: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = DEFAULT_MODEL,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("terrazzo-output"),
    save: str = "mask,color,overlay,json",
    protocol: str = WHOLE.name,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    batch_size: int = 1,
    precision: Precision = "auto",
    compile: Annotated[bool, Parameter(negative=())] = False,
    bands: str | None = None,
    frame: int | None = None,
    value_range: str | None = None,
    max_pixels: int | None = None,
    skip_bad: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Turn photos into masks and pictures, at the photos' own size.

    For each photo this writes NAME_mask.png (class indices, shown in colours), NAME_color.png, NAME_overlay.png (the
    photo under its classes, with a legend) and NAME.json (area of each class).

    Examples:
        terrazzo predict street.jpg
        terrazzo predict photos/ '*.png' --output masks --save mask,json

    Parameters
    ----------
    photos
        Photo files, folders (searched to any depth) and patterns in quotes.
    model
        Shipped model, model folder, output folder of a training run, checkpoint file, hub id, or an exported file.
    output
        Folder for the results; subfolders of a folder of photos are kept.
    save
        What to write, with commas between: mask, color, overlay, probabilities, json.
    protocol
        How photos are shown to the network: whole, slide, multi-scale, or a paper's, such as segformer-ade20k.
    engine
        What computes: torch, openvino or onnxruntime; auto takes a GPU where there is one, and else what is done first.
    device
        cpu; cuda, cuda:1 or a GPU's number; mps or xpu. By default a GPU where there is one.
    threads
        Computing threads; by default one for each core.
    batch_size
        Photos of equal size that go through the network together.
    precision
        fp32; bf16 where the processor has it: faster, and some pixels on edges differ; or auto: fp32 on a CPU, and on a
        GPU float16 where that finds the same classes.
    compile
        Compile PyTorch's network. For GPUs, and many photos of few sizes.
    bands
        Which bands of a TIFF are red, green and blue, counted from 1, such as 4,3,2; or the one that is grey.
    frame
        Which frame or page to take of files that have several, from 0.
    value_range
        Which values are black and white in photos of more than 8 bits, such as 0,4095.
    max_pixels
        Refuse photos with more pixels than this.
    skip_bad
        Exit with status 0 although some photos could not be read.
    """
    kinds = [kind.strip() for kind in save.split(",")]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"--save has an unknown kind {unknown[0]!r}", fix=f"choose from {', '.join(KINDS)}")
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", fix="give at least 1")
    procedure = find_protocol(protocol)
    reading = read_options(bands, frame, value_range)
    paths = find_images(photos)
    places = output_places(paths, photos, output)

    keep_freed_memory()
    predictor = make_predictor(
        model,
        device,
        procedure,
        engine=engine,
        threads=threads,
        precision=precision,
        compiled=compile,
        workload=Workload.of(paths),
    )
    tell_origin(model, predictor.record)
    results = predictor.segment_files(
        paths,
        batch_size=batch_size,
        probabilities="probabilities" in kinds,
        max_pixels=max_pixels,
        reading=reading,
    )
    failed = 0
    saving: list[Future[dict[str, Path]]] = []
    with ThreadPoolExecutor(SAVING_THREADS) as pool, progress_bar("predict") as progress:
        for number, (result, (folder, stem)) in enumerate(zip(results, places, strict=True), 1):
            if isinstance(result, Failure):
                failed += 1
                print(f"skipped: {result.error.message}\n  fix: {result.error.fix}", file=sys.stderr)
            else:
                saving.append(pool.submit(result.save, folder, kinds, stem=stem))
                if len(paths) == 1:
                    print_areas(result)
            # Results wait for the disk in memory: a few at a time.
            while len(saving) > 2 * SAVING_THREADS:
                saving.pop(0).result()
            progress(number, len(paths))
        written = [future.result() for future in saving]
    done = len(paths) - failed
    if len(paths) == 1 and written:
        print("\n".join(str(path) for path in written[0].values()))
    else:
        print(
            f"{done} of {len(paths)} photos written to {output}" + (f", {failed} could not be read" if failed else "")
        )
    if failed and not (skip_bad and done):
        sys.exit(2)


def output_places(paths: list[Path], arguments: list[str], output: Path) -> list[tuple[Path, str]]:
    """Choose each photo's output folder and file name beginning, so that no two photos share one.

    Photos found in a folder keep their subfolder. Of two photos that would share a name (``a.jpg`` and ``a.png``), each
    gets its ending into the name (``a_jpg``, ``a_png``); any that still collide get a number.
    """
    roots = [Path(argument) for argument in arguments if Path(argument).is_dir()]
    folders = []
    for path in paths:
        inside = [path.parent.relative_to(root) for root in roots if path.is_relative_to(root)]
        folders.append(output / min(inside, key=lambda relative: len(relative.parts)) if inside else output)
    taken = Counter(zip(folders, (path.stem for path in paths), strict=True))
    places: list[tuple[Path, str]] = []
    used: set[tuple[Path, str]] = set()
    for path, folder in zip(paths, folders, strict=True):
        stem = path.stem if taken[folder, path.stem] == 1 else path.name.replace(".", "_")
        place, number = (folder, stem), 2
        while place in used:
            place, number = (folder, f"{stem}_{number}"), number + 1
        used.add(place)
        places.append(place)
    return places


def print_areas(result: Segmentation) -> None:
    """Print what a photo shows, largest class first."""
    for area in result.areas():
        print(f"  {area.share:6.1%}  {area.name}")
