"""`Streamed`: the segmentation of an image that is read, decided and written in bands of rows, never held as a whole.

The mask is the one that the image's array would have, bit for bit. Memory grows with the image's width, and not with
its height: a row of windows with their logits, and one band of the mask. Of the kinds of results those are written that
need no more than a band at a time: mask, color and json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import replacing
from terrazzo.data.sources.source import Source
from terrazzo.errors import ConfigError
from terrazzo.imaging.png import PngWriter
from terrazzo.inference.result import ClassArea, Segmentation, areas_of, count_classes, png_palette, summary_of
from terrazzo.labels.spec import LabelSpec
from terrazzo.ownership import blank_png_mark, mark_files, refuse_foreign, write_result

__all__ = ["STREAMED_KINDS", "Streamed"]

Classes: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

STREAMED_KINDS = ("mask", "color", "json")


@dataclass(frozen=True, eq=False)
class Streamed:
    """An image that is too large to be held, and what segments it.

    Attributes:
        source: the image.
        labels: the classes.
        bands: segments an image and gives its mask in bands of rows, from the top.
        model: the name of the model that predicts.
        path: the image's file, where it is one.
    """

    source: Source
    labels: LabelSpec
    bands: Callable[[Source], Iterator[Classes]]
    model: str | None = None
    path: Path | None = None

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

    def write(self, files: Mapping[str, Path], *, overwrite: bool = False) -> list[ClassArea]:
        """Segment the image and write files by kind, each put in place when all are complete; return the areas.

        Raises:
            ConfigError: a kind cannot be written in bands.
            ImageError: a window cannot be read. Then nothing is written.
            OutputError: as `Segmentation.save`.
        """
        refuse_foreign(
            files.values(),
            "predict",
            inputs=[] if self.path is None else [self.path],
            overwrite=overwrite,
            option="output",
        )
        labels, size = self.labels, self.source.size
        counts = np.zeros(labels.num_classes, np.int64)
        with ExitStack() as stack:
            writers: list[Callable[[Classes], None]] = []
            for kind, path in files.items():
                if kind in ("mask", "color"):
                    writers.append(stack.enter_context(_rows_written(path, kind, size, labels)))
            for band_RW in self.bands(self.source):
                counts += count_classes(band_RW, labels)
                for write_rows in writers:
                    write_rows(band_RW)
        areas = areas_of(counts, labels, size[0] * size[1])
        if "json" in files:
            values = summary_of(self.path, size, self.model, areas)
            write_result(files["json"], json.dumps(values, indent=2).encode() + b"\n", "predict")
        return areas

    def whole(self, *, probabilities: bool = False) -> Segmentation:
        """Segment the image and hold its mask, without the image.

        Raises:
            ConfigError: probabilities are asked for too, which would be as many masks as there are classes, of floats.
        """
        if probabilities:
            raise ConfigError(
                "the image is read in windows, and its probabilities would need all of it at once",
                fix="leave them out; or raise max_pixels if there is memory for all of it",
                code="config-save",
            )
        mask_HW = np.empty(self.source.size, self.labels.mask_dtype)
        top = 0
        for band_RW in self.bands(self.source):
            mask_HW[top : top + len(band_RW)] = band_RW
            top += len(band_RW)
        return Segmentation(mask_HW, self.labels, path=self.path, model=self.model)


@contextmanager
def _rows_written(
    path: Path, kind: str, size: tuple[int, int], labels: LabelSpec
) -> Iterator[Callable[[Classes], None]]:
    """Yield what writes a band of the mask to a PNG, which is put in place when the block ends."""
    mark, dtype = blank_png_mark("predict"), labels.mask_dtype
    with replacing(path) as partial:
        with open(partial, "wb") as file:
            if kind == "mask":
                palette_K3 = png_palette(labels) if dtype == np.uint8 else None
                writer = PngWriter(file, size, dtype, palette_K3, mark)
                yield writer.write_rows
            else:
                writer = PngWriter(file, (*size, 3), np.dtype(np.uint8), chunks=mark)
                yield lambda band_RW: writer.write_rows(labels.colorize(band_RW))
            writer.close()
        mark_files([partial], "predict")
