"""Strict image decoders: Pillow's, with checks for damage that they would show as pixels or fill with grey.

libjpeg and libwebp go on after an error and show whatever the wrong bits mean, and Pillow drops their warnings. So the
encoded bytes are checked here:

- JPEG: the order of its markers, the number of restart markers, and whether the decoder is done exactly where the
  compressed data end. Wrong bits make it read too few or too many.
- PNG: the checksums of the chunks with pixels.
- WebP: an image that still decodes without its last bytes is damaged: its bits went wrong before.
- TIFF: every error that libtiff reports; the checksum of deflated strips, which libtiff ignores; JPEG as above.

No JPEG or PNG is decoded twice. Some damage cannot be found: uncompressed files have no redundancy, progressive and
lossless ones little.
"""

from __future__ import annotations

import ctypes
import io
import math
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import IO, Any

from PIL import ImagePalette, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin, _imaging, _webp

from terrazzo.errors import ImageError

__all__ = ["JpegReader", "PngReader", "TiffReader", "WebPReader"]

COPY_AGAIN = "copy or download it again"
EMPTY_TAIL = bytes(64)
EMPTY_END = "its end is empty, as after an interrupted download"


def _damaged(what: str) -> ImageError:
    return ImageError(f"the image is damaged: {what}", fix=COPY_AGAIN, code="image-damaged")


def _cut_short() -> ImageError:
    return ImageError("the file ends inside the image", fix=COPY_AGAIN, code="image-truncated")


# -- JPEG --------------------------------------------------------------------------------------------------------------

END_OF_IMAGE = b"\xff\xd9"
MARKER = re.compile(rb"\xff[\x01-\xfe]")
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
HELD_BACK = 16  # bytes; some cameras put a few too many behind the last block
PADDING = bytes(10)  # a decoder looks up to eight bytes ahead
HOLE = bytes(512)


class JpegReader(JpegImagePlugin.JpegImageFile):
    """Reads the main image alone of the multi-image files that phones write."""

    def _read_dpi_from_exif(self) -> None:
        """Skip the resolution: Pillow would warn of damaged EXIF, which does no harm here."""

    def load_read(self, read_bytes: int) -> bytes:
        """Give the decoder the file in two parts: a sound file needs the second one, and nothing after it."""
        if not hasattr(self, "_parts"):
            assert self.fp is not None
            data = self.fp.read()
            end, self._counted = _end_of_scans(data)
            last = end - HELD_BACK if self._counted else end
            rest = data[last:end] + (PADDING if self._counted else data[end : end + 2])
            self._parts = [data[:last], rest]
            self._is_ended = data[end : end + 2] == END_OF_IMAGE
        if not self._parts:
            raise _damaged("its compressed data end too early") if self._is_ended else _cut_short()
        return self._parts.pop(0)

    def load_end(self) -> None:
        if self._counted and self._parts:
            raise _damaged("its compressed data go on after the last pixel")


def _end_of_scans(data: bytes) -> tuple[int, bool]:
    """Return where the compressed data end, by the markers, and whether the decoder must stop exactly there."""
    position, frame, interval, scans = 2, b"", 0, 0
    counted, shortest = False, dict[int, int]()
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 2 > len(data):
            raise _cut_short()
        if data[position] != 0xFF:
            raise _damaged("there is something else between its segments")
        marker = data[position + 1]
        if marker == 0xD9:
            if not scans:
                raise _damaged("it has no pixels")
            return position, counted
        if marker == 1 or 0xD0 <= marker <= 0xD8 or (scans and marker not in BETWEEN_SCANS):
            raise _damaged(f"marker {marker:02X} is out of place")
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment, position = data[position + 4 : position + 2 + length], position + 2 + length
        if length < 2 or position > len(data):
            raise _cut_short()
        if marker in FRAMES:
            frame = bytes([marker]) + segment
        elif marker == 0xC4:
            shortest.update(_shortest_codes(segment))
        elif marker == 0xDD and len(segment) >= 2:
            interval = int.from_bytes(segment[:2], "big")
        elif marker == 0xDA:
            scans += 1
            whole = frame[:1] in (b"\xc0", b"\xc1") and segment[:1] == frame[6:7]  # one scan of all components
            counted = whole and scans == 1
            end, restarts = _end_of_scan(data, position)
            found = end < len(data)
            if not found and data.endswith(EMPTY_TAIL):
                raise _damaged(EMPTY_END)
            if not found and not counted:
                raise _cut_short()
            _check_restarts(restarts, interval, _blocks(frame, segment))
            is_flat = segment[-3:-2] == b"\0" if frame[:1] == b"\xc2" else not any(shortest.values())
            if not is_flat and data.find(HOLE, position, end) >= 0:
                raise _damaged("a part of it is empty")
            position = end
            if counted and (not found or data[end + 1] != 0xDC):
                if found and data[end + 1] != 0xD9:
                    raise _damaged(f"marker {data[end + 1]:02X} is out of place")
                return end, True


