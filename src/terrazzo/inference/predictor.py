"""Photos in, masks out: preprocess, engine, exact upsampling."""

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
from terrazzo.inference.postprocess import upsample_argmax, upsample_probabilities
from terrazzo.inference.result import Segmentation
from terrazzo.labels import LabelSpec
from terrazzo.preprocess import Preprocess

__all__ = ["Engine", "Failure", "Predictor"]

T = TypeVar("T")
R = TypeVar("R")

Engine = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Normalised images (B, 3, H, W) float32 to logits (B, K, h, w) float32."""


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
    """

    engine: Engine
    preprocess: Preprocess
    labels: LabelSpec
    model: str | None = None

    def masks(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8] | NDArray[np.uint16]]:
        """Segment (H, W, 3) photos of one size as one batch; return an (H, W) mask of class indices for each.

        Logits are resized to the network's input size, then to the photo's own, and the argmax is taken last
        (the papers' order; never the argmax of small logits).
        """
        return [upsample_argmax(logits, sizes) for logits, sizes in self._logits(images)]

    def segment(
        self, images: Sequence[NDArray[np.uint8]], paths: Sequence[Path | None], *, probabilities: bool = False
    ) -> list[Segmentation]:
        """Segment photos of one size as one batch, keeping photo and, if asked, the (K, H, W) probabilities."""
        return [
            Segmentation(
                mask=upsample_argmax(logits, sizes),
                labels=self.labels,
                image=image,
                path=path,
                probabilities=upsample_probabilities(logits, sizes) if probabilities else None,
                model=self.model,
            )
            for (logits, sizes), image, path in zip(self._logits(images), images, paths, strict=True)
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

    def _logits(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[NDArray[np.float32], list[tuple[int, int]]]]:
        """Yield each photo's (K, h, w) logits and the sizes to bring them to, one after the other."""
        inputs = [self.preprocess(image) for image in images]
        batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
        for logits, image in zip(self.engine(batch), images, strict=True):
            yield logits, [(batch.shape[2], batch.shape[3]), (image.shape[0], image.shape[1])]


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
