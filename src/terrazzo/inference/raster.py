"""`SegmentedRaster`: a georeferenced raster on its way from file to files, in bands of rows.

A raster is shown in overlapping windows of its own resolution: one metre has as many pixels in each of them, however
large the raster is. Windows that hold nothing but gaps do not go through the network, and gaps have no class in the
result.

    kind            file                        holds
    mask            <stem>_mask.tif             class indices with a colour table; gaps are nodata
    color           <stem>_color.tif            every pixel in its class's colour
    confidence      <stem>_confidence.tif       probability of each pixel's class: 65535 is certain
    entropy         <stem>_entropy.tif          entropy of its probabilities: 65535 is the same for each class
    polygons        <stem>_polygons.geojson     outlines of connected areas with class and area
    json            <stem>.json                 pixels and share of every class that occurs
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import make_folder, temporary_folder
from terrazzo.data.sources.mosaic import is_vrt
from terrazzo.data.sources.raster import Raster, crs_name, has_rasterio, is_raster
from terrazzo.data.sources.region import Region
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.areas import ClassArea, areas_of, count_classes, summary_of
from terrazzo.inference.overlay import Style
from terrazzo.inference.pipeline import Pipeline
from terrazzo.inference.protocols import PROTOCOLS, WHOLE
from terrazzo.inference.raster_files import Layer, geotiff
from terrazzo.inference.raster_journal import Journal
from terrazzo.inference.raster_polygons import write_polygons
from terrazzo.inference.result import as_uint16
from terrazzo.inference.scores import CERTAINTY, Keep, Pixels
from terrazzo.inference.streaming import Streamed
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.ownership import refuse_foreign, write_result
from terrazzo.preprocess import Preprocess
from terrazzo.text import shown_path

__all__ = ["RASTER_KINDS", "RasterOptions", "SegmentedRaster", "rasters_among", "segmented_raster"]

RASTER_KINDS = {
    "mask": "_mask.tif",
    "color": "_color.tif",
    "confidence": "_confidence.tif",
    "entropy": "_entropy.tif",
    "polygons": "_polygons.geojson",
    "json": ".json",
}
IN_WINDOWS = PROTOCOLS["slide"]
KEPT_FROM = 1 << 24  # pixels of a raster whose bands are kept for a run that goes on


@dataclass(frozen=True)
class RasterOptions:
    """What is wanted of rasters.

    Attributes:
        region: the part to segment; None for all of it.
        is_cog: lay results out as cloud-optimised GeoTIFFs.
    """

    region: Region | None = None
    is_cog: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentedRaster(Streamed):
    """A raster, and what segments it.

    Attributes:
        shown: what segments it, at its own resolution.
        is_cog: as of `RasterOptions`.
    """

    shown: Pipeline
    is_cog: bool = False

    def kinds(self, asked: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
        """Return the files that can be written, and the kinds that cannot.

        Raises:
            ConfigError: none of them can be (code "config-save").
        """
        written = {kind: path for kind, path in asked.items() if kind in RASTER_KINDS}
        if not written:
            raise ConfigError(
                f"{', '.join(asked)} cannot be written of a raster",
                fix=f"choose from {', '.join(RASTER_KINDS)}",
                code="config-save",
            )
        return written, [kind for kind in asked if kind not in written]

    def write(
        self, files: Mapping[str, Path], *, overwrite: bool = False, style: Style | None = None
    ) -> list[ClassArea]:
        """Segment the raster and write files by kind, each put in place when all are complete; return the areas.

        Raises:
            ImageError: a window cannot be read. Then nothing is written.
            OutputError: as `Segmentation.save`.
        """
        inputs = [] if self.path is None else [self.path]
        refuse_foreign(files.values(), "predict", inputs=inputs, overwrite=overwrite, option="output")
        labels, raster = self.labels, self._raster
        folder = make_folder(next(iter(files.values())).parent)
        keep = frozenset(kind for kind in CERTAINTY if kind in files)
        counts = np.zeros(labels.num_classes, np.int64)
        with ExitStack() as stack:
            written = {kind: path for kind, path in files.items() if kind not in ("json", "polygons")}
            if "polygons" in files and "mask" not in files:
                written["mask"] = stack.enter_context(temporary_folder(folder)) / "mask.tif"
            writers = {
                kind: stack.enter_context(geotiff(path, raster, _layer(kind, labels), is_cog=self.is_cog))
                for kind, path in written.items()
            }
            journal = self._journal(next(iter(files.values())), keep)
            if journal is not None:
                stack.enter_context(journal)
            for band in self._decided(journal, keep, folder):
                counts += count_classes(band.mask, labels)
                for kind, rows in writers.items():
                    rows.write(_rows_of(kind, band, labels))
            if "polygons" in files:
                write_polygons(writers["mask"].finished(), files["polygons"], labels)
        areas = areas_of(counts, labels, max(int(counts.sum()), 1))
        if "json" in files:
            values = {**summary_of(self.path, raster.size, self.model, areas), "crs": crs_name(raster.crs)}
            write_result(files["json"], json.dumps(values, indent=2).encode() + b"\n", "predict")
        if journal is not None:
            journal.remove()
        return areas

    def _decided(self, journal: Journal | None, keep: Keep, folder: Path) -> Iterator[Pixels]:
        """The bands from the top: those of an earlier run that was ended, and then the others."""
        raster, done = self._raster, 0
        for band in journal.bands() if journal is not None else ():
            yield band
            done += len(band.mask)
        if done and self.path is not None:
            note(f"{shown_path(self.path)}: goes on at row {done} of {raster.size[0]}, where an earlier run ended")
        if done == raster.size[0]:
            return
        for band in _without_gaps(self.shown.bands(raster, keep, folder, done), raster, self.labels, done):
            if journal is not None:
                journal.append(band)
            yield band

    def _journal(self, first: Path, keep: Keep) -> Journal | None:
        """What keeps the bands of a run beside its first file; None for a raster that is done in a moment."""
        raster, shown = self._raster, self.shown
        if raster.size[0] * raster.size[1] < KEPT_FROM:
            return None
        stats = [(file, os.stat(file)) for file in raster.dataset.files if os.path.exists(file)]
        return Journal(
            first.with_name(f".{first.name}.resume"),
            {
                "files": [(os.path.abspath(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats],
                "read": repr((raster.window, raster.indexes, raster.reading, raster.region)),
                "protocol": shown.protocol.settings(shown.preprocess),
                "labels": self.labels.names,
                "kept": sorted(keep),
                "first logits": shown.fingerprint(raster),
            },
        )

    @property
    def _raster(self) -> Raster:
        assert isinstance(self.source, Raster)
        return self.source


def rasters_among(
    paths: Sequence[Path], reading: ReadOptions | None, options: RasterOptions | None = None
) -> set[Path]:
    """Return those images that are georeferenced; a chosen frame is read as an image, since GDAL has no frames.

    Raises:
        ConfigError: something is wanted of rasters, and there are none (code "raster-none").
        MissingExtraError: likewise, and rasterio is not installed.
    """
    rasters = set() if reading is not None and reading.frame is not None else {p for p in paths if is_raster(p)}
    if options not in (None, RasterOptions()) and not (rasters and has_rasterio()):
        if not has_rasterio():
            raise MissingExtraError("rasterio", "geo")
        raise ConfigError(
            "a region or a cloud-optimised layout is asked for, and no image is a raster that is written to files",
            fix="leave out --region and --cog, or name a GeoTIFF (and in Python an output)",
            code="raster-none",
        )
    if has_rasterio():
        return rasters
    mosaics = {path for path in rasters if is_vrt(path)}  # each of which says that rasterio is missing
    if plain := sorted(rasters - mosaics):
        more = f" and {len(plain) - 1} more" if len(plain) > 1 else ""
        note(
            f"{shown_path(plain[0])}{more}: without rasterio a GeoTIFF is read as a plain image, and its results lose "
            "their georeference; run pip install rasterio"
        )
    return mosaics


def segmented_raster(
    pipeline: Pipeline, path: Path, reading: ReadOptions, options: RasterOptions | None = None
) -> SegmentedRaster:
    """Open a raster that a pipeline is to segment.

    Raises:
        ImageError: it cannot be opened or read as the model needs it.
        ConfigError: the protocol needs all of it at once (code "raster-protocol").
        MissingExtraError: rasterio is not installed.
    """
    options = options or RasterOptions()
    mean = pipeline.preprocess.mean
    fill = tuple(round(value) for value in mean[:3]) if reading.rule is None else (255, 255, 255)
    raster = Raster(path, reading, (fill[0], fill[1], fill[2]), options.region)
    shown = _at_own_resolution(pipeline)
    if not shown.protocol.needs_only_strips(raster.size, shown.preprocess):
        raise ConfigError(
            f"{shown_path(path)}: the protocol {shown.protocol.name} would need all of the raster at once",
            fix="leave --protocol out, or use --protocol slide",
            code="raster-protocol",
        )

    def bands(source: Any, keep: Any, folder: Path | None) -> Iterator[Pixels]:
        return _without_gaps(shown.bands(source, keep, folder), source, pipeline.labels)

    return SegmentedRaster(raster, pipeline.labels, bands, pipeline.model, path, shown=shown, is_cog=options.is_cog)


def _at_own_resolution(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that shows rasters in windows, without the resize that is meant for photos."""
    if pipeline.protocol not in (WHOLE, IN_WINDOWS):
        return pipeline
    preprocess = pipeline.preprocess
    plain = Preprocess(mean=preprocess.mean, std=preprocess.std, bands=preprocess.bands)
    return replace(pipeline, protocol=IN_WINDOWS, preprocess=plain)