def _shortest_codes(segment: bytes) -> Iterator[tuple[int, int]]:
    """Yield each Huffman table's number with the symbol that zero bits stand for; symbol 0 changes no value."""
    while len(segment) > 17:
        count = sum(segment[1:17])
        yield segment[0], segment[17]
        segment = segment[17 + count :]


def _end_of_scan(data: bytes, start: int) -> tuple[int, list[int]]:
    """Return the position of the marker that ends compressed data, and the numbers of the restart markers in them."""
    restarts: list[int] = []
    for match in MARKER.finditer(data, start):
        number = data[match.start() + 1] - 0xD0
        if not 0 <= number < 8:
            return match.start(), restarts
        restarts.append(number)
    return len(data), restarts


def _check_restarts(found: list[int], interval: int, blocks: int) -> None:
    """Refuse a scan whose restart markers do not count 0 to 7 in turn, or are not one per interval."""
    if any((second - first) % 8 != 1 for first, second in pairwise(found)) or found[:1] not in ([], [0]):
        raise _damaged("its restart markers are out of order")
    if found and not interval:
        raise _damaged("it has restart markers and should not")
    if blocks and interval and len(found) != (blocks - 1) // interval:
        raise _damaged(f"it has {len(found)} restart markers, and should have {(blocks - 1) // interval}")


def _blocks(frame: bytes, scan: bytes) -> int:
    """Return how many minimum coded units (MCUs) a scan has; 0 if the header does not say."""
    height, width, count = (
        (int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[4:6], "big"), frame[6])
        if len(frame) >= 7
        else (0, 0, 0)
    )
    parts = {frame[7 + 3 * i]: divmod(frame[8 + 3 * i], 16) for i in range(count) if len(frame) >= 10 + 3 * i}
    if not parts or not height or not scan or any(0 in factors for factors in parts.values()):
        return 0
    most = max(h for h, _ in parts.values()), max(v for _, v in parts.values())
    if scan[0] > 1:
        return math.ceil(width / (8 * most[0])) * math.ceil(height / (8 * most[1]))
    h, v = parts.get(scan[1], most)
    return math.ceil(math.ceil(width * h / most[0]) / 8) * math.ceil(math.ceil(height * v / most[1]) / 8)


# -- PNG ---------------------------------------------------------------------------------------------------------------


class PngReader(PngImagePlugin.PngImageFile):
    def load(self) -> Any:
        if self.tile and self.fp is not None:
            position = self.fp.tell()
            _check_png(self.fp)
            self.fp.seek(position)
        return super().load()


def _check_png(file: IO[bytes]) -> None:
    """Compare the checksums of the chunks with pixels, which Pillow ignores."""
    end = file.seek(0, io.SEEK_END)
    position = 8
    while position + 12 <= end:
        file.seek(position)
        length = int.from_bytes(file.read(4), "big")
        if position + 12 + length > end:
            return  # Pillow says so
        content = file.read(4 + length)
        if content[:4] in (b"IDAT", b"fdAT") and zlib.crc32(content) != int.from_bytes(file.read(4), "big"):
            raise _damaged("the checksum of its pixels is wrong")
        position += 12 + length


# -- WebP --------------------------------------------------------------------------------------------------------------

LAST_BYTES = 16  # more than encoders fill up with


class WebPReader(WebPImagePlugin.WebPImageFile):
    def _open(self) -> None:
        assert self.fp is not None
        self._encoded = self.fp.read()
        self.fp.seek(0)
        super()._open()
        self.info["lossless"] = b"VP8L" in (name for name, _ in _webp_chunks(self._encoded))

    def load(self) -> Any:
        pixels = super().load()
        encoded, self._encoded = (
            self._encoded,
            b"",
        )  # each frame of an animation is a file of its own, and not looked at
        if encoded and not self.is_animated:
            _check_webp(encoded)
        return pixels


