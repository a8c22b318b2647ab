"""GDAL through rasterio: its settings, its failures, and the names of reference systems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from terrazzo.errors import MissingExtraError
from terrazzo.text import printable

__all__ = ["crs_name", "gdal_failures", "has_rasterio", "rasterio_env"]

OFFLINE = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "nothing is downloaded unasked",
    "GDAL_HTTP_PROXY": "http://127.0.0.1:1",  # which nobody answers
    "GDAL_HTTPS_PROXY": "http://127.0.0.1:1",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
}
"""GDAL's settings by which no file makes it ask a server, behind what `refuse_remote` knows of, or run a program."""

CACHE_MB = 64  # of GDAL, which by default takes a twentieth of the machine's memory


def has_rasterio() -> bool:
    """Whether the extra ``geo`` is installed."""
    return find_spec("rasterio") is not None


def rasterio_env() -> Any:
    """Return rasterio's context in which GDAL keeps few decoded blocks.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo") from error
    return rasterio.Env(GDAL_CACHEMAX=CACHE_MB, **OFFLINE)


def crs_name(crs: Any) -> str | None:
    """Return a reference system as people write it, such as ``EPSG:32616``, else its full text."""
    if crs is None:
        return None
    authority = crs.to_authority()
    return str(crs.to_wkt()) if authority is None else ":".join(authority)


@contextmanager
def gdal_failures() -> Iterator[None]:
    """Have all of GDAL's failures come as rasterio's own: some have a class that it does not publish.

    Raises:
        rasterio.errors.RasterioError: with what GDAL says.
    """
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        raise RasterioError(printable(str(error.__cause__ or error))) from error
    except Exception as error:
        if not type(error).__module__.startswith("rasterio."):
            raise
        raise RasterioError(printable(str(error))) from error
