"""VRT mosaics of GDAL and the files beside rasters: what they name is on this machine, or they are not opened.

GDAL tells a file's format by its content and asks all of its drivers, so what a mosaic names may be a server: by an
address in many spellings, or as a file of any name that describes one. The same holds for a mask beside a raster.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from terrazzo.errors import ImageError
from terrazzo.text import show, shown_path

__all__ = ["is_vrt", "refuse_remote"]

NAMES_FILE = re.compile(r"filename|sourcedataset", re.IGNORECASE)  # elements: SourceFilename, SourceDataset
ELSEWHERE = re.compile(r"://|/vsi|^\s*[a-z_]{2,}:", re.IGNORECASE)
ONLY_TOLD = {"metadata", "srs", "geotransform", "description", "histograms", "categorynames", "colortable", "gcplist",
             "colorinterp", "pixelfunctionname"}  # fmt: skip
DESCRIBES = re.compile(rb"[\s\xef\xbb\xbf]*[<{]|SQLite format|fgb\x03")
"""How a file begins that may name others: XML, JSON, and the tables of tile indices."""

DEEPEST = 5  # mosaics of mosaics
LARGEST = 64 << 20  # bytes of a mosaic: some have 100,000 tiles


def is_vrt(path: Path) -> bool:
    """Whether a file is a mosaic in GDAL's format VRT."""
    return _start(path).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<VRTDataset")


def refuse_remote(path: Path) -> None:
    """Refuse a raster or mosaic for which GDAL would open what is not a raster file of this machine.

    Raises:
        ImageError: code "image-address", or "image-corrupt" for a mosaic that cannot be read.
    """
    _check(path, path, DEEPEST, set())


def _check(path: Path, named_by: Path, depth: int, seen: set[Path]) -> None:
    for beside in (f"{path}.msk", f"{path}.MSK"):
        if DESCRIBES.match(_start(Path(beside))):
            raise ImageError(
                f"{shown_path(named_by)}: {shown_path(beside)} is not a mask, and may name others",
                fix="take it away",
                code="image-address",
            )
    if not is_vrt(path) or path in seen:
        return
    seen.add(path)
    if depth == 0 or path.stat().st_size > LARGEST:
        raise _unread(named_by, "it is too large, or mosaics in it name mosaics")
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise _unread(named_by, "it declares entities")
    try:
        root = ElementTree.fromstring(
            content, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
        )
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _unread(named_by, f"it is not XML: {error}") from error
    for element in _told_elements(root):
        values = [element.text or "", *element.attrib.values()]
        if NAMES_FILE.search(str(element.tag)):
            source = _source(element, path, named_by)
            if source is not None:
                _check(source, named_by, depth - 1, seen)
        elif remote := next(filter(ELSEWHERE.search, values), None):
            raise _remote(named_by, remote)


def _told_elements(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """All elements that GDAL may act on."""
    waiting = [root]
    while waiting:
        element = waiting.pop()
        if isinstance(element.tag, str) and element.tag.lower() not in ONLY_TOLD:
            yield element
            waiting += element


def _source(element: ElementTree.Element, mosaic: Path, named_by: Path) -> Path | None:
    """The file that an element names; None where it names none.

    Raises:
        ImageError: it is no file of this machine, or one that may name others and is no mosaic.
    """
    if len(element):
        raise _unread(named_by, "the name of a file in it has more than text")
    if not (name := (element.text or "").strip()):
        return None
    is_relative = any(key.lower() == "relativetovrt" and value == "1" for key, value in element.attrib.items())
    path = mosaic.parent / name if is_relative else Path(name)
    if ELSEWHERE.search(name) or not os.path.isfile(path):
        if ELSEWHERE.search(name) or os.path.exists(path):
            raise _remote(named_by, name)
        raise ImageError(
            f"{shown_path(named_by)}: it names {show(name)}, and there is no such file",
            fix="put the file there, or make the mosaic again",
            code="image-missing",
        )
    if not is_vrt(path) and DESCRIBES.match(_start(path)):
        raise _remote(named_by, name, "it is not a raster, and may name servers")
    return path


def _start(path: Path) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait
            return b""
        with open(path, "rb") as file:
            return file.read(200)
    except (OSError, ValueError):
        return b""


def _remote(path: Path, name: str, why: str = "nothing is downloaded unasked") -> ImageError:
    return ImageError(
        f"{shown_path(path)}: it names {show(name)}, and {why}",
        fix="download its files, and make the mosaic of these",
        code="image-address",
    )


def _unread(path: Path, why: str) -> ImageError:
    return ImageError(
        f"{shown_path(path)}: the mosaic is not read: {why}",
        fix="make it again with gdalbuildvrt",
        code="image-corrupt",
    )
