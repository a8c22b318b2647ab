"""Request bodies: read within limits of size and time, decompressed within the same limit, taken apart if multipart."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from terrazzo.serving.refusal import Refusal
from terrazzo.text import show

__all__ = ["Upload", "decompressed", "read_body", "read_images"]

RAW_TYPES = ("application/octet-stream",)  # besides image/*
FIELDS = ("image", "images", "file", "files")
MOST_PARTS = 1000
LONGEST_HEADER = 4096
IMAGE_LINKS = "images are sent as bytes; a URL is not fetched"


@dataclass(frozen=True)
class Upload:
    """An image file of a request: what the client calls it, and its bytes."""

    name: str | None
    data: bytes


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Read the whole body, as it comes.

    Args:
        request: whose body was not read yet.
        most: bytes.
        seconds: for all of it, however slowly it trickles.

    Raises:
        Refusal: it is too large (413) or too slow (408), or the client went away.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > most:
        raise Refusal(413, "body-too-large", f"the body has {int(declared):,} bytes, and {most:,} are allowed")
    read = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                read += chunk
                if len(read) > most:
                    raise Refusal(413, "body-too-large", f"the body has more than the {most:,} bytes allowed")
    except TimeoutError:
        raise Refusal(408, "body-slow", f"the body did not arrive within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise Refusal(499, "client-gone", "the client went away") from None
    return bytes(read)


def decompressed(data: bytes, coding: str, most: int) -> bytes:
    """Return a body as it was before its ``Content-Encoding``.

    Raises:
        Refusal: the coding is not known (415), its data is wrong (400), or there are more than `most` bytes (413).
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return data
    if coding not in ("gzip", "deflate"):
        raise Refusal(415, "body-encoding", f"the content encoding {show(coding)} is not known; send gzip or identity")
    unpacker = zlib.decompressobj(wbits=31 if coding == "gzip" else 15)
    try:
        unpacked = unpacker.decompress(data, most + 1)
    except zlib.error:
        raise Refusal(400, "body-encoding", f"the body is not what {coding} writes") from None
    if len(unpacked) > most:
        raise Refusal(413, "body-too-large", f"the body has more than the {most:,} bytes allowed once decompressed")
    if not unpacker.eof or unpacker.unused_data:
        raise Refusal(400, "body-encoding", f"the {coding} body is cut short, or goes on after its end")
    return unpacked


def read_images(body: bytes, content_type: str) -> list[Upload]:
    """Return the image files of a body: the body itself, or the files of a multipart form.

    Raises:
        Refusal: the type is neither (415), the form is broken, or it has no file (400).
    """
    kind, options = parse_options_header(content_type)
    media = kind.decode("latin-1").lower()
    if media == "multipart/form-data":
        return _files(body, options.get(b"boundary", b""))
    if media.startswith("image/") or media in RAW_TYPES:
        if not body:
            raise Refusal(400, "body-empty", "the body is empty")
        return [Upload(None, body)]
    if not media:
        raise Refusal(415, "body-type", "the request has no Content-Type; send image/jpeg or multipart/form-data")
    raise Refusal(
        415, "body-type", f"the Content-Type is {show(media)}; send an image type or multipart/form-data. {IMAGE_LINKS}"
    )


def _files(body: bytes, boundary: bytes) -> list[Upload]:
    form = _Form()
    if not boundary:
        raise Refusal(400, "body-multipart", "the multipart Content-Type has no boundary")
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise Refusal(400, "body-multipart", "the multipart body cannot be taken apart") from None
    if not form.is_complete:
        raise Refusal(400, "body-multipart", "the multipart body ends before its last boundary")
    if not form.uploads:
        raise Refusal(400, "body-no-file", f"the form has no file; send one in the field {FIELDS[0]}. {IMAGE_LINKS}")
    return form.uploads


class _Form:
    """Collects what the parser reports."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.is_complete = False
        self._parts = 0
        self._header, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(self._header, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(self._value, data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise Refusal(413, "body-too-large", f"the form has more than {MOST_PARTS} parts")
        self._headers = {}
        self._data = bytearray()

    @staticmethod
    def _grow(text: bytearray, more: bytes) -> None:
        text += more
        if len(text) > LONGEST_HEADER:
            raise Refusal(400, "body-multipart", "a header of the form is too long")

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field in FIELDS and self._data:
            name = options.get(b"filename", b"").decode("utf-8", "replace")
            self.uploads.append(Upload(name.replace("\\", "/").rpartition("/")[2] or None, bytes(self._data)))

    def _complete(self) -> None:
        self.is_complete = True
