"""`Pipeline`: from images to masks by a protocol: preprocessing, network, exact upsampling."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields
from terrazzo.data.sources.array import ArraySource
from terrazzo.data.sources.source import Image, Source
from terrazzo.engines.engine import Engine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.inference.grid import mask_and_grid
from terrazzo.inference.protocols import WHOLE, Protocol, Shown
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import NOTHING, Block, Keep, Pixels, Scores, decide, decide_together
from terrazzo.inference.scratch import Scratch
from terrazzo.inference.tiling import slide, slide_in_blocks, whole
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.exported import Output

__all__ = ["Mask", "Pipeline"]

Mask: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

BAND_PIXELS = 1 << 24  # of an image that is written in bands of rows, decided at once


@dataclass(frozen=True)
class Pipeline:
    """An engine with what it needs to segment images.

    Attributes:
        engine: runs the network.
        preprocess: the weights' own.
        labels: the classes.
        model: the model's name, for the results.
        protocol: how images are shown to the network; by default whole, as the preprocessing resizes them.
        output: what the engine gives: logits, or masks, as some exported files do.
        temperature: that logits are divided by for probabilities, confidence and entropy; 1 leaves them. Masks do not
            depend on it.

    Raises:
        ConfigError: the protocol needs logits, and the engine gives masks (code "export-mask").
    """

    engine: Engine
    preprocess: Preprocess
    labels: LabelSpec
    model: str | None = None
    protocol: Protocol = WHOLE
    output: Output = "logits"
    temperature: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.protocol.single_view or self.protocol.window is not None:
            self._require_logits(f"the protocol {self.protocol.name}")

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) at which an image of this (height, width) is shown; images of one can share a batch."""
        is_whole = self.protocol.single_view and self.protocol.window is None
        return self.protocol.shown_size(size, self.preprocess) if is_whole else size

    def masks(self, images: Sequence[Image]) -> list[Mask]:
        """Segment (H, W, 3) images of one `input_size` as one batch; return an (H, W) mask of class indices for each.

        Logits are resized to the network's input size, then to the image's own, and the argmax is taken last
        (the papers' order; never the argmax of small logits).
        """
        return [pixels.mask for pixels in self._decided(images)]

    def masks_and_grids(self, images: Sequence[Image], step: int) -> list[tuple[Mask, NDArray[np.float32] | None]]:
        """As `masks`; with each the (K, h, w) probabilities of every `step`-th pixel of every `step`-th row.

        An engine that gives masks has no probabilities: None.
        """
        if self.output == "mask":
            return [(mask, None) for mask in self.masks(images)]
        if not self.protocol.single_view:
            together = [self._together(image, frozenset({"probabilities"})) for image in images]
            return [(pixels.mask, _every(pixels.probabilities, step)) for pixels in together]
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return [
            mask_and_grid(blocks, size, step, self.temperature)
            for blocks, size in zip(self._blocks_of(images), sizes, strict=True)
        ]

    def segment(
        self, images: Sequence[Image], paths: Sequence[Path | None], *, keep: Keep = NOTHING
    ) -> list[Segmentation]:
        """Segment images of one `input_size` as one batch, keeping each with its mask.

        Args:
            images: (H, W, 3) arrays.
            paths: the file of each, or None.
            keep: what else to keep: "probabilities" (K, H, W), "confidence" and "entropy" (H, W).

        Raises:
            ConfigError: more than the mask is wanted of an engine that gives masks (code "export-mask").
        """
        return [
            Segmentation(
                mask=pixels.mask,
                labels=self.labels,
                image=self.preprocess.as_rgb(image),
                path=path,
                probabilities=pixels.probabilities,
                model=self.model,
                confidence=pixels.confidence,
                entropy=pixels.entropy,
            )
            for pixels, image, path in zip(self._decided(images, keep), images, paths, strict=True)
        ]

    def bands(
        self, source: Source, keep: Keep = NOTHING, folder: Path | None = None, done: int = 0
    ) -> Iterator[Pixels]:
        """Segment an image that is read in windows; yield it in bands of rows from the top, each of all columns.

        Args:
            source: the image.
            keep: what is wanted beside the mask.
            folder: where a temporary file may be made.
            done: rows that are decided already, and left out.

        Raises:
            ImageError: it cannot be read.
            ConfigError: the engine gives masks (code "export-mask").
        """
        self._require_logits("an image that is read in windows")
        if not self.protocol.single_view:
            yield decide_together(self._views(source), keep, self.temperature).below(done)
            return
        width = source.size[1]
        rows = max(1, BAND_PIXELS // width)
        with Scratch(folder) as scratch:
            for top, blocks in groupby(self._blocks(source, folder, done), key=lambda block: block.top):
                for band in _joined(blocks, width, rows, keep, scratch, self.temperature):
                    if top + len(band.mask) > done:
                        yield band.below(max(done - top, 0))
                    top += len(band.mask)

    def fingerprint(self, source: Source) -> int:
        """Return a checksum of the logits of an image's first window, by which other weights are told apart."""
        view, side = next(self.protocol.views(source, self.preprocess)), self.protocol.window or max(source.size)
        height, width = view.size
        part_HWC = view.read_window(slice(0, min(side, height)), slice(0, min(side, width)))
        return zlib.crc32(self._run(np.ascontiguousarray(part_HWC).transpose(2, 0, 1)[None]).tobytes())

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

    def _decided(self, images: Sequence[Image], keep: Keep = NOTHING) -> Iterator[Pixels]:
        """Yield what is decided about each image, one after the other."""
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        for wanted in keep:
            self._require_logits(wanted)
        if not self.protocol.single_view:
            for image in images:
                yield self._together(image, keep)
        elif self.output == "mask":
            for mask_hw, size in zip(self._run(_batch(self._shown(images))), sizes, strict=True):
                yield Pixels(_nearest(mask_hw, size).astype(self.labels.mask_dtype))
        else:
            for blocks, size in zip(self._blocks_of(images), sizes, strict=True):
                yield decide(blocks, size, keep, self.temperature)

    def _together(self, image: Image, keep: Keep) -> Pixels:
        """What is decided about an image that is shown in several views."""
        return decide_together(self._views(ArraySource(image)), keep, self.temperature)

    def _shown(self, images: Sequence[Image]) -> list[Shown]:
        """Each image as the network is shown it first."""
        return [next(self.protocol.views(ArraySource(image), self.preprocess)) for image in images]

    def _blocks_of(self, images: Sequence[Image]) -> Iterator[Iterable[Block]]:
        """The scores of images that are shown once, as one batch where they are shown whole."""
        views, sizes = self._shown(images), [(image.shape[0], image.shape[1]) for image in images]
        if self.protocol.window is None:
            for scores in whole(self._run, _batch(views), sizes):
                yield [Block(0, 0, scores)]
        else:
            for view, size in zip(views, sizes, strict=True):
                yield self._windows(view, size)

    def _blocks(self, source: Source, folder: Path | None, done: int = 0) -> Iterator[Block]:
        """The scores of an image that is shown once."""
        view = next(self.protocol.views(source, self.preprocess))
        if self.protocol.window is None:
            yield Block(0, 0, next(whole(self._run, view.read()[None], [source.size])))
        else:
            yield from self._windows(view, source.size, folder, done)

    def _windows(
        self, view: Shown, size: tuple[int, int], folder: Path | None = None, done: int = 0
    ) -> Iterator[Block]:
        window, stride, blend = self.protocol.window, self.protocol.stride, self.protocol.blend
        assert window is not None and stride is not None
        reads_ahead = not isinstance(view.source, ArraySource)
        return slide_in_blocks(
            self._run, view, size, window, stride, blend, folder, view.is_empty, done, reads_ahead=reads_ahead
        )

    def _views(self, source: Source) -> Iterator[tuple[Scores, bool]]:
        """Yield the scores of each of the protocol's views of an image, and whether it was mirrored."""
        protocol, size = self.protocol, source.size
        for view in protocol.views(source, self.preprocess):
            if protocol.window is None or protocol.stride is None:
                yield next(whole(self._run, view.read()[None], [size])), view.mirrored
            else:
                scores = slide(self._run, view, size, protocol.window, protocol.stride, protocol.blend)
                yield scores, view.mirrored

    def _require_logits(self, what: str) -> None:
        if self.output != "logits":
            raise ConfigError(
                f"{self.model or 'this exported file'} gives masks, and {what} needs the scores of all classes",
                fix="export the model with its logits as output",
                code="export-mask",
            )


def _nearest(mask_hw: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Bring a mask to an image's size, each pixel from the one that holds its centre."""
    if mask_hw.shape == size:
        return mask_hw
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(mask_hw.shape, size, strict=True))
    resized: NDArray[Any] = mask_hw[rows[:, None], columns]
    return resized


def _batch(views: Sequence[Shown]) -> NDArray[np.float32]:
    return views[0].read()[None] if len(views) == 1 else np.stack([view.read() for view in views])


def _every(planes_KHW: NDArray[np.float32] | None, step: int) -> NDArray[np.float32] | None:
    return None if planes_KHW is None else planes_KHW[:, ::step, ::step]


def _joined(
    blocks: Iterable[Block], width: int, rows: int, keep: Keep, scratch: Scratch, temperature: float
) -> Iterator[Pixels]:
    """Decide blocks that lie side by side in an image of this width; yield it in bands of at most `rows` rows."""
    height, count, names = 0, 0, list[str]()
    for block in blocks:
        height = block.scores.rows.length
        if block.scores.columns.length == width:
            for scores in block.scores.split(rows):
                yield scores.pixels(keep, temperature)
            return
        planes = block.scores.pixels(keep, temperature).planes()
        for name, plane in planes.items():
            scratch[count, name] = plane
        names, count = list(planes), count + 1
        if block.left + block.scores.columns.length == width:
            break  # without asking for the next row's first
    for top in range(0, height, rows):
        stop = min(top + rows, height)
        parts = {name: [scratch.rows((number, name), top, stop) for number in range(count)] for name in names}
        yield Pixels(**{name: np.concatenate(part, axis=1) for name, part in parts.items()})
