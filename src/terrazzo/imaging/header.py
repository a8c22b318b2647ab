"""Image headers: format, size, frames and orientation, read before any pixel is decoded."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from terrazzo.errors import ImageError
from terrazzo.imaging.decoders import JpegReader, PngReader, TiffReader, WebPReader
from terrazzo.text import shown_path

__all__ = ["TURNS", "Encoded", "check_size", "choose_frame", "opened_image", "orientation", "raw_mode"]

Encoded: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes] | bytes

TURNS = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _CutShort(Exception):
    """The file ended inside the image."""


class _Strict:
    """Raises an error where the file ends and more is needed; Pillow may be set to fill the rest with grey."""

    may_end = False

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(size)  # type: ignore[misc]
        if not data and size is not None and size > 0 and not self.may_end:
            raise _CutShort
        return data


class _File(_Strict, io.BufferedReader):
    pass


class _Memory(_Strict, io.BytesIO):
    pass


@contextmanager
def opened_image(source: Encoded | Image.Image) -> Iterator[Image.Image]:
    """Open an image and read its header; every error inside the block becomes an ImageError that names the source."""
    name = "the image" if isinstance(source, (bytes, Image.Image)) else shown_path(source)
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        with _Memory(source) if isinstance(source, bytes) else _open_file(os.fsdecode(source)) as file:
            if file.seek(0, io.SEEK_END) == 0:
                raise ImageError("the file is empty", fix="copy or download it again", code="image-empty")
            file.seek(0)
            head = file.read(512)
            file.seek(0)
            file.may_end = head[:2] in (b"P1", b"P2", b"P3")  # numbers as text: the last may touch the end
            reader = _reader(head)
            # Silencing touches all threads, so not for the two formats that are read by the thousand and hardly warn.
            with nullcontext() if reader in (JpegReader, PngReader) else _without_warnings(), reader(file) as image:
                if isinstance(image, TiffImageFile):
                    _refuse_raw(image, head)
                yield image
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", fix=error.fix, code=error.code) from error
    except _CutShort as error:
        raise ImageError(
            f"{name}: the file ends inside the image", fix="copy or download it again", code="image-truncated"
        ) from error
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{name}: the image is too large for memory", fix="cut it into tiles", code="image-too-large"
        ) from error
    except Exception as error:  # decoders meet hostile bytes with every kind of exception
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(
                f"{name}: cannot be read: {error.strerror}",
                fix="check the disk or the connection",
                code="image-unreadable",
            ) from error
        short = re.search("truncat|not enough|incomplete", str(error), re.IGNORECASE)
        raise ImageError(
            f"{name}: the image is {'cut short' if short else 'damaged or unusual'}: {error}",
            fix="copy or download it again, or save it again as PNG or JPEG",
            code="image-truncated" if short else "image-corrupt",
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings of large sizes, which are checked here, and of odd tags, which do no harm."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _open_file(path: str) -> _File:
    """Open a regular file; its kind is checked first, since opening a pipe or a device may block."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(
                "this is a folder",
                fix="name a photo in it; in Python, put it into a list for all of its photos",
                code="image-directory",
            )
        if not stat.S_ISREG(mode):
            raise ImageError("this is a pipe, socket or device", fix="name a regular file", code="image-not-a-file")
        return _File(io.FileIO(path))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a null character in the path
        fix = "download it first" if re.match("https?://", path) else "check the path"
        raise ImageError("there is no such file", fix=fix, code="image-missing") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ImageError(
                "its symbolic links go round in a circle", fix="name the file itself", code="image-not-a-file"
            ) from error
        raise ImageError(
            f"cannot be read: {error.strerror}", fix="check its permissions", code="image-unreadable"
        ) from error


