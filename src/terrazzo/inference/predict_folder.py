"""`predict_folder`: images to files of results, however many there are; what `terrazzo predict` runs.

Images are found and every destination is checked before the model is loaded. Then each image goes its way by itself:
read, segment, encode, write. What fails is a `Failure` in the summary, and the other images are done.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from terrazzo.arguments import checked
from terrazzo.data.choose_images import choose_images
from terrazzo.data.sources.address import is_address, refuse_address
from terrazzo.engines.auto import Workload
from terrazzo.engines.engine import Precision
from terrazzo.engines.modes import evaluating, keeps_mode
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.areas import ClassArea
from terrazzo.inference.failure import Failure
from terrazzo.inference.kinds import DEFAULT_KINDS, KINDS, check_kinds, destinations, stem_of
from terrazzo.inference.overlay import Style
from terrazzo.inference.predict import RunOptions, predictor_for
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol, find_protocol
from terrazzo.inference.raster import RASTER_KINDS, RasterOptions, rasters_among
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import Keep
from terrazzo.inference.streaming import Streamed
from terrazzo.inference.threads import threads_of
from terrazzo.notes import note
from terrazzo.ownership import check_outputs
from terrazzo.text import shown_path
from terrazzo.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["Results", "Summary", "Written", "output_places", "predict_folder"]

SAVING_THREADS = 2
KEPT: Keep = frozenset({"probabilities", "confidence", "entropy"})
Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Written:
    """An image whose results are written.

    Attributes:
        path: the image.
        files: its results by kind.
        areas: what it shows, largest class first.
    """

    path: Path
    files: dict[str, Path]
    areas: list[ClassArea]


@dataclass(frozen=True)
class Summary:
    """What became of every image, in their order.

    Attributes:
        written: the images that were done.
        failures: those that were not, each with its error.
        skipped: what was among the images and was left out: results of earlier runs, and the masks of data sets.
    """

    written: list[Written]
    failures: list[Failure]
    skipped: list[Path]


class Results:
    """The results of many images, each computed when it is asked for: an iterator of `Segmentation`.

    Attributes:
        count: how many images there are.
        failures: the images so far that could not be done, each with its error; a note says so at once.
        skipped: what was among the images and was left out: results of earlier runs, and the masks of data sets.
    """

    def __init__(self, outcomes: Iterator[Segmentation | Failure], count: int, skipped: list[Path], model: Any) -> None:
        self.count = count
        self.failures: list[Failure] = []
        self.skipped = skipped
        self._outcomes, self._model = outcomes, model

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> Segmentation:
        while True:
            with evaluating(self._model):
                outcome = next(self._outcomes)
            if not isinstance(outcome, Failure):
                return outcome
            self.failures.append(outcome)
            note(f"left out: {outcome.error.message}; {outcome.error.fix}")


@overload
def predict_folder(
    images: Images,
    output: str | os.PathLike[str],
    model: str | Path | TrainedModel | Predictor = ...,
    *,
    save: str | Iterable[str] = ...,
    overwrite: bool = ...,
    batch_size: int = ...,
    reading: ReadOptions | None = ...,
    style: Style | None = ...,
    raster: RasterOptions | None = ...,
    started: Callable[[Predictor], None] | None = ...,
    progress: Callable[[Written | Failure, int, int], None] | None = ...,
    **options: Unpack[RunOptions],
) -> Summary: ...
@overload
def predict_folder(
    images: Images,
    output: None = ...,
    model: str | Path | TrainedModel | Predictor = ...,
    *,
    save: str | Iterable[str] = ...,
    batch_size: int = ...,
    reading: ReadOptions | None = ...,
    started: Callable[[Predictor], None] | None = ...,
    **options: Unpack[RunOptions],
) -> Results: ...
@checked
@keeps_mode
def predict_folder(
    images: Images,
    output: str | os.PathLike[str] | None = None,
    model: str | Path | TrainedModel | Predictor = DEFAULT_MODEL,
    *,
    save: str | Iterable[str] = DEFAULT_KINDS,
    overwrite: bool = False,
    protocol: str | Protocol = "whole",
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: Precision = "auto",
    compiled: bool = False,
    batch_size: int = 1,
    reading: ReadOptions | None = None,
    style: Style | None = None,
    raster: RasterOptions | None = None,
    trust: bool = False,
    started: Callable[[Predictor], None] | None = None,
    progress: Callable[[Written | Failure, int, int], None] | None = None,
) -> Summary | Results:
    """Segment images and write the results, or give them one after the other; few are in memory at a time.

    With an `output`, images found in a folder keep their subfolder. Results of earlier runs are replaced; other files
    are not, and an image never is. Without one nothing is written::

        for result in terrazzo.predict_folder("photos/"):
            print(result.path, result.areas()[0].name)

    Results of earlier runs and the masks of data sets found among the images are left out, with a note.

    Args:
        images: an image, a folder (searched to any depth) or a pattern, or a list of these.
        output: folder for the results, made if it is not there; or, for a single image and kind, the file; or None.
        model: a loaded model, what `terrazzo.load` takes, an exported file, or a predictor from `make_predictor`, which
            has its protocol, engine, device, threads and precision already.
        save: kinds of files, as `Segmentation.save` has them: a sequence, or their names with commas between. Without
            an output: what results keep, of probabilities, confidence and entropy.
        overwrite: replace whatever is there, but for images.
        protocol: how images are shown to the network, or the name of a protocol.
        engine: ``auto``, or the name of one, as `make_predictor` takes it.
        device: as `make_predictor` takes it; by default a GPU where there is one.
        threads: computing threads; by default as many as there are cores.
        precision: ``fp32``, ``bf16`` or ``auto``, as in `make_predictor`.
        compiled: run PyTorch's network through torch.compile.
        batch_size: the most images of equal size, next to each other, that go through the network together.
        reading: how images are read, where their files leave that open, and the most pixels that they may have.
        style: how overlays look, and which classes are cut out.
        raster: what is wanted of georeferenced rasters.
        trust: open a ``.pt2`` file that was not exported here, as in `make_predictor`.
        started: told the predictor, once the model is loaded.
        progress: told each image's outcome, in order, with its number from 1 and how many there are.

    Returns:
        What became of every image; without an output, the results as an iterator.

    Raises:
        ConfigError: an option is wrong.
        MissingExtraError: a region is asked for, and rasterio is not installed.
        ImageError: a place has no images.
        CheckpointError: the model cannot be loaded.
        LabelError: the style names a class that the model does not have.
        OutputError: something stands at a destination that is not an earlier result, or nothing can be written there.
    """
    kinds, style = check_kinds(save), style or Style()
    protocol, arguments = find_protocol(protocol), _listed(images)
    for argument in arguments:
        if is_address(argument):
            raise refuse_address(str(argument))
    paths, skipped = choose_images(arguments)
    rasters = rasters_among([] if output is None else paths, reading, raster)
    places = [] if output is None else _destinations(paths, arguments, Path(output), kinds, rasters)
    inputs = [*paths, Path(model)] if isinstance(model, (str, Path)) else paths
    files = chain.from_iterable(place.values() for place in places)
    check_outputs(files, "predict", inputs=inputs, overwrite=overwrite)

    predictor = predictor_for(
        model,
        Workload.of(paths),
        started,
        batch_size,
        device=device,
        protocol=protocol,
        engine=engine,
        threads=threads,
        precision=precision,
        compiled=compiled,
        trust=trust,
    )
    style.unpainted(predictor.labels)  # which refuses classes that are not there, before the first image
    if "cutout" in kinds:
        style.cut(predictor.labels)
    keep = frozenset(kind for kind in KEPT if kind in kinds)
    outcomes = predictor.segment_files(
        paths, batch_size=batch_size, keep=keep, reading=reading, rasters=rasters, raster=raster
    )
    if output is None:
        return Results(_held(outcomes, keep), len(paths), skipped, model)

    def write(result: Segmentation, place: dict[str, Path]) -> None:
        result.write(place, overwrite=overwrite, style=style)

    def write_streamed(result: Streamed, place: dict[str, Path]) -> list[ClassArea]:
        return result.write(place, overwrite=overwrite, style=style)

    summary = Summary([], [], skipped)
    for number, outcome in enumerate(_saved(outcomes, places, paths, predictor, write, write_streamed), 1):
        if isinstance(outcome, Failure):
            summary.failures.append(outcome)
        else:
            summary.written.append(outcome)
        if progress is not None:
            progress(outcome, number, len(paths))
    return summary


def _held(outcomes: Iterator[Segmentation | Streamed | Failure], keep: Keep) -> Iterator[Segmentation | Failure]:
    """Results in memory; of images that are read in windows the mask alone."""
    for outcome in outcomes:
        if not isinstance(outcome, Streamed):
            yield outcome
            continue
        try:
            yield outcome.whole(keep)
        except Exception as error:
            yield Failure.of(outcome.path, error)


def output_places(
    paths: Sequence[Path], arguments: Sequence[str | os.PathLike[str]], output: Path
) -> list[tuple[Path, str]]:
    """Choose each image's output folder and file name beginning, so that no two images share one.

    Images found in a folder keep their subfolder. Of two images that would share a name (``a.jpg`` and ``a.png``), each
    gets its ending into the name (``a_jpg``, ``a_png``); any that still collide get a number. Names that differ in case
    or in how an accent is written are the same name, as they are on many disks.
    """
    roots = [Path(argument) for argument in arguments if os.path.isdir(argument)]
    folders = []
    for path in paths:
        inside = [path.parent.relative_to(root) for root in roots if path.is_relative_to(root)]
        folders.append(output / min(inside, key=lambda relative: len(relative.parts)) if inside else output)
    wanted = [(_folded(folder), _folded(stem_of(path))) for folder, path in zip(folders, paths, strict=True)]
    taken = Counter(wanted)
    places: list[tuple[Path, str]] = []
    used: set[tuple[str, str]] = set()
    for path, folder, key in zip(paths, folders, wanted, strict=True):
        start = stem = stem_of(path) if taken[key] == 1 else path.name.lstrip(".").replace(".", "_")
        number = 1
        while (key[0], _folded(stem)) in used:
            number += 1
            stem = f"{start}_{number}"
        used.add((key[0], _folded(stem)))
        places.append((folder, stem))
    return places


def _destinations(
    paths: Sequence[Path],
    arguments: Sequence[str | os.PathLike[str]],
    output: Path,
    kinds: list[str],
    rasters: Collection[Path],
) -> list[dict[str, Path]]:
    endings = [{**KINDS, **RASTER_KINDS} if path in rasters else KINDS for path in paths]
    if len(paths) == 1 and not os.path.isdir(arguments[0]):
        return [destinations(output, kinds, None, paths[0], endings[0])]
    places = zip(output_places(paths, arguments, output), endings, strict=True)
    return [destinations(folder, kinds, stem, endings=those) for (folder, stem), those in places]


def _saved(
    results: Iterator[Segmentation | Streamed | Failure],
    places: Sequence[dict[str, Path]],
    paths: Sequence[Path],
    predictor: Predictor,
    save: Callable[[Segmentation, dict[str, Path]], None],
    stream: Callable[[Streamed, dict[str, Path]], list[ClassArea]],
) -> Iterator[Written | Failure]:
    """Write each result in a thread, a few at a time: the others would wait for the disk in memory."""

    def attempt(path: Path, result: Segmentation, place: dict[str, Path]) -> Written | Failure:
        try:
            save(result, place)
            return Written(path, place, result.areas())
        except Exception as error:
            return Failure.of(path, error)

    def write(path: Path, result: Segmentation, place: dict[str, Path]) -> Written | Failure:
        with predictor.turns.together():
            outcome = attempt(path, result, place)
        if isinstance(outcome, Failure) and outcome.for_memory:
            with predictor.alone():
                outcome = attempt(path, result, place)
        return outcome

    waiting: list[Written | Failure | Future[Written | Failure]] = []

    def first() -> Written | Failure:
        outcome = waiting.pop(0)
        return outcome.result() if isinstance(outcome, Future) else outcome

    with threads_of(SAVING_THREADS) as pool:
        for path, result, place in zip(paths, results, places, strict=True):
            if isinstance(result, Streamed):
                with predictor.alone():
                    waiting.append(_streamed(path, result, place, stream))
            else:
                waiting.append(result if isinstance(result, Failure) else pool.submit(write, path, result, place))
            while len(waiting) > 2 * SAVING_THREADS:
                yield first()
        while waiting:
            yield first()


def _streamed(
    path: Path,
    result: Streamed,
    place: dict[str, Path],
    stream: Callable[[Streamed, dict[str, Path]], list[ClassArea]],
) -> Written | Failure:
    """Segment an image while it is written, in bands of rows."""
    try:
        files, left_out = result.kinds(place)
        height, width = result.source.size
        without = f", without {', '.join(left_out)}" if left_out else ""
        note(f"{shown_path(path)}: {width} x {height} pixels are read and written in bands of rows{without}")
        return Written(path, files, stream(result, files))
    except Exception as error:
        return Failure.of(path, error)


def _listed(images: Images) -> list[str | os.PathLike[str]]:
    return [images] if isinstance(images, (str, os.PathLike)) else list(images)


def _folded(name: str | Path) -> str:
    return unicodedata.normalize("NFC", str(name)).casefold()
