"""`Streamed`: the segmentation of an image that is read, decided and written in bands of rows, never held as a whole.

Its files are those that the image's array would have, bit for bit. Memory does not grow with the image: a few windows
with their logits, and a band of rows of each file. Probabilities are not written, which are as many images as there are
classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import make_folder, replacing
from terrazzo.data.sources.source import Image, Source
from terrazzo.errors import ConfigError
from terrazzo.imaging.png import PngWriter
from terrazzo.inference.areas import ClassArea, areas_of, count_classes, summary_of
from terrazzo.inference.legend import Legend, legend_for
from terrazzo.inference.overlay import Style, cut_out, legend_entries, line_width, paint
from terrazzo.inference.result import Segmentation, as_uint16, png_palette
from terrazzo.inference.scores import CERTAINTY, Keep, Pixels
from terrazzo.inference.scratch import CompressedRows
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import blank_png_mark, mark_files
from terrazzo.ownership import refuse_foreign, write_result

__all__ = ["STREAMED_KINDS", "Bands", "Streamed"]

Bands: TypeAlias = Callable[[Source, Keep, Path | None], Iterator[Pixels]]
Rows: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

STREAMED_KINDS = ("mask", "color", "overlay", "cutout", "confidence", "entropy", "json")
OVERLAY_PIXELS = 1 << 24  # of an overlay, painted at once


@dataclass(frozen=True, eq=False)
class Streamed:
    """An image that is too large to be held, and what segments it.

    Attributes:
        source: the image.
        labels: the classes.
        bands: segments an image and gives its pixels in bands of rows, from the top, as `Pipeline.bands` does.
        model: the name of the model that predicts.
        path: the image's file, where it is one.
        as_rgb: makes a picture of rows of the image, for pictures of it.
    """

    source: Source
    labels: LabelSpec
    bands: Bands
    model: str | None = None
    path: Path | None = None
    as_rgb: Callable[[Image], NDArray[np.uint8]] = np.asarray

    def kinds(self, asked: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
        """Return the files that can be written, and the kinds that cannot.

        Raises:
            ConfigError: none of them can be (code "config-save").
        """
        written = {kind: path for kind, path in asked.items() if kind in STREAMED_KINDS}
        left_out = [kind for kind in asked if kind not in written]
        if not written:
            raise ConfigError(
                f"the image is read in windows, and {', '.join(left_out)} would need all of it at once",
                fix=f"choose from {', '.join(STREAMED_KINDS)}; or raise --max-pixels if there is memory for all of it",
                code="config-save",
            )
        return written, left_out

    def write(
        self, files: Mapping[str, Path], *, overwrite: bool = False, style: Style | None = None
    ) -> list[ClassArea]:
        """Segment the image and write files by kind, each put in place when all are complete; return the areas.

        What does not fit into memory goes into temporary files beside the first of them.

        Raises:
            ConfigError: a kind cannot be written in bands.
            ImageError: a window cannot be read. Then nothing is written.
            OutputError: as `Segmentation.save`.
        """
        inputs = [] if self.path is None else [self.path]
        refuse_foreign(files.values(), "predict", inputs=inputs, overwrite=overwrite, option="output")
        labels, source, style = self.labels, self.source, style or Style()
        folder = make_folder(next(iter(files.values())).parent)
        keep = frozenset(kind for kind in CERTAINTY if kind in files)
        counts, drawn = np.zeros(labels.num_classes, np.int64), None
        with ExitStack() as stack:
            writers = {
                kind: stack.enter_context(_png_rows(path, *_format(kind, source.size, labels)))
                for kind, path in files.items()
                if kind not in ("overlay", "json")
            }
            if "overlay" in files:
                drawn = stack.enter_context(CompressedRows(folder))
            cut = style.cut(labels) if "cutout" in files else None
            top = 0
            for band in self.bands(source, keep, folder):
                counts += count_classes(band.mask, labels)
                for kind, write_rows in writers.items():
                    match kind:
                        case "mask":
                            write_rows(band.mask)
                        case "color":
                            write_rows(labels.colorize(band.mask))
                        case "cutout":
                            assert cut is not None
                            write_rows(cut_out(self._rows(top, top + len(band.mask)), band.mask, cut))
                        case _:
                            write_rows(as_uint16(getattr(band, kind)))
                if drawn is not None:
                    drawn.append(band.mask)
                top += len(band.mask)
            areas = areas_of(counts, labels, source.size[0] * source.size[1])
            if drawn is not None:
                bare = style.unpainted(labels)
                legend = legend_for(source.size, legend_entries(areas, labels, bare))
                write_rows = stack.enter_context(_png_rows(files["overlay"], (*legend.size, 3), np.dtype(np.uint8)))
                for rows in self._overlay(drawn, style.alpha, bare, legend):
                    write_rows(rows)
        if "json" in files:
            values = summary_of(self.path, source.size, self.model, areas)
            write_result(files["json"], json.dumps(values, indent=2).encode() + b"\n", "predict")
        return areas

    def whole(self, keep: Keep = frozenset()) -> Segmentation:
        """Segment the image and hold its mask, without the image.

        Raises:
            ConfigError: probabilities are asked for too, which would be as many masks as there are classes, of floats.
        """
        if "probabilities" in keep:
            raise ConfigError(
                "the image is read in windows, and its probabilities would need all of it at once",
                fix="leave them out; or raise max_pixels if there is memory for all of it",
                code="config-save",
            )
        pixels: Pixels | None = None
        top = 0
        for band in self.bands(self.source, keep, None):
            pixels = pixels or band.enlarged(self.source.size)
            pixels.put(top, 0, band)
            top += len(band.mask)
        assert pixels is not None
        return Segmentation(
            pixels.mask,
            self.labels,
            path=self.path,
            model=self.model,
            confidence=pixels.confidence,
            entropy=pixels.entropy,
        )

    def _overlay(
        self, mask: CompressedRows, alpha: float, bare: NDArray[np.bool_], legend: Legend
    ) -> Iterator[NDArray[np.uint8]]:
        """The rows of the overlay and its legend, from the top. Lines reach from one band of rows into the next."""
        height, width = self.source.size
        line = line_width(self.source.size)
        step = max(line, OVERLAY_PIXELS // width)
        for top in range(0, height, step):
            stop = min(top + step, height)
            first, last = max(top - line, 0), min(stop + line + 1, height)
            mask_RW = mask[first:last]
            image_RW3 = self._rows(first, last)
            painted = paint(image_RW3, self.labels.colorize(mask_RW), mask_RW, alpha, bare, line)
            yield legend.beside(painted[top - first : stop - first], top)
        for top in range(height, legend.size[0], step):
            yield legend.beside(np.empty((min(step, legend.size[0] - top), 0, 3), np.uint8), top)

    def _rows(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Rows of the image, as a picture."""
        return self.as_rgb(self.source.read_window(slice(first, stop), slice(0, self.source.size[1])))


def _format(
    kind: str, size: tuple[int, int], labels: LabelSpec
) -> tuple[tuple[int, ...], np.dtype[np.uint8] | np.dtype[np.uint16], NDArray[np.uint8] | None]:
    """The shape, the type of numbers and the palette of a PNG."""
    match kind:
        case "mask":
            return size, labels.mask_dtype, png_palette(labels) if labels.mask_dtype == np.uint8 else None
        case "color":
            return (*size, 3), np.dtype(np.uint8), None
        case "cutout":
            return (*size, 4), np.dtype(np.uint8), None
        case _:
            return size, np.dtype(np.uint16), None


@contextmanager
def _png_rows(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], palette_K3: NDArray[np.uint8] | None = None
) -> Iterator[Callable[[Rows], None]]:
    """Yield what writes rows to a PNG, which is put in place when the block ends."""
    with replacing(path) as partial:
        with open(partial, "wb") as file:
            writer = PngWriter(file, shape, dtype, palette_K3, blank_png_mark("predict"))
            yield writer.write_rows
            writer.close()
        mark_files([partial], "predict")
