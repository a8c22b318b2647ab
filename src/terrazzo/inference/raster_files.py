"""`GeoTiffRows`: a tiled and compressed GeoTIFF with overviews, written in bands of rows from the top."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import replacing, temporary_folder
from terrazzo.data.sources.raster import Raster, gdal_failures, rasterio_env
from terrazzo.errors import OutputError
from terrazzo.marks import blank_mark, mark_files
from terrazzo.text import shown_path

__all__ = ["GeoTiffRows", "Layer", "geotiff"]

BLOCK = 512
SMALLEST_OVERVIEW = 256  # of the longer side


@dataclass(frozen=True, eq=False)
class Layer:
    """What a GeoTIFF holds.

    Attributes:
        dtype: of its numbers.
        count: of bands: 1, or 3 for red, green and blue.
        nodata: the number that stands for no value.
        palette_K3: colours of the numbers from 0.
        overviews: how reduced copies are made: rasterio's name of the rule.
    """

    dtype: np.dtype[Any]
    count: int = 1
    nodata: int | None = None
    palette_K3: NDArray[np.uint8] | None = None
    overviews: str = "nearest"


@contextmanager
def geotiff(path: Path, raster: Raster, layer: Layer, *, is_cog: bool = False) -> Iterator[GeoTiffRows]:
    """Yield what writes rows to a GeoTIFF with a raster's place in the world, which is put in place at the end.

    Args:
        path: the file.
        raster: whose reference system, transform, ground control points and block size it takes over.
        layer: what it holds.
        is_cog: lay it out as a cloud-optimised GeoTIFF.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as partial:
        with _naming(path):
            if is_cog:
                with temporary_folder(partial.parent) as folder:
                    plain = folder / f"rows{path.suffix}"
                    with GeoTiffRows(plain, raster, layer) as rows:
                        yield rows
                    _lay_out(plain, partial, layer, rows.block)
                _check(partial, rows.block[0])
            else:
                with GeoTiffRows(partial, raster, layer) as rows:
                    yield rows
                factors = _add_overviews(partial, layer, max(raster.size))
                _check(partial, rows.block[0], factors)
        mark_files([partial], "predict")


@dataclass
class GeoTiffRows:
    """Writes rows, a whole row of blocks at a time: GDAL would compress a block again whenever rows are added to it."""

    path: Path
    raster: Raster
    layer: Layer
    _waiting: list[NDArray[Any]] = field(default_factory=list, init=False)
    _written: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        raster, layer = self.raster, self.layer
        height, width = raster.size
        has_points = bool(raster.points[0]) and raster.region is None
        with rasterio_env():
            from rasterio.enums import ColorInterp

            self._file: Any = _quietly(
                self.path,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=layer.count,
                dtype=layer.dtype.name,
                nodata=layer.nodata,
                **({} if has_points else {"crs": raster.crs}),
                **({} if raster.transform.is_identity else {"transform": raster.transform}),
                tiled=True,
                blockysize=self.block[0],
                blockxsize=self.block[1],
                compress="deflate",
                bigtiff="if_safer",
                **({"photometric": "rgb"} if layer.count == 3 else {}),
            )
            if has_points:
                self._file.gcps = raster.points
            if layer.palette_K3 is not None:
                self._file.write_colormap(1, {index: tuple(color) for index, color in enumerate(layer.palette_K3)})
                self._file.colorinterp = [ColorInterp.palette]
            self._file.update_tags(TIFFTAG_SOFTWARE=blank_mark("predict"), AREA_OR_POINT="Area")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finished()

    def finished(self) -> Path:
        """Complete the file, once all rows are written, and return where it lies for now."""
        with rasterio_env():
            self._file.close()
        return self.path

    @property
    def block(self) -> tuple[int, int]:
        """(height, width) of a block: the raster's own, where that is a tiled file and no mosaic."""
        block: tuple[int, int] = self.raster.dataset.block_shapes[0]
        is_usual = self.raster.dataset.driver == "GTiff" and all(
            side % 16 == 0 and 128 <= side <= 2048 for side in block
        )
        return block if is_usual else (BLOCK, BLOCK)

    def write(self, rows: NDArray[Any]) -> None:
        """Write the next rows, (rows, width) or (rows, width, 3)."""
        self._waiting.append(rows)
        count = sum(map(len, self._waiting))
        is_last = self._written + count == self.raster.size[0]
        whole = count if is_last else count // self.block[0] * self.block[0]
        if whole:
            together = np.concatenate(self._waiting)
            self._waiting = [together[whole:].copy()]
            bands = together[:whole, :, None] if together.ndim == 2 else together[:whole]
            place = (self._written, self._written + whole), (0, self.raster.size[1])
            with rasterio_env():
                self._file.write(np.ascontiguousarray(np.moveaxis(bands, -1, 0)), window=place)
            self._written += whole


def _quietly(path: Path, mode: str, **options: Any) -> Any:
    """Open a file without rasterio's warning of files that have no place in the world."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(path, mode, **options)


def _check(path: Path, tall: int, factors: Sequence[int] | None = None) -> None:
    """Read a file that is complete, for GDAL does not say that the disk was full when a file is closed.

    Raises:
        RasterioError: a part is missing.
    """
    from rasterio.errors import RasterioError

    with rasterio_env(), _quietly(path, "r") as file:
        if factors is not None and file.overviews(1) != list(factors):
            raise RasterioError("the reduced copies are missing")
        for top in range(0, file.height, tall):
            file.read(window=((top, min(top + tall, file.height)), (0, file.width)))


def _add_overviews(path: Path, layer: Layer, side: int) -> list[int]:
    factors: list[int] = []
    while side / 2 ** len(factors) > SMALLEST_OVERVIEW:
        factors.append(2 ** (len(factors) + 1))
    if factors:
        with rasterio_env():
            from rasterio.enums import Resampling

            _quietly(path, "r").close()  # which has a better error than "r+", where the file is not whole
            with _quietly(path, "r+") as file:
                file.build_overviews(factors, Resampling[layer.overviews])
    return factors


def _lay_out(plain: Path, path: Path, layer: Layer, block: tuple[int, int]) -> None:
    """Copy a GeoTIFF in the order that a cloud-optimised one has."""
    options = {"compress": "deflate", "blocksize": max(block), "bigtiff": "if_safer"}
    with rasterio_env():
        from rasterio.shutil import copy

        copy(plain, path, driver="COG", overview_resampling=layer.overviews, **options)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have GDAL's failures of writing name the file."""
    from rasterio.errors import RasterioError

    try:
        with gdal_failures():
            yield
    except RasterioError as error:
        raise OutputError(
            f"{shown_path(path)} could not be written: {error}",
            fix="free some space, or choose another folder",
            code="output-not-writable",
        ) from error
