"""Mosaics and files beside rasters that would make GDAL ask a server: none is asked."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")

from terrazzo.data.sources.mosaic import is_vrt, refuse_remote  # noqa: E402
from terrazzo.data.sources.raster import Raster, rasterio_env  # noqa: E402
from terrazzo.errors import ImageError  # noqa: E402

WEB = "http://127.0.0.1:9"
SERVER = f"<GDAL_WMTS><GetCapabilitiesUrl>{WEB}/x.xml</GetCapabilitiesUrl></GDAL_WMTS>"


def mosaic(path: Path, source: str, attributes: str = 'relativeToVRT="1"', more: str = "") -> Path:
    named = f"<SimpleSource><SourceFilename {attributes}>{source}</SourceFilename></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1">{named}{more}</VRTRasterBand>'
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{band}</VRTDataset>')
    return path


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    options = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
    path = tmp_path / "tile.tif"
    with rasterio.open(path, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8", **options) as file:
        file.write(np.full((1, 8, 8), 7, np.uint8))
    return path


@pytest.mark.parametrize(
    "source",
    [
        f"/vsicurl/{WEB}/a.tif",
        f"/vsizip//vsicurl/{WEB}/a.zip/a.tif",
        f"&#47;vsicurl/{WEB}/a.tif",
        f"<![CDATA[/vsis3/bucket/a.tif{WEB}]]>",
        f"{WEB}/a.tif",
        f"vrt://{WEB}/a.tif",
        f"WMS:{WEB}/?layers=a",
        "WCS:server.example",
        f'ZARR:"/vsicurl/{WEB}/a.zarr"',
        "PG:host=server.example",
        "STACIT:a.json",
    ],
)
def test_addresses_in_any_spelling(source: str, tmp_path: Path) -> None:
    path = mosaic(tmp_path / "web.vrt", source)
    with pytest.raises(ImageError, match=r"web\.vrt: it names .*nothing is downloaded unasked") as caught:
        refuse_remote(path)
    assert caught.value.code == "image-address"


def test_files_that_describe_servers(tile: Path, tmp_path: Path) -> None:
    for name, content in {"server.xml": SERVER, "innocent.tif": f"\ufeff {SERVER}", "index.json": "{}"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ImageError, match="it is not a raster, and may name servers"):
            refuse_remote(mosaic(tmp_path / "x.vrt", name))
    mosaic(tmp_path / "inner.vrt", f"/vsicurl/{WEB}/a.tif")
    with pytest.raises(ImageError, match=r"outer\.vrt: it names '/vsicurl"):
        refuse_remote(mosaic(tmp_path / "outer.vrt", "inner.vrt"))
    for place in (tile, mosaic(tmp_path / "y.vrt", "tile.tif")):
        (tmp_path / "tile.tif.msk").write_text(SERVER)
        with pytest.raises(ImageError, match=r"tile\.tif\.msk is not a mask"):
            Raster(place)
        (tmp_path / "tile.tif.msk").unlink()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (f"<SourceFilename>tile.tif<!-- -->{WEB}</SourceFilename>", "has more than text"),
        (f"<sourcefilename>{WEB}</sourcefilename>", "nothing is downloaded"),
        (f"<SourceDataset>WMTS:{WEB}</SourceDataset>", "nothing is downloaded"),
        (f'<TransformerOption name="RPC_DEM">/vsicurl/{WEB}</TransformerOption>', "nothing is downloaded"),
        ("<SimpleSource>", "it is not XML"),
        ("<SourceFilename>gone.tif</SourceFilename>", "there is no such file"),
    ],
)
def test_more_in_a_mosaic(more: str, said: str, tile: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=said):
        refuse_remote(mosaic(tmp_path / "x.vrt", "tile.tif", more=more))


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "x.vrt"
    path.write_text('<VRTDataset/><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>')
    with pytest.raises(ImageError, match="declares entities"):
        refuse_remote(path)


def test_mosaics_of_files_of_this_machine_are_read(tile: Path, tmp_path: Path) -> None:
    about = f'<Metadata><MDI key="from">{WEB}</MDI></Metadata><ColorInterp>Gray</ColorInterp>'
    (tmp_path / "below").mkdir()
    inner = mosaic(tmp_path / "below/inner.vrt", "../tile.tif", more=about)
    outer = mosaic(tmp_path / "outer.vrt", str(inner), 'relativeToVRT="0"', about)
    assert is_vrt(outer) and not is_vrt(tile)
    for path in (inner, outer, tile):
        refuse_remote(path)
        assert Raster(path).read().tolist() == np.full((8, 8, 3), 7).tolist()
    mosaic(outer, "outer.vrt")
    refuse_remote(outer)  # which names itself, as GDAL finds too


def test_gdal_reaches_no_server_by_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not known to name a server ends at a proxy that nobody answers."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.xml"
        (tmp_path / "x.xml").write_text(SERVER.replace(f"{WEB}/x.xml", address))
        with rasterio_env(), rasterio.Env(GDAL_HTTP_TIMEOUT=1), pytest.raises(rasterio.errors.RasterioError):
            rasterio.open(tmp_path / "x.xml")
        with pytest.raises(BlockingIOError):
            server.accept()