def _without_gaps(bands: Iterator[Pixels], raster: Raster, labels: LabelSpec, top: int = 0) -> Iterator[Pixels]:
    """Take the classes of gaps away, in bands that begin with a row."""
    for band in bands:
        height, width = band.mask.shape
        gaps_HW = raster.gaps(slice(top, top + height), slice(0, width))
        if gaps_HW is not None:
            band.mask[gaps_HW] = labels.ignore_index
            for plane in (band.confidence, band.entropy):
                if plane is not None:
                    plane[gaps_HW] = 0
        yield band
        top += height


def _layer(kind: str, labels: LabelSpec) -> Layer:
    match kind:
        case "mask":
            palette = _palette(labels) if labels.mask_dtype == np.uint8 else None
            return Layer(labels.mask_dtype, nodata=labels.ignore_index, palette_K3=palette, overviews="mode")
        case "color":
            return Layer(np.dtype(np.uint8), 3)
        case _:
            return Layer(np.dtype(np.uint16), overviews="average")


def _palette(labels: LabelSpec) -> NDArray[np.uint8]:
    colors_1K3: NDArray[np.uint8] = labels.colorize(np.arange(labels.num_classes, dtype=np.uint8)[None])
    return colors_1K3.reshape(-1, 3)


def _rows_of(kind: str, band: Pixels, labels: LabelSpec) -> NDArray[Any]:
    match kind:
        case "mask":
            return band.mask
        case "color":
            return labels.colorize(band.mask)
        case _:
            return as_uint16(getattr(band, kind))
