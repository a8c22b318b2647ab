"""Photos in, masks out: preprocess, engine, exact upsampling, by a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ImageError
from terrazzo.images import ImageSource, read_image
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.inference.result import Segmentation
from terrazzo.inference.tiling import Engine, Scores, decide, decide_together, slide, slide_in_bands, whole
from terrazzo.labels import LabelSpec
from terrazzo.preprocess import Preprocess

__all__ = ["Engine", "Failure", "Predictor"]

T = TypeVar("T")
R = TypeVar("R")


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
    """

    engine: Engine
    preprocess: Preprocess
    labels: LabelSpec
    model: str | None = None
    protocol: Protocol = WHOLE

    def masks(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8] | NDArray[np.uint16]]:
        """Segment (H, W, 3) photos of one size as one batch; return an (H, W) mask of class indices for each.

        Logits are resized to the network's input size, then to the photo's own, and the argmax is taken last
        (the papers' order; never the argmax of small logits).
        """
        return [mask for mask, _ in self._decided(images, probabilities=False)]

    def segment(
        self, images: Sequence[NDArray[np.uint8]], paths: Sequence[Path | None], *, probabilities: bool = False
    ) -> list[Segmentation]:
        """Segment photos of one size as one batch, keeping photo and, if asked, the (K, H, W) probabilities."""
        decided = self._decided(images, probabilities)
        return [
            Segmentation(mask=mask, labels=self.labels, image=image, path=path, probabilities=kept, model=self.model)
            for (mask, kept), image, path in zip(decided, images, paths, strict=True)
        ]

    def segment_files(
        self, paths: Sequence[Path], *, batch_size: int = 1, probabilities: bool = False, max_pixels: int | None = None
    ) -> Iterator[Segmentation | Failure]:
        """Segment photo files in order, decoding the next ones while the network works.

        Args:
            paths: the photos.
            batch_size: the most photos of equal size, next to each other, that go through the network together.
            probabilities: keep them.
            max_pixels: photos with more are refused.

        Yields:
            A result for each photo, or the reason why there is none.
        """

        def read(path: Path) -> NDArray[np.uint8] | Failure:
            try:
                return _read(path, max_pixels)
            except ImageError as error:
                return Failure(path, error)

        with ThreadPoolExecutor(1) as pool:
            waiting: list[tuple[Path, NDArray[np.uint8]]] = []
            for path, image in zip(paths, _ahead(pool, read, paths, 2 * batch_size), strict=True):
                fits = isinstance(image, np.ndarray) and (not waiting or image.shape == waiting[0][1].shape)
                if waiting and (not fits or len(waiting) == batch_size):
                    yield from self._segment_waiting(waiting, probabilities)
                    waiting = []
                if isinstance(image, Failure):
                    yield image
                else:
                    waiting.append((path, image))
            if waiting:
                yield from self._segment_waiting(waiting, probabilities)

    def _segment_waiting(
        self, waiting: list[tuple[Path, NDArray[np.uint8]]], probabilities: bool
    ) -> list[Segmentation]:
        paths, images = zip(*waiting, strict=True)
        return self.segment(images, paths, probabilities=probabilities)

    def _decided(
        self, images: Sequence[NDArray[np.uint8]], probabilities: bool
    ) -> Iterator[tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.float32] | None]]:
        """Yield each photo's mask and, if asked, its probabilities, one after the other."""
        protocol, size = self.protocol, images[0].shape[:2]
        if not protocol.single_view:
            for image in images:
                yield decide_together(self._views(image), probabilities=probabilities)
            return
        inputs = [next(protocol.views(image, self.preprocess))[0] for image in images]
        if protocol.window is None or protocol.stride is None:
            batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
            for scores in whole(self.engine, batch, size):
                yield decide([scores], probabilities=probabilities)
        else:
            for x in inputs:
                bands = slide_in_bands(self.engine, x, size, protocol.window, protocol.stride)
                yield decide(bands, probabilities=probabilities)

    def _views(self, image: NDArray[np.uint8]) -> Iterator[tuple[Scores, bool]]:
        """Yield the scores of each of the protocol's views of a photo, and whether it was mirrored."""
        protocol, size = self.protocol, image.shape[:2]
        for x, mirrored in protocol.views(image, self.preprocess):
            if protocol.window is None or protocol.stride is None:
                yield next(whole(self.engine, x[None], size)), mirrored
            else:
                yield slide(self.engine, x, size, protocol.window, protocol.stride), mirrored


def _read(source: ImageSource, max_pixels: int | None) -> NDArray[np.uint8]:
    return read_image(source) if max_pixels is None else read_image(source, max_pixels=max_pixels)


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
