"""Photos in: the one decoder of the program, which refuses what it cannot show truthfully.

What a file holds is told by its first bytes, never by its name. The rules for what is not plain 8-bit RGB:

- Orientation in EXIF (or a TIFF tag) is applied: the array is what a viewer shows.
- Transparency is composed over `background`, white unless told otherwise; colours hidden under it never show.
- 16-bit values are divided by 256 and rounded down, so the full range 0 to 65535 becomes 0 to 255 (16-bit colour PPM:
  scaled by its declared maximum). With `value_range`, that range becomes 0 to 255 instead. 32-bit and floating-point
  images are refused without it.
- CMYK is converted by the plain formula, without colour profiles.
- A file of several frames or pages needs `frame`. Reduced copies and masks inside a TIFF are not pages, nor are the
  extra pictures that phones append to a JPEG.

Nothing here changes Pillow's global settings, and a file that ends early is refused even where another library has set
``ImageFile.LOAD_TRUNCATED_IMAGES``.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from terrazzo.errors import ImageError

__all__ = ["MAX_PIXELS", "ImageSource", "image_size", "read_image"]

Encoded: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes] | bytes
ImageSource: TypeAlias = Encoded | Image.Image | NDArray[Any]

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB, and where Pillow's own warnings begin
WHITE = (255, 255, 255)
TURNS = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    background: tuple[int, int, int] = WHITE,
    value_range: tuple[float, float] | None = None,
    frame: int | None = None,
) -> NDArray[np.uint8]:
    """Decode a photo to 8-bit RGB, by the rules in the module's docstring.

    Args:
        source: a path, the bytes of an image file (a path in bytes goes through `os.fsdecode`), a PIL image, or an
            array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA. An (H, W, 3) uint8 array is returned as it is.
        max_pixels: an image with more is refused from its header, before anything is decoded.
        background: what shows through transparent pixels, and stands for NaN.
        value_range: the values that become 0 and 255, for images of more than 8 bits; beyond it they are clipped.
        frame: which frame or page of a file to take, from 0.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: the source cannot or must not be decoded, with one of the codes image-missing, -directory,
            -not-a-file, -unreadable, -empty, -format, -truncated, -corrupt, -too-large, -frames, -value-range, -array.
    """
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ImageError(
            f"value range {value_range} is empty", fix="give the lower value first", code="image-value-range"
        )
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, background, value_range)
    with _opened(source) as image:
        _check_size(image, max_pixels)
        if not isinstance(source, Image.Image) or frame is not None:  # an open image stands at the frame it is meant for
            _choose_frame(image, frame)
            _check_size(image, max_pixels)
        raw_mode = _raw_mode(image)
        _load(image)
        return _to_rgb(image, raw_mode, background, value_range)


def image_size(source: ImageSource) -> tuple[int, int]:
    """Read the height and width that `read_image` gives for a (first) frame, from the header alone.

    Raises:
        ImageError: as `read_image`, as far as the header tells.
    """
    if isinstance(source, np.ndarray):
        return source.shape[0], source.shape[1]
    with _opened(source) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            return width, height
        return height, width


# --- opening ----------------------------------------------------------------------------------------------------------


class _CutShort(Exception):
    """The file ended inside the image."""


class _Strict:
    """Makes the end of a file an error wherever more is wanted; Pillow may be set to fill up with grey."""

    may_end = False

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(size)  # type: ignore[misc]
        if not data and size is not None and size > 0 and not self.may_end:
            raise _CutShort
        return data


class _File(_Strict, io.BufferedReader):  # type: ignore[misc]
    pass


class _Memory(_Strict, io.BytesIO):  # type: ignore[misc]
    pass


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """The main picture alone of the multi-picture files that phones write."""

    def _read_dpi_from_exif(self) -> None:
        """Not needed, and Pillow would warn of damage to EXIF that does no harm here."""


@contextmanager
def _opened(source: Encoded | Image.Image) -> Iterator[Image.Image]:
    """Read the header; until the block ends, whatever goes wrong is an ImageError that names the source."""
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
            with _reader(head)(file) as image:  # type: ignore[abstract]
                yield image
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", fix=error.fix, code=error.code) from error
    except _CutShort as error:
        raise ImageError(
            f"{name}: the file ends inside the image", fix="copy or download it again", code="image-truncated"
        ) from error
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{name}: the image is too large for memory: {error}", fix="cut it into tiles", code="image-too-large"
        ) from error
    except Exception as error:  # decoders meet hostile bytes with every kind of exception
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(
                f"{name}: cannot be read: {error.strerror}", fix="check the disk or the connection", code="image-unreadable"
            ) from error
        short = re.search("truncat|not enough|incomplete", str(error), re.IGNORECASE)
        raise ImageError(
            f"{name}: the image is {'cut short' if short else 'damaged or unusual'}: {error}",
            fix="copy or download it again, or save it anew as PNG or JPEG",
            code="image-truncated" if short else "image-corrupt",
        ) from error


def _open_file(path: str) -> _File:
    """Open a regular file; looking first keeps pipes and devices from hanging the program."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError("this is a folder", fix="name a photo in it", code="image-directory")
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
    """Choose the decoder by the first bytes.

    Each is called directly: `Image.open` would try formats that are not on this list, start programs for some of them,
    and print warnings about size before the size can be checked here.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return _Jpeg
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImageFile
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImageFile
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
    """Say what a file is that is no photo, and what to do about it."""
    for magic, name in OTHER_FORMATS.items():
        if head.startswith(magic):
            return name, "convert it to PNG or JPEG"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        kinds = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}
        return kinds.get(brand, "a video (MP4 or MOV)"), "convert it to PNG or JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself with `git lfs pull`"
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    if text.startswith("<svg") or "<svg" in text and text.startswith("<?xml"):
        return "a vector drawing (SVG)", "convert it to PNG"
    if text.startswith(("<!doctype", "<html", "<head", "<body", "<?xml")):
        return "a web page (HTML or XML)", "download the photo itself: the server may have sent an error page"
    if all(c.isprintable() or c in "\r\n\t" for c in text[:100]):
        return f"text, beginning {text[:30]!r}", "check where it came from"
    return "data of an unknown format", "convert it to PNG or JPEG"


# --- what the header says ---------------------------------------------------------------------------------------------


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than the {max_pixels:,} allowed",
            fix="cut it into tiles, or raise max_pixels if there is memory for it",
            code="image-too-large",
        )


def _choose_frame(image: Image.Image, frame: int | None) -> None:
    frames = [0]
    if getattr(image, "is_animated", False):
        frames = list(range(image.n_frames))  # type: ignore[attr-defined]
        if isinstance(image, TiffImageFile):
            frames = [i for i in frames if _is_page(image, i)] or [0]
    if frame is None and len(frames) > 1:
        raise ImageError(
            f"it holds {len(frames)} frames or pages", fix="choose one, as in frame=0", code="image-frames"
        )
    if not 0 <= (frame or 0) < len(frames):
        raise ImageError(
            f"there is no frame {frame} among its {len(frames)}", fix="count frames from 0", code="image-frames"
        )
    image.seek(frames[frame or 0])


def _is_page(image: TiffImageFile, index: int) -> bool:
    """Whether it is neither a reduced copy nor a transparency mask of another page (TIFF 6.0, NewSubfileType)."""
    image.seek(index)
    return not image.tag_v2.get(254, 0) & 0b101


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels, such as "RGB;16B"; empty where Pillow does not say."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (as stored) where there is none or it is damaged.

    Read by hand: Pillow warns of damaged EXIF, and decodes the whole of a PNG to look for it.
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
    """EXIF that stands after the pixels of a PNG, found without decoding them."""
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


# --- pixels -----------------------------------------------------------------------------------------------------------


def _load(image: Image.Image) -> None:
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16"):
        # Pillow takes one letter of the raw mode for each plane of an uncompressed TIFF stored by planes
        image.tile = [t._replace(args=(image.mode, *t.args[1:])) if t.args and t.args[0] == "I" else t for t in image.tile]  # type: ignore[index]
    if image.width * image.height <= MAX_PIXELS:
        image.load()
        return
    with warnings.catch_warnings():  # the caller has raised max_pixels; Pillow's TIFF reader would still warn
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image.load()


def _to_rgb(
    image: Image.Image, raw_mode: str, background: tuple[int, int, int], value_range: tuple[float, float] | None
) -> NDArray[np.uint8]:
    turn, mode, format_ = TURNS.get(_orientation(image)), image.mode, image.format
    hidden = image.info.get("transparency")
    if turn is not None:
        image = image.transpose(turn)
    is_16_bit = mode.startswith("I;16") or (mode == "I" and format_ in ("PNG", "PPM"))
    if is_16_bit or mode in ("I", "F"):
        values_HW = np.asarray(image).astype(np.uint16, copy=False) if is_16_bit else np.asarray(image)
        rgb_HW3 = _scaled(values_HW, value_range, background)
        if is_16_bit and isinstance(hidden, int):
            rgb_HW3[values_HW == hidden] = background
        return rgb_HW3
    if ";16" in raw_mode:  # Pillow has kept the upper byte of each channel
        if value_range is not None:
            raise ImageError(
                "value_range works on one channel, and this is 16-bit colour",
                fix="leave it out, or save the image with 8 bits",
                code="image-value-range",
            )
        if isinstance(hidden, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in hidden)
    if mode in ALPHA_MODES or hidden is not None:
        return np.array(_composed(image, background))
    if mode not in OPAQUE_MODES:
        raise ImageError(f"pixels of kind {mode} are not handled", fix="save it as RGB", code="image-format")
    return np.array(image if mode == "RGB" else image.convert("RGB"))


def _composed(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    canvas = Image.new("RGBA", rgba.size, (*background, 255))
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")


def _scaled(
    values: NDArray[Any], value_range: tuple[float, float] | None, background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Bring (H, W) or (H, W, 3) numbers to (H, W, 3) uint8."""
    if values.ndim == 2:
        values = values[..., None]
    shape = (*values.shape[:2], 3)
    if value_range is None and values.dtype == np.uint16:
        return np.broadcast_to((values >> 8).astype(np.uint8), shape).copy()
    if value_range is None:
        raise ImageError(
            f"pixels are {values.dtype} numbers, whose black and white are unknown",
            fix="give value_range=(black, white)",
            code="image-value-range",
        )
    low, high = value_range
    missing_HW = np.isnan(values).any(-1) if values.dtype.kind == "f" else None
    levels = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    rgb_HW3 = np.broadcast_to(np.rint(np.nan_to_num(levels)).astype(np.uint8), shape).copy()
    if missing_HW is not None:
        rgb_HW3[missing_HW] = background
    return rgb_HW3


def _from_array(
    array: NDArray[Any],
    max_pixels: int,
    background: tuple[int, int, int],
    value_range: tuple[float, float] | None,
) -> NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    is_deep = array.dtype.kind in "iuf" and array.dtype != np.uint8
    if array.size == 0 or array.ndim not in (2, 3) or channels not in ((1, 3) if is_deep else (1, 3, 4)):
        raise ImageError(
            f"an array of shape {array.shape} is no image",
            fix="give (H, W), (H, W, 3) or uint8 (H, W, 4)",
            code="image-array",
        )
    if not is_deep and array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype} is no image", fix="convert it to uint8", code="image-array")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(
            f"{array.shape[1]} x {array.shape[0]} pixels are more than the {max_pixels:,} allowed",
            fix="cut it into tiles, or raise max_pixels if there is memory for it",
            code="image-too-large",
        )
    if is_deep:
        return _scaled(array, value_range, background)
    if channels == 4:
        return np.array(_composed(Image.fromarray(np.ascontiguousarray(array)), background))
    if channels == 3:
        return array
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)


def shown_path(path: str | os.PathLike[str] | os.PathLike[bytes] | bytes) -> str:
    """Write a path in a message: names may hold bytes that no text has, or escape sequences of terminals."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)[1:-1]
