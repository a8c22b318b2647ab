"""Photos in, masks out: preprocess, engine, exact upsampling, by a protocol.

Of a folder of photos, the next ones are decoded while the network works, and where the engine has several streams as
many photos are on their way at once, each in a thread of its own from preprocessing to mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields
from terrazzo.data.sources.array import ArraySource
from terrazzo.data.sources.image_file import ImageFile
from terrazzo.data.sources.source import Image, Source
from terrazzo.engines.engine import Engine, release_memory
from terrazzo.engines.memory import return_freed_memory
from terrazzo.errors import CheckpointError, ConfigError, ImageError, TerrazzoError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.failure import Failure, path_name
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.inference.result import Segmentation
from terrazzo.inference.streaming import Streamed
from terrazzo.inference.threads import map_ahead, threads_of
from terrazzo.inference.tiling import Scores, decide, decide_together, slide, slide_in_bands, whole
from terrazzo.inference.turns import Turns
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.preprocess import Preprocess
from terrazzo.weights.exported import Output

__all__ = ["Predictor"]

Mask: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
T = TypeVar("T")
R = TypeVar("R")

DECODING_THREADS = 2
WINDOWS = (1024, 512)  # sides tried, one after the other, where a photo is too large for the memory
STRIDE = 3 / 4  # of a window
IN_WINDOWS = 'segment it in windows, with --protocol slide (protocol="slide" in Python)'
BAND_PIXELS = 1 << 24  # of the mask, decided at once


@dataclass(frozen=True)
class Predictor:
    """An engine with what it needs to take photos.

    Attributes:
        engine: runs the network.
        preprocess: the weights' own.
        labels: the classes.
        model: the model's name, for the results.
        protocol: how photos are shown to the network; by default whole, as the preprocessing resizes them.
        output: what the engine gives: logits, or masks, as some exported files do.
        streams: photos that the engine computes at once.
        record: where the weights come from. Plain JSON values.

    Raises:
        ConfigError: the protocol needs logits, and the engine gives masks (code "export-mask").
    """

    engine: Engine
    preprocess: Preprocess
    labels: LabelSpec
    model: str | None = None
    protocol: Protocol = WHOLE
    output: Output = "logits"
    streams: int = 1
    record: Mapping[str, Any] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.protocol.single_view or self.protocol.window is not None:
            self._require_logits(f"the protocol {self.protocol.name}")

    def masks(self, images: Sequence[Image]) -> list[Mask]:
        """Segment (H, W, 3) photos of one size as one batch; return an (H, W) mask of class indices for each.

        Logits are resized to the network's input size, then to the photo's own, and the argmax is taken last
        (the papers' order; never the argmax of small logits).
        """
        return [mask for mask, _ in self._decided(images, probabilities=False)]

    def segment(
        self, images: Sequence[Image], paths: Sequence[Path | None], *, probabilities: bool = False
    ) -> list[Segmentation]:
        """Segment photos of one size as one batch, keeping photo and, if asked, the (K, H, W) probabilities.

        Raises:
            ConfigError: probabilities of an engine that gives masks (code "export-mask").
        """
        decided = self._decided(images, probabilities)
        return [
            Segmentation(mask, self.labels, self.preprocess.as_rgb(image), path, kept, self.model)
            for (mask, kept), image, path in zip(decided, images, paths, strict=True)
        ]

    def segment_files(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int = 1,
        probabilities: bool = False,
        reading: ReadOptions | None = None,
    ) -> Iterator[Segmentation | Streamed | Failure]:
        """Segment photo files in order, decoding the next ones while the network works.

        Each photo fails by itself: a batch that fails is tried one by one. A photo for which there is not enough memory
        is tried again while nothing else is being done, and if it is still too large then in windows, with a note that
        says so.

        An image of more pixels than `reading` allows at once is not segmented here: where its file and the protocol
        let it be read in windows, it is a `Streamed`, and its reader decides what becomes of the mask.

        Args:
            paths: the photos.
            batch_size: the most photos of equal size, next to each other, that go through the network together.
            probabilities: keep them.
            reading: how they are read, where files leave that open.

        Yields:
            A result for each photo, or the reason why there is none.

        Raises:
            ConfigError: probabilities of an engine that gives masks (code "export-mask").
        """
        if probabilities:
            self._require_logits("probabilities")

        options = self.reading(reading)
        import cv2  # noqa: F401  which every photo needs: with the memory full of feature maps it could not be loaded

        def read(path: Path) -> Image | Streamed | Failure:
            try:
                with self.turns.together():
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
                return [self._again(path, partial(options.read, path), probabilities)]
            for outcome, (path, image) in zip(self._attempt(batch, probabilities), batch, strict=True):
                if isinstance(outcome, Failure) and outcome.for_memory:
                    done.append(self._again(path, partial(_itself, image), probabilities))
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

    def segment_alone(self, image: Image, *, probabilities: bool = False) -> tuple[Segmentation | Failure, str]:
        """Segment an image in memory, in windows where it is too large; return what is to be said about it too."""
        (outcome,) = self._attempt([(None, image)], probabilities)
        if isinstance(outcome, Failure) and outcome.for_memory:
            return self._again(None, lambda: image, probabilities)
        return outcome, ""

    def segment_source(
        self, source: Source, most_pixels: int, *, probabilities: bool = False
    ) -> tuple[Segmentation | Streamed | Failure, str]:
        """Segment a source: up to so many pixels as an array, beyond that in strips of rows; as `segment_alone`."""
        try:
            height, width = source.size
            if height * width <= most_pixels:
                return self.segment_alone(source.read(), probabilities=probabilities)
            if self._is_streamed(source):
                return Streamed(source, self.labels, self.bands, self.model), ""
        except Exception as error:
            return Failure.of(None, error), ""
        message = f"{source.name}: {width} x {height} pixels are more than the {most_pixels:,} allowed"
        fix = f"{IN_WINDOWS}; or raise max_pixels if there is memory for it"
        return Failure(None, ImageError(message, fix=fix, code="image-too-large")), ""

    def _attempt(
        self, batch: Sequence[tuple[Path | None, Image]], probabilities: bool
    ) -> Sequence[Segmentation | Failure]:
        paths, images = zip(*batch, strict=True)
        try:
            with self.turns.together():
                return self.segment(images, paths, probabilities=probabilities)
        except Exception as error:
            if len(batch) == 1:
                return [Failure.of(paths[0], error)]
        return [outcome for image in batch for outcome in self._attempt([image], probabilities)]  # which of them it was

    def bands(self, source: Source) -> Iterator[Mask]:
        """Segment an image that is read in strips of rows; yield the mask in bands of rows from the top.

        Raises:
            ImageError: it cannot be read.
            ConfigError: the engine gives masks (code "export-mask").
        """
        self._require_logits("an image that is read in windows")
        if not self.protocol.single_view:
            yield decide_together(self._views(source))[0]
            return
        for scores in self._scores(source):
            for band in scores.split(max(1, BAND_PIXELS // source.size[1])):
                yield band.mask()

    def confidence(self, image: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How sure the model is of each pixel of an (H, W, 3) image, in memory for two numbers a pixel.

        Returns:
            The (H, W) probability of the winning class, and the (H, W) entropy divided by log K: 0 is certain, 1 is
            the same probability for each of the K classes.

        Raises:
            ConfigError: the engine gives masks (code "export-mask"), or the protocol averages several views.
        """
        self._require_logits("confidence")
        if not self.protocol.single_view:
            raise ConfigError(
                f"the protocol {self.protocol.name} averages probabilities, and confidence is that of a single view",
                fix="use whole or slide; or probabilities, and take their maximum",
                code="protocol-settings",
            )
        highest, entropy = zip(*(scores.confidence() for scores in self._scores(ArraySource(image))), strict=True)
        return np.concatenate(highest), np.concatenate(entropy)

    def _scores(self, source: Source) -> Iterator[Scores]:
        """The scores of an image that is shown once, in bands of rows from the top."""
        protocol, size = self.protocol, source.size
        view = next(protocol.views(source, self.preprocess))
        if protocol.window is None or protocol.stride is None:
            return whole(self._run, view.read()[None], size)
        return slide_in_bands(self._run, view, size, protocol.window, protocol.stride)

    def _streamed(self, path: Path, reading: ReadOptions, failure: Failure) -> Streamed | Failure:
        """Return an image that is too large to be decoded at once as one that is read in windows, if it can be."""
        source = ImageFile(path, reading=reading)
        try:
            if not source.has_windows:
                return failure
            if self._is_streamed(source):
                return Streamed(source, self.labels, self.bands, self.model, path)
        except TerrazzoError as error:
            return Failure.of(path, error)
        fix = f"{IN_WINDOWS}; or {failure.error.fix}"
        return replace(failure, error=ImageError(failure.error.message, fix=fix, code=failure.error.code))

    def _is_streamed(self, source: Source) -> bool:
        is_possible = self.output == "logits" and source.has_windows
        return is_possible and self.protocol.needs_only_strips(source.size, self.preprocess)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Repeat what ran out of memory, while no photo is read, computed or saved, and the engine keeps nothing."""
        with self.turns.alone():
            release_memory(self.engine)
            return_freed_memory()
            yield

    def _again(
        self, path: Path | None, read: Callable[[], Image], probabilities: bool
    ) -> tuple[Segmentation | Failure, str]:
        """Segment a photo by itself: as the protocol says, then in windows; return what is to be said about it too.

        Args:
            path: the photo's, if it is a file.
            read: gives the photo, which may be in memory already.
            probabilities: keep them.
        """
        image: Image | None = None
        with self.alone():
            try:
                image = read()
                return self.segment([image], [path], probabilities=probabilities)[0], ""
            except Exception as error:
                failure = Failure.of(path, error)
            if image is None or self.output != "logits":
                return failure, ""
            side = self.protocol.window or max(self.preprocess.target_size(*image.shape[:2]))
            for window in (window for window in WINDOWS if window < side and failure.for_memory):
                release_memory(self.engine)
                return_freed_memory()  # or a library finds no room for itself beside the freed blocks
                protocol = replace(self.protocol, window=window, stride=int(window * STRIDE))
                try:
                    (result,) = replace(self, protocol=protocol).segment([image], [path], probabilities=probabilities)
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

    def _run(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        """Run the engine, and refuse what it must not return.

        Raises:
            CheckpointError: its result has another shape or type than was agreed (code "engine-output").
        """
        output = np.asarray(self.engine(images_B3HW))
        B, K = len(images_B3HW), self.labels.num_classes
        if self.output == "mask":
            fits, wanted = output.ndim == 3 and output.dtype.kind in "iu", f"({B}, height, width) whole numbers"
        else:
            fits = output.ndim == 4 and output.shape[1] == K and output.dtype == np.float32
            wanted = f"({B}, {K}, height, width) float32"
        if not fits or len(output) != B or output.size == 0:
            where = f"{self.model or 'the model'} on {type(self.engine).__name__}"
            raise CheckpointError(
                f"{where} gave {output.shape} {output.dtype} for {images_B3HW.shape}, and not {wanted}",
                fix="export or convert the model again, or use another engine",
                code="engine-output",
            )
        return output

    def _decided(
        self, images: Sequence[Image], probabilities: bool
    ) -> Iterator[tuple[Mask, NDArray[np.float32] | None]]:
        """Yield each photo's mask and, if asked, its probabilities, one after the other."""
        protocol, size = self.protocol, images[0].shape[:2]
        if probabilities:
            self._require_logits("probabilities")
        if not protocol.single_view:
            for image in images:
                yield decide_together(self._views(ArraySource(image)), probabilities=probabilities)
            return
        views = [next(protocol.views(ArraySource(image), self.preprocess)) for image in images]
        if protocol.window is None or protocol.stride is None:
            batch = views[0].read()[None] if len(views) == 1 else np.stack([view.read() for view in views])
            if self.output == "mask":
                for mask_hw in self._run(batch):
                    yield _nearest(mask_hw, size).astype(self.labels.mask_dtype), None
                return
            for scores in whole(self._run, batch, size):
                yield decide([scores], probabilities=probabilities)
        else:
            for view in views:
                bands = slide_in_bands(self._run, view, size, protocol.window, protocol.stride)
                yield decide(bands, probabilities=probabilities)

    def _views(self, source: Source) -> Iterator[tuple[Scores, bool]]:
        """Yield the scores of each of the protocol's views of an image, and whether it was mirrored."""
        protocol, size = self.protocol, source.size
        for view in protocol.views(source, self.preprocess):
            if protocol.window is None or protocol.stride is None:
                yield next(whole(self._run, view.read()[None], size)), view.mirrored
            else:
                yield slide(self._run, view, size, protocol.window, protocol.stride), view.mirrored

    def _require_logits(self, what: str) -> None:
        if self.output != "logits":
            raise ConfigError(
                f"{self.model or 'this exported file'} gives masks, and {what} needs the scores of all classes",
                fix="export the model with its logits as output",
                code="export-mask",
            )


def _itself(image: Image) -> Image:
    return image


def _nearest(mask_hw: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Bring a mask to a photo's size, each pixel from the one that holds its centre."""
    if mask_hw.shape == size:
        return mask_hw
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(mask_hw.shape, size, strict=True))
    resized: NDArray[Any] = mask_hw[rows[:, None], columns]
    return resized


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
