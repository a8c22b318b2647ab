"""`predict_video`: a video to an overlay video, masks and tables, frame by frame; what `terrazzo predict` runs.

Frames are decoded ahead in one thread, go through the network in this one or in as many as the engine has streams, and
are painted and encoded in another, so the slowest of the three sets the pace. Few frames are in memory at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from terrazzo.arguments import checked
from terrazzo.data.sources.animation import Animation, is_animated
from terrazzo.data.sources.video import Frame, Span, Video, VideoFile, no_frames
from terrazzo.engines.auto import Workload
from terrazzo.engines.engine import Precision
from terrazzo.engines.modes import evaluating, keeps_mode
from terrazzo.errors import ConfigError, ImageError
from terrazzo.imaging.pyav import import_av
from terrazzo.inference.areas import ClassArea, areas_of, count_classes
from terrazzo.inference.failure import Failure
from terrazzo.inference.overlay import Style
from terrazzo.inference.predict import RunOptions, predictor_for
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.inference.result import Segmentation
from terrazzo.inference.smoothing import smoothed
from terrazzo.inference.threads import ahead, threads_of
from terrazzo.inference.video_kinds import (
    DEFAULT_VIDEO_KINDS,
    check_mask_folder,
    check_video_kinds,
    video_destinations,
)
from terrazzo.inference.video_writers import Write, folder_of_masks, h264_video, mask_video, tables
from terrazzo.notes import note
from terrazzo.ownership import check_outputs
from terrazzo.text import shown_path
from terrazzo.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["Frames", "SegmentedFrame", "VideoSummary", "predict_video"]

AHEAD = 4  # frames that wait between two steps


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """A frame of a video and what it shows.

    Attributes:
        number: counted from 0, from the first frame that was read.
        time: when it is shown, in seconds from the start of the video.
        result: its mask, with its picture.
    """

    number: int
    time: float
    result: Segmentation


@dataclass(frozen=True)
class VideoSummary:
    """A video whose results are written.

    Attributes:
        path: the video.
        files: its results by kind.
        frames: how many frames were segmented.
        areas: what they show together, largest class first.
    """

    path: Path
    files: dict[str, Path]
    frames: int
    areas: list[ClassArea]


class Frames:
    """The frames of a video, each segmented when it is asked for: an iterator of `SegmentedFrame`.

    Attributes:
        about: the video: its ``path``, ``rate`` (frames in a second), ``duration`` and whether it ``has_audio``.
    """

    def __init__(self, about: Video, outcomes: Iterator[tuple[Frame, Segmentation]], model: Any) -> None:
        self.about = about
        self._outcomes, self._model = outcomes, model

    def __iter__(self) -> Frames:
        return self

    def __next__(self) -> SegmentedFrame:
        with evaluating(self._model):
            frame, result = next(self._outcomes)
        return SegmentedFrame(frame.number, float(frame.time), result)


@overload
def predict_video(
    video: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | Path | TrainedModel | Predictor = ...,
    *,
    save: str | Iterable[str] = ...,
    stem: str | None = ...,
    every: int = ...,
    start: float = ...,
    stop: float | None = ...,
    smooth: float = ...,
    overwrite: bool = ...,
    batch_size: int = ...,
    style: Style | None = ...,
    started: Callable[[Predictor], None] | None = ...,
    progress: Callable[[int, int], None] | None = ...,
    **options: Unpack[RunOptions],
) -> VideoSummary: ...
@overload
def predict_video(
    video: str | os.PathLike[str],
    output: None = ...,
    model: str | Path | TrainedModel | Predictor = ...,
    *,
    every: int = ...,
    start: float = ...,
    stop: float | None = ...,
    smooth: float = ...,
    batch_size: int = ...,
    started: Callable[[Predictor], None] | None = ...,
    **options: Unpack[RunOptions],
) -> Frames: ...
@checked
@keeps_mode
def predict_video(
    video: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    model: str | Path | TrainedModel | Predictor = DEFAULT_MODEL,
    *,
    save: str | Iterable[str] = DEFAULT_VIDEO_KINDS,
    stem: str | None = None,
    every: int = 1,
    start: float = 0.0,
    stop: float | None = None,
    smooth: float = 0.0,
    overwrite: bool = False,
    protocol: str | Protocol = "whole",
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: Precision = "auto",
    compiled: bool = False,
    batch_size: int = 1,
    style: Style | None = None,
    trust: bool = False,
    started: Callable[[Predictor], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VideoSummary | Frames:
    """Segment a video and write the results, or give its frames one after the other; few are in memory at a time.

    Without an `output` nothing is written::

        for frame in terrazzo.predict_video("drive.mp4", every=10):
            print(frame.time, frame.result.areas()[0].name)

    Args:
        video: a file that FFmpeg reads (mp4, mov, mkv, webm, avi, mpg, ts), or an animated GIF, WebP or PNG.
        output: folder for the results, made if it is not there; or, for a single kind, the file; or None.
        model: as `predict_folder` takes it. It must read red, green and blue.
        save: kinds of results, which `VIDEO_KINDS` lists: a sequence, or their names with commas between.
        stem: how the files' names begin; by default as the video's.
        every: segment every so many frames, beginning with the first. Each is then shown as much longer.
        start: seconds; frames before are left out.
        stop: seconds; from there on frames are left out.
        smooth: weight of earlier frames in a moving average of the logits, from 0 to below 1. Masks then lag by
            smooth / (1 - smooth) frames.
        overwrite: replace whatever is there, but for the video.
        protocol: how frames are shown to the network, or the name of a protocol.
        engine: ``auto``, or the name of one, as `make_predictor` takes it.
        device: as `make_predictor` takes it; by default a GPU where there is one.
        threads: computing threads; by default as many as there are cores.
        precision: ``fp32``, ``bf16`` or ``auto``, as in `make_predictor`.
        compiled: run PyTorch's network through torch.compile.
        batch_size: the most frames that go through the network together.
        style: how overlays look.
        trust: open a ``.pt2`` file that was not exported here, as in `make_predictor`.
        started: told the predictor, once the model is loaded.
        progress: told how many frames are done, and about how many there are; 0 where the file does not say.

    Raises:
        ConfigError: an option is wrong.
        ImageError: the video cannot be read, or has no frames there.
        CheckpointError: the model cannot be loaded.
        MissingExtraError: PyAV is not installed.
        OutputError: something stands at a destination that is not an earlier result, or nothing can be written there.
    """
    path, span, kinds, style = Path(video), _span(every, start, stop), check_video_kinds(save), style or Style()
    import_av()
    source: Video = Animation(path) if is_animated(path) else VideoFile(path)
    if source.duration is not None and span.start >= source.duration:
        raise no_frames(path, span, source.duration)
    files = {} if output is None else video_destinations(Path(output), kinds, path, stem)
    inputs = [path, Path(model)] if isinstance(model, (str, Path)) else [path]
    plain = [file for kind, file in files.items() if kind != "mask"]
    check_outputs(plain, "predict", inputs=inputs, overwrite=overwrite)
    keep_others = "mask" in files and check_mask_folder(files["mask"], overwrite)

    predictor = predictor_for(
        model,
        Workload(_expected(source, span) or 1000),
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
    if predictor.preprocess.bands is not None:
        raise ImageError(
            f"{shown_path(path)} has red, green and blue, and the model reads {predictor.preprocess.bands}",
            fix="use a model for photos",
            code="image-bands",
        )
    style.unpainted(predictor.labels)  # which refuses classes that are not there, before the first frame
    predictor = smoothed(predictor, smooth)
    if smooth:
        lag = smooth / (1 - smooth)
        seconds = lag * every / source.rate
        note(f"masks are averaged over frames, and lag by {lag:.1f} of them ({float(seconds):.2f} s)")
    outcomes = _segmented(predictor, source, span, batch_size)
    if output is None:
        return Frames(source, outcomes, model)
    settings = {"every": every, "start": start, "stop": stop, "smooth": smooth}
    labels, counts, size, number = predictor.labels, None, 0, 0
    with closing(outcomes), ExitStack() as opened:
        made = _writers(files, source, span, style, predictor, keep_others, settings)
        written = opened.enter_context(closing(_written(outcomes, [opened.enter_context(writer) for writer in made])))
        for number, (_, result) in enumerate(written, 1):
            here = count_classes(result.mask, labels)
            counts, size = here if counts is None else counts + here, size + result.mask.size
            if progress is not None:
                progress(number, max(_expected(source, span), number))
    assert counts is not None
    return VideoSummary(path, files, number, areas_of(counts, labels, size))


def _segmented(
    predictor: Predictor, video: Video, span: Span, batch_size: int
) -> Generator[tuple[Frame, Segmentation], None, None]:
    """Yield each frame with its mask; the next ones are decoded meanwhile."""

    def segment(frames: list[Frame]) -> list[tuple[Frame, Segmentation]]:
        done = []
        for frame, outcome in zip(frames, predictor.segment_together([f.pixels for f in frames]), strict=True):
            if isinstance(outcome, Failure):
                where = f"{shown_path(video.path)}, the frame at {float(frame.time):.3f} s"
                raise outcome.error.saying(f"{where}: {outcome.error.message.removeprefix('the image: ')}")
            done.append((frame, outcome))
        return done

    decoded = video.frames(span)
    try:
        with closing(ahead(decoded, AHEAD + batch_size)) as frames:
            for results in predictor.side_by_side(segment, _batches(frames, batch_size)):
                yield from results
    finally:
        decoded.close()


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Neighbours of equal size together."""
    waiting: list[Frame] = []
    for frame in frames:
        if waiting and (len(waiting) == size or frame.pixels.shape != waiting[0].pixels.shape):
            yield waiting
            waiting = []
        waiting.append(frame)
    if waiting:
        yield waiting