def _reader(head: bytes) -> type[ImageFile.ImageFile]:
    """Return the decoder for a file's first bytes.

    Each is called directly: `Image.open` would try formats that are not on this list, start programs for some of them,
    and print warnings about size before the size can be checked here.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return JpegReader
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngReader
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffReader
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPReader
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if head.startswith(b"BM"):
        return BmpImageFile
    if re.match(rb"P[1-6f]\s", head):
        return PpmImageFile
    what, fix = _other_format(head)
    raise ImageError(
        f"this is {what}, not an image that can be read here (JPEG, PNG, TIFF, WebP, BMP, GIF, PPM)",
        fix=fix,
        code="image-format",
    )


def _refuse_raw(image: TiffImageFile, head: bytes) -> None:
    """Refuse cameras' raw files: TIFFs whose first image is a small preview or the sensor's mosaic."""
    tags = image.tag_v2
    is_preview = tags.get(254, 0) & 1 and 330 in tags
    if head[8:10] == b"CR" or 50706 in tags or tags.get(262) in (32803, 34892) or is_preview:
        raise ImageError(
            "this is a camera's raw file (such as DNG, NEF, CR2 or ARW), whose pixels are not developed",
            fix="develop it to TIFF, PNG or JPEG first",
            code="image-format",
        )


OTHER_FORMATS = {
    b"%!PS": "EPS or PostScript",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"8BPS": "a Photoshop document (PSD)",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\1\0": "an icon (ICO)",
    b"v/1\1": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "HDF5",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
}


def _other_format(head: bytes) -> tuple[str, str]:
    """Return what a file is that is not an image, and the fix."""
    for magic, name in OTHER_FORMATS.items():
        if head.startswith(magic):
            return name, "convert it to PNG or JPEG"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        kinds = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}
        if brand not in kinds:
            return "a video (MP4 or MOV)", "segment it with terrazzo.predict_video"
        return kinds[brand], "convert it to PNG or JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself with `git lfs pull`"
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    if text.startswith("<svg") or ("<svg" in text and text.startswith("<?xml")):
        return "a vector drawing (SVG)", "convert it to PNG"
    if text.startswith(("<!doctype", "<html", "<head", "<body", "<?xml")):
        return "a web page (HTML or XML)", "download the photo itself: the server may have sent an error page"
    if all(c.isprintable() or c in "\r\n\t" for c in text[:100]):
        return f"text, beginning {text[:30]!r}", "check where it came from"
    return "data of an unknown format", "convert it to PNG or JPEG"


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raise ImageError "image-too-large" for an image with more pixels."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than the {max_pixels:,} allowed",
            fix="cut it into tiles, or raise --max-pixels (max_pixels in Python) if there is memory for it",
            code="image-too-large",
        )


def choose_frame(image: Image.Image, frame: int | None) -> None:
    """Go to a frame or page, by default the only one.

    Raises:
        ImageError: there are several and none is chosen, or there is no such frame (code "image-frames").
    """
    frames = [0]
    if getattr(image, "is_animated", False):
        frames = list(range(image.n_frames))  # type: ignore[attr-defined]
        if isinstance(image, TiffImageFile):
            frames = [i for i in frames if _is_page(image, i)] or [0]
    if frame is None and len(frames) > 1:
        raise ImageError(
            f"it holds {len(frames)} frames or pages",
            fix="choose one, as in --frame 0 (frame=0 in Python)",
            code="image-frames",
        )
    if not 0 <= (frame or 0) < len(frames):
        raise ImageError(
            f"there is no frame {frame} among its {len(frames)}", fix="count frames from 0", code="image-frames"
        )
    image.seek(frames[frame or 0])


def _is_page(image: TiffImageFile, index: int) -> bool:
    """Tell whether a page is neither a reduced copy nor a mask of another one (TIFF 6.0, NewSubfileType)."""
    image.seek(index)
    return not image.tag_v2.get(254, 0) & 0b101


def raw_mode(image: Image.Image) -> str:
    """Return how the file packs its pixels in Pillow's terms, such as "RGB;16B"; empty if Pillow does not say."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (as stored) if there is none or it is damaged.

    EXIF is parsed here: Pillow warns of damaged EXIF, and decodes a whole PNG to look for it.
    """
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns these itself
    exif = image.info.get("exif")
    if exif is None and isinstance(image, PngImageFile) and image.fp is not None:
        exif = _late_png_exif(image.fp)
    tiff = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _late_png_exif(file: Any) -> bytes | None:
    """Return the EXIF data after the pixels of a PNG, without decoding the pixels."""
    position = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return bytes(file.read(length))
            file.seek(length + 4, io.SEEK_CUR)
        return None
    finally:
        file.seek(position)