def _check_webp(data: bytes) -> None:
    """Refuse a file that decodes without its last bytes: a decoder makes pixels of any bits, but uses fewer or more."""
    for name, body in _webp_chunks(data):
        if name in (b"VP8 ", b"VP8L") and len(body) > 10 + LAST_BYTES:
            body = body[:-LAST_BYTES]
            body += bytes(len(body) % 2)
            chunk = name + len(body).to_bytes(4, "little") + body
            file = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
            try:
                _webp.WebPAnimDecoder(file).get_next()
            except OSError:
                return
            raise _damaged("its compressed data go on after the last pixel")


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of each part: ``VP8L`` holds losslessly compressed pixels, ``VP8 `` others."""
    position = 12
    while (head := data[position : position + 8])[4:]:
        name, length = head[:4], int.from_bytes(head[4:8], "little")
        yield name, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


# -- TIFF --------------------------------------------------------------------------------------------------------------

JPEG, DEFLATE = 7, (8, 32946)
_reports = threading.local()


class TiffReader(TiffImagePlugin.TiffImageFile):
    """Opens TIFFs with pixels that Pillow does not know, too; `unknown` then says why Pillow cannot load them."""

    unknown = ""

    def _setup(self) -> None:
        try:
            self._refuse_many_samples()
            super()._setup()
        except (SyntaxError, KeyError, IndexError) as error:
            if getattr(self, "_size", (0, 0)) == (0, 0):
                raise
            self._mode, self.tile, self.unknown = "F", [], str(error) or "unknown compression"
        colors = self.tag_v2.get(320, ())
        if self.mode in ("P", "PA") and max(colors, default=0) < 256:  # some writers fill 8 of each colour's 16 bits
            self.palette = ImagePalette.raw("RGB;L", bytes(colors))

    def _refuse_many_samples(self) -> None:
        """Raise what Pillow would raise too, but only after a line in its log, which goes to the screen."""
        width, height, samples = (self.tag_v2.get(tag, 1) for tag in (256, 257, 277))
        is_size = isinstance(width, int) and isinstance(height, int)
        if is_size and isinstance(samples, int) and samples > TiffImagePlugin.MAX_SAMPLESPERPIXEL:
            is_turned = self.tag_v2.get(274) in (5, 6, 7, 8)
            self._size = (height, width) if is_turned else (width, height)
            raise SyntaxError(f"{samples} samples per pixel")

    def load(self) -> Any:
        if not self.tile:
            return super().load()
        parts = list(self._parts())
        with _libtiff_reports() as lines:
            pixels = super().load()
        if lines:
            raise _damaged(lines[0])
        tables = bytes(self.tag_v2.get(347, b""))[:-2]
        for part in parts:
            if self.tag_v2[259] == JPEG:
                with JpegReader(io.BytesIO(tables + part[2:] if tables else part)) as image:
                    image.load()
            else:
                _check_deflated(part)
        return pixels

    def _parts(self) -> Iterator[bytes]:
        """Yield the strips or tiles whose encoding has checks that libtiff does not make."""
        tags: Any = self.tag_v2
        offsets, lengths = (tags.get(name, ()) for name in ((324, 325) if 322 in tags else (273, 279)))
        if tags.get(259) not in (*DEFLATE, JPEG) or not isinstance(offsets, tuple) or not isinstance(lengths, tuple):
            return
        assert self.fp is not None
        for offset, length in zip(offsets, lengths, strict=False):
            if length:
                self.fp.seek(offset)
                yield self.fp.read(length)


def _check_deflated(part: bytes) -> None:
    inflater = zlib.decompressobj()
    rest = part
    try:
        while rest and not inflater.eof:
            inflater.decompress(rest, 1 << 20)
            rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if not inflater.eof:
        raise _damaged("a strip of it ends too early")


@contextmanager
def _libtiff_reports() -> Iterator[list[str]]:
    """Collect the errors that libtiff reports in this thread; otherwise it prints them."""
    _report_handler()
    lines: list[str] = []
    _reports.lines = lines
    try:
        yield lines
    finally:
        del _reports.lines


@cache
def _report_handler() -> Any:
    """Install an error handler in libtiff; errors outside of `_libtiff_reports` go to the handler before it.

    If libtiff cannot be reached (on Windows it is part of Pillow), errors are printed as before.
    """
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    try:
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        form = ctypes.CDLL(None).vsnprintf
    except (AttributeError, OSError, TypeError):
        return None
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    form.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def collect(module: bytes | None, text: bytes, arguments: int) -> None:
        lines = getattr(_reports, "lines", None)
        if lines is not None:
            line = ctypes.create_string_buffer(300)
            form(line, len(line), text, arguments)
            lines.append(line.value.decode("utf-8", "replace").strip())
        elif usual:
            kind(usual)(module, text, arguments)

    handle = kind(collect)
    usual = set_handler(ctypes.cast(handle, ctypes.c_void_p))
    return handle  # kept: libtiff calls it as long as the program runs