def _written(
    outcomes: Iterator[tuple[Frame, Segmentation]], writers: list[Write]
) -> Generator[tuple[Frame, Segmentation], None, None]:
    """Write results in a thread, in order, a few behind; yield each once it is written."""

    def write(frame: Frame, result: Segmentation) -> tuple[Frame, Segmentation]:
        for writer in writers:
            writer(frame, result)
        return frame, result

    waiting: deque[Future[tuple[Frame, Segmentation]]] = deque()
    with threads_of(1) as pool:
        for frame, result in outcomes:
            waiting.append(pool.submit(write, frame, result))
            while len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _writers(
    files: dict[str, Path],
    video: Video,
    span: Span,
    style: Style,
    predictor: Predictor,
    keep_others: bool,
    settings: dict[str, Any],
) -> Iterator[Any]:
    if "overlay" in files:
        yield h264_video(files["overlay"], video, span, lambda result: result.painted(style))
    if "color" in files:
        yield h264_video(files["color"], video, span, Segmentation.color)
    if "mask" in files:
        yield folder_of_masks(files["mask"], keep_others)
    if "mask-video" in files:
        yield mask_video(files["mask-video"], video, span)
    if "json" in files:
        yield tables(files.get("csv"), files["json"], video, predictor.labels, predictor.model, settings)


def _span(every: int, start: float, stop: float | None) -> Span:
    if every < 1:
        raise ConfigError(f"every is {every}", fix="give 1 for all frames, 2 for every second one, and so on")
    if not 0 <= start < float("inf") or (stop is not None and not start < stop < float("inf")):
        raise ConfigError(
            f"the part from {start:g} s to {'the end' if stop is None else f'{stop:g} s'} is empty",
            fix="give seconds from the start of the video, the start before the stop",
        )
    return Span(every, _exact(start), None if stop is None else _exact(stop))


def _exact(seconds: float) -> Fraction:
    return Fraction(float(seconds)).limit_denominator(1_000_000)


def _expected(video: Video, span: Span) -> int:
    """About how many frames will be segmented; 0 where the file does not say how long it is."""
    stop = video.duration if span.stop is None else min(span.stop, video.duration or span.stop)
    return 0 if stop is None else max(0, round((stop - span.start) * video.rate / span.every))
