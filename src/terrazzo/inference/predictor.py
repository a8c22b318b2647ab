"""Photos in, masks out: preprocess, engine, exact upsampling, by a protocol.

Of a folder of photos, the next ones are decoded while the network works, and where the engine has several streams as
many photos are on their way at once, each in a thread of its own from preprocessing to mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import Engine
from terrazzo.errors import ConfigError, ImageError
from terrazzo.images import ImageSource, ReadOptions
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.inference.result import Segmentation
from terrazzo.inference.tiling import Scores, decide, decide_together, slide, slide_in_bands, whole
from terrazzo.labels import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.exported import Output

__all__ = ["Failure", "Predictor"]

Photo: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
T = TypeVar("T")
R = TypeVar("R")

DECODING_THREADS = 2


@dataclass(frozen=True)
class Failure:
    """A photo that could not be read, in the place of its result."""

    path: Path
    error: ImageError


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

    def __post_init__(self) -> None:
        if not self.protocol.single_view or self.protocol.window is not None:
            self._require_logits(f"the protocol {self.protocol.name}")

    def masks(self, images: Sequence[Photo]) -> list[Mask]:
        """Segment (H, W, 3) photos of one size as one batch; return an (H, W) mask of class indices for each.

        Logits are resized to the network's input size, then to the photo's own, and the argmax is taken last
        (the papers' order; never the argmax of small logits).
        """
        return [mask for mask, _ in self._decided(images, probabilities=False)]

    def segment(
        self, images: Sequence[Photo], paths: Sequence[Path | None], *, probabilities: bool = False
    ) -> list[Segmentation]:
        """Segment photos of one size as one batch, keeping photo and, if asked, the (K, H, W) probabilities.

        Raises:
            ConfigError: probabilities of an engine that gives masks (code "export-mask").
        """
        decided = self._decided(images, probabilities)
        return [
            Segmentation(mask=mask, labels=self.labels, image=image, path=path, probabilities=kept, model=self.model)
            for (mask, kept), image, path in zip(decided, images, paths, strict=True)
        ]

    def segment_files(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int = 1,
        probabilities: bool = False,
        max_pixels: int | None = None,
        reading: ReadOptions | None = None,
    ) -> Iterator[Segmentation | Failure]:
        """Segment photo files in order, decoding the next ones while the network works.

        Args:
            paths: the photos.
            batch_size: the most photos of equal size, next to each other, that go through the network together.
            probabilities: keep them.
            max_pixels: photos with more are refused.
            reading: how they are read, where files leave that open.

        Yields:
            A result for each photo, or the reason why there is none.
        """

        def read(path: Path) -> Photo | Failure:
            try:
                return _read(path, max_pixels, reading)
            except ImageError as error:
                return Failure(path, error)

        def finish(batch: list[tuple[Path, Photo]] | Failure) -> Sequence[Segmentation | Failure]:
            if isinstance(batch, Failure):
                return [batch]
            batch_paths, images = zip(*batch, strict=True)
            return self.segment(images, batch_paths, probabilities=probabilities)

        with ThreadPoolExecutor(min(self.streams, DECODING_THREADS)) as pool:
            images = _ahead(pool, read, paths, 2 * batch_size * self.streams)
            for results in self.side_by_side(finish, _batches(zip(paths, images, strict=True), batch_size)):
                yield from results

    def side_by_side(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply a function that predicts to as many items at once as the engine has streams; yield in order."""
        if self.streams == 1:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(self.streams) as pool:
            yield from _ahead(pool, function, items, self.streams + 1)

    def _decided(
        self, images: Sequence[Photo], probabilities: bool
    ) -> Iterator[tuple[Mask, NDArray[np.float32] | None]]:
        """Yield each photo's mask and, if asked, its probabilities, one after the other."""
        protocol, size = self.protocol, images[0].shape[:2]
        if probabilities:
            self._require_logits("probabilities")
        if not protocol.single_view:
            for image in images:
                yield decide_together(self._views(image), probabilities=probabilities)
            return
        inputs = [next(protocol.views(image, self.preprocess))[0] for image in images]
        if protocol.window is None or protocol.stride is None:
            batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
            if self.output == "mask":
                for mask_hw in self.engine(batch):
                    yield _nearest(mask_hw, size).astype(self.labels.mask_dtype), None
                return
            for scores in whole(self.engine, batch, size):
                yield decide([scores], probabilities=probabilities)
        else:
            for x in inputs:
                bands = slide_in_bands(self.engine, x, size, protocol.window, protocol.stride)
                yield decide(bands, probabilities=probabilities)

    def _views(self, image: Photo) -> Iterator[tuple[Scores, bool]]:
        """Yield the scores of each of the protocol's views of a photo, and whether it was mirrored."""
        protocol, size = self.protocol, image.shape[:2]
        for x, mirrored in protocol.views(image, self.preprocess):
            if protocol.window is None or protocol.stride is None:
                yield next(whole(self.engine, x[None], size)), mirrored
            else:
                yield slide(self.engine, x, size, protocol.window, protocol.stride), mirrored

    def _require_logits(self, what: str) -> None:
        if self.output != "logits":
            raise ConfigError(
                f"{self.model or 'this exported file'} gives masks, and {what} needs the scores of all classes",
                fix="export the model with its logits as output",
                code="export-mask",
            )


def _nearest(mask_hw: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Bring a mask to a photo's size, each pixel from the one that holds its centre."""
    if mask_hw.shape == size:
        return mask_hw
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(mask_hw.shape, size, strict=True))
    resized: NDArray[Any] = mask_hw[rows[:, None], columns]
    return resized


def _batches(photos: Iterable[tuple[Path, Photo | Failure]], size: int) -> Iterator[list[tuple[Path, Photo]] | Failure]:
    """Neighbours of equal size together; a failure keeps its place."""
    waiting: list[tuple[Path, Photo]] = []
    for path, image in photos:
        fits = isinstance(image, np.ndarray) and (not waiting or image.shape == waiting[0][1].shape)
        if waiting and (not fits or len(waiting) == size):
            yield waiting
            waiting = []
        if isinstance(image, Failure):
            yield image
        else:
            waiting.append((path, image))
    if waiting:
        yield waiting


def _read(source: ImageSource, max_pixels: int | None, reading: ReadOptions | None) -> Photo:
    options = reading or ReadOptions()
    return (options if max_pixels is None else replace(options, max_pixels=max_pixels)).read(source)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Apply a function in the pool's threads, at most `count` items ahead of the reader, in order."""
    rest = iter(items)
    pending = [pool.submit(function, item) for item in islice(rest, count)]
    for item in chain(rest, [None] * len(pending)):
        if not pending:
            return
        done = pending.pop(0)
        if item is not None:
            pending.append(pool.submit(function, item))
        yield done.result()
