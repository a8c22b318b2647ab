"""`Predictor`: a pipeline for many images, each of which fails by itself.

Of a folder of images, the next ones are decoded while the network works, and where the engine has several streams as
many images are on their way at once, each in a thread of its own from preprocessing to mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from terrazzo.data.sources.image_file import ImageFile
from terrazzo.data.sources.mosaic import is_vrt
from terrazzo.data.sources.source import Image, Source
from terrazzo.engines.engine import release_memory
from terrazzo.engines.memory import return_freed_memory
from terrazzo.errors import ImageError, TerrazzoError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.failure import Failure, path_name
from terrazzo.inference.pipeline import Pipeline
from terrazzo.inference.protocols import find_protocol
from terrazzo.inference.raster import RasterOptions, segmented_raster
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import NOTHING, Keep
from terrazzo.inference.streaming import Streamed
from terrazzo.inference.threads import map_ahead, threads_of
from terrazzo.inference.turns import Turns
from terrazzo.notes import note

__all__ = ["Predictor"]

T = TypeVar("T")
R = TypeVar("R")

DECODING_THREADS = 2
WINDOWS = (1024, 512)  # sides tried, one after the other, where an image is too large for the memory
STRIDE = 3 / 4  # of a window
IN_WINDOWS = 'segment it in windows, with --protocol slide (protocol="slide" in Python)'


@dataclass(frozen=True)
class Predictor(Pipeline):
    """A pipeline with what it needs to segment many images.

    Attributes:
        streams: images that the engine computes at once.
        record: where the weights come from. Plain JSON values.
    """

    streams: int = 1
    record: Mapping[str, Any] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns, init=False, repr=False, compare=False)

    def segment_together(self, images: Sequence[Image], *, keep: Keep = NOTHING) -> list[Segmentation | Failure]:
        """Segment images of one `input_size` as one batch; each fails by itself, as in `segment_files`."""
        done: list[Segmentation | Failure] = []
        outcomes = self._attempt([(None, image) for image in images], keep)
        for image, outcome in zip(images, outcomes, strict=True):
            if isinstance(outcome, Failure) and outcome.for_memory:
                outcome, said = self._again(None, partial(_itself, image), keep)
                if said:
                    note(said)
            done.append(outcome)
        return done

    def segment_files(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int = 1,
        keep: Keep = NOTHING,
        reading: ReadOptions | None = None,
        rasters: Collection[Path] = (),
        raster: RasterOptions | None = None,
    ) -> Iterator[Segmentation | Streamed | Failure]:
        """Segment image files in order, decoding the next ones while the network works.

        Each image fails by itself: a batch that fails is tried one by one. An image for which there is not enough
        memory is tried again while nothing else is being done, and if it is still too large then in windows, with a
        note that says so.

        An image of more pixels than `reading` allows at once is not segmented here: where its file and the protocol
        let it be read in windows, it is a `Streamed`, and its reader decides what becomes of the mask.

        Args:
            paths: the images.
            batch_size: the most images of equal size, next to each other, that go through the network together.
            keep: what to keep beside the mask, as `segment` has it.
            reading: how they are read, where files leave that open.
            rasters: those of them that are georeferenced; each comes as a `Streamed`, as mosaics always do.
            raster: what is wanted of these.

        Yields:
            A result for each image, or the reason why there is none.

        Raises:
            ConfigError: more than the mask is wanted of an engine that gives masks (code "export-mask").
        """
        for wanted in keep:
            self._require_logits(wanted)
        options = self.reading(reading)
        import cv2  # noqa: F401  which every image needs: with the memory full of feature maps it could not be loaded

        def read(path: Path) -> Image | Streamed | Failure:
            try:
                with self.turns.together():
                    if path in rasters or is_vrt(path):
                        return segmented_raster(self, path, options, raster)
                    return options.read(path)
            except Exception as error:
                failure = Failure.of(path, error)
                return self._streamed(path, options, failure) if failure.error.code == "image-too-large" else failure

        def finish(
            batch: list[tuple[Path, Image]] | Streamed | Failure,
        ) -> list[tuple[Segmentation | Streamed | Failure, str]]:
            done: list[tuple[Segmentation | Streamed | Failure, str]] = []
            if isinstance(batch, Streamed):
                return [(batch, "")]
            if isinstance(batch, Failure):
                path = batch.path
                if path is None or not batch.for_memory:
                    return [(batch, "")]
                return [self._again(path, partial(options.read, path), keep)]
            for outcome, (path, image) in zip(self._attempt(batch, keep), batch, strict=True):
                if isinstance(outcome, Failure) and outcome.for_memory:
                    done.append(self._again(path, partial(_itself, image), keep))
                else:
                    done.append((outcome, ""))
            return done

        with threads_of(min(self.streams, DECODING_THREADS)) as pool:
            images = map_ahead(pool, read, paths, 2 * batch_size * self.streams)
            for results in self.side_by_side(finish, _batches(zip(paths, images, strict=True), batch_size)):
                for result, said in results:
                    if said:
                        note(said)
                    yield result

    def reading(self, options: ReadOptions | None = None) -> ReadOptions:
        """Return how images are read for this model.

        Raises:
            ImageError: the options choose bands that the model cannot take.
        """
        return (options or ReadOptions()).for_model(self.preprocess.bands)

    def segment_alone(self, image: Image, *, keep: Keep = NOTHING) -> tuple[Segmentation | Failure, str]:
        """Segment an image in memory, in windows where it is too large; return what is to be said about it too."""
        (outcome,) = self._attempt([(None, image)], keep)
        if isinstance(outcome, Failure) and outcome.for_memory:
            return self._again(None, lambda: image, keep)
        return outcome, ""

    def segment_source(
        self, source: Source, most_pixels: int, *, keep: Keep = NOTHING
    ) -> tuple[Segmentation | Streamed | Failure, str]:
        """Segment a source: up to so many pixels as an array, beyond that in strips of rows; as `segment_alone`."""
        try:
            height, width = source.size
            if height * width <= most_pixels:
                return self.segment_alone(source.read(), keep=keep)
            if self._is_streamed(source):
                return Streamed(source, self.labels, self.bands, self.model, as_rgb=self.preprocess.as_rgb), ""
        except Exception as error:
            return Failure.of(None, error), ""
        message = f"{source.name}: {width} x {height} pixels are more than the {most_pixels:,} allowed"
        fix = self._advice(source, "raise max_pixels if there is memory for it")
        return Failure(None, ImageError(message, fix=fix, code="image-too-large")), ""

    def _attempt(self, batch: Sequence[tuple[Path | None, Image]], keep: Keep) -> Sequence[Segmentation | Failure]:
        paths, images = zip(*batch, strict=True)
        try:
            with self.turns.together():
                return self.segment(images, paths, keep=keep)
        except Exception as error:
            if len(batch) == 1:
                return [Failure.of(paths[0], error)]
        return [outcome for image in batch for outcome in self._attempt([image], keep)]  # which of them it was

    def _streamed(self, path: Path, reading: ReadOptions, failure: Failure) -> Streamed | Failure:
        """Return an image that is too large to be decoded at once as one that is read in windows, if it can be."""
        source = ImageFile(path, reading=reading)
        try:
            if not source.has_windows:
                return failure
            if self._is_streamed(source):
                return Streamed(source, self.labels, self.bands, self.model, path, self.preprocess.as_rgb)
        except TerrazzoError as error:
            return Failure.of(path, error)
        fix = self._advice(source, failure.error.fix)
        return replace(failure, error=ImageError(failure.error.message, fix=fix, code=failure.error.code))

    def _is_streamed(self, source: Source) -> bool:
        is_possible = self.output == "logits" and source.has_windows
        return is_possible and self.protocol.needs_only_strips(source.size, self.preprocess)

    def _advice(self, source: Source, otherwise: str) -> str:
        """Say how an image that is too large can be segmented: in windows, where they would do."""
        is_possible = self.output == "logits" and source.has_windows
        helps = is_possible and find_protocol("slide").needs_only_strips(source.size, self.preprocess)
        return f"{IN_WINDOWS}; or {otherwise}" if helps else otherwise

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Repeat what ran out of memory, while no image is read, computed or saved, and the engine keeps nothing."""
        with self.turns.alone():
            release_memory(self.engine)
            return_freed_memory()
            yield

    def _again(self, path: Path | None, read: Callable[[], Image], keep: Keep) -> tuple[Segmentation | Failure, str]:
        """Segment an image by itself: as the protocol says, then in windows; return what is to be said about it too.

        Args:
            path: the image's, if it is a file.
            read: gives the image, which may be in memory already.
            keep: what to keep beside the mask, as `segment` has it.
        """
        image: Image | None = None
        with self.alone():
            try:
                image = read()
                return self.segment([image], [path], keep=keep)[0], ""
            except Exception as error:
                failure = Failure.of(path, error)
            if image is None or self.output != "logits":
                return failure, ""
            side = self.protocol.window or max(self.preprocess.target_size(*image.shape[:2]))
            for window in (window for window in WINDOWS if window < side and failure.for_memory):
                release_memory(self.engine)
                return_freed_memory()  # or a library finds no room for itself beside the freed blocks
                protocol = replace(self.protocol, window=window, stride=int(window * STRIDE), blend="linear")
                try:
                    (result,) = replace(self, protocol=protocol).segment([image], [path], keep=keep)
                except Exception as error:
                    failure = Failure.of(path, error)
                    continue
                return result, (
                    f"{path_name(path)}: there is not enough memory to show it to the network by the protocol "
                    f"{self.protocol.name}; it was segmented in windows of {window} x {window} that overlap by a "
                    "quarter, which can change its mask"
                )
        return failure, ""

    def side_by_side(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply a function that predicts to as many items at once as the engine has streams; yield in order."""
        if self.streams == 1:
            yield from map(function, items)
            return
        with threads_of(self.streams) as pool:
            yield from map_ahead(pool, function, items, self.streams + 1)


def _itself(image: Image) -> Image:
    return image


def _batches(
    images: Iterable[tuple[Path, Image | Streamed | Failure]], size: int
) -> Iterator[list[tuple[Path, Image]] | Streamed | Failure]:
    """Neighbours of equal size together; what is not an array keeps its place."""
    waiting: list[tuple[Path, Image]] = []
    for path, image in images:
        fits = isinstance(image, np.ndarray) and (not waiting or image.shape == waiting[0][1].shape)
        if waiting and (not fits or len(waiting) == size):
            yield waiting
            waiting = []
        if isinstance(image, (Streamed, Failure)):
            yield image
        else:
            waiting.append((path, image))
    if waiting:
        yield waiting
