"""Videos as sources: files whose frames are decoded one after the other, turned upright and timed from their start.

Formats are recognised by their first bytes and only these are opened, for FFmpeg would also follow playlists to other
files and addresses. GIF, WebP and PNG that are animated are in `animation.py`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ImageError
from terrazzo.imaging.pyav import import_av
from terrazzo.notes import note
from terrazzo.regular_files import open_regular
from terrazzo.text import said_by, shown_path

__all__ = [
    "VIDEO_SUFFIXES",
    "Frame",
    "Span",
    "Video",
    "VideoFile",
    "no_frames",
    "opened_video",
    "origin_of",
    "video_format",
]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv")
HEAD = 600  # bytes that tell a format
MAGIC = {
    b"\x1aE\xdf\xa3": "matroska",
    b"RIFF": "avi",
    b"\0\0\1\xba": "mpeg",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"FLV\1": "flv",
}
STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
MISSING_AT_END = Fraction(1, 2)  # seconds; less than that is rounding in headers
ITU709, ITU601, UNSPECIFIED = 1, 5, 2  # FFmpeg's numbers of YUV matrices
HD_FROM = 720  # rows; a video that does not say its matrix has the one that is usual for its size
HDR_CURVES = (16, 18)  # PQ and HLG


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of a video.

    Attributes:
        number: counted from 0, from the first frame that is read; frames that are passed over count too.
        time: when it is shown, in seconds from the start of the video.
        duration: how long, in seconds, as its file says it.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    time: Fraction
    duration: Fraction
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """Which frames of a video are read.

    Attributes:
        every: read every n-th frame, beginning with the first.
        start: seconds from the start of the video; frames before are left out.
        stop: seconds; this frame and those behind are left out. None reads to the end.
    """

    every: int = 1
    start: Fraction = Fraction(0)
    stop: Fraction | None = None


class Video(Protocol):
    """A video of which no frame has been decoded yet.

    Attributes:
        path: its file.
        time_base: the unit of its times, in seconds.
        rate: frames in a second, on average.
        duration: in seconds, as its header says it; None where it does not.
        pixel_aspect: width of a pixel divided by its height, as it is shown.
        has_audio: whether there is sound.
    """

    @property
    def path(self) -> Path: ...

    @property
    def time_base(self) -> Fraction: ...

    @property
    def rate(self) -> Fraction: ...

    @property
    def duration(self) -> Fraction | None: ...

    @property
    def pixel_aspect(self) -> Fraction: ...

    @property
    def has_audio(self) -> bool: ...

    def frames(self, span: Span) -> Generator[Frame, None, None]:
        """Decode frames, in the order in which they are shown.

        Raises:
            ImageError: there is none (code "video-no-frames"), or the file cannot be read.
        """
        ...


@dataclass
class VideoFile:
    """A video in a file that FFmpeg decodes.

    Raises:
        ImageError: the file is damaged (code "video-damaged"), or shows nothing ("video-no-stream").
        MissingExtraError: PyAV is not installed.
    """

    path: Path
    time_base: Fraction = field(init=False)
    rate: Fraction = field(init=False)
    duration: Fraction | None = field(init=False)
    pixel_aspect: Fraction = field(init=False)
    has_audio: bool = field(init=False)

    def __post_init__(self) -> None:
        with opened_video(self.path) as container:
            stream = _picture_stream(container, self.path)
            self.time_base = stream.time_base or Fraction(1, 1000)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.duration = _duration(container, stream)
            self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
            self.has_audio = bool(container.streams.audio)

    def frames(self, span: Span) -> Generator[Frame, None, None]:
        import_av()
        number, end, lost, damaged = -1, Fraction(0), 0, 0
        for picture, time, duration in self._pictures(span.start):
            if picture is None:
                lost += 1
                continue
            if time < span.start:
                continue
            if span.stop is not None and time >= span.stop:
                break
            number += 1
            end = time + duration
            damaged += picture.is_corrupt
            if number % span.every == 0:
                if number == 0 and picture.color_trc in HDR_CURVES:
                    note(f"{shown_path(self.path)} is HDR, and is read as if it were not: its colours look pale")
                yield Frame(number, time, duration * span.every, _upright_rgb(picture))
        if number < 0:
            raise no_frames(self.path, span, self.duration)
        self._tell(end, lost, damaged, span.stop)

    def _tell(self, end: Fraction, lost: int, damaged: int, stop: Fraction | None) -> None:
        """Say what is missing or damaged."""
        where = shown_path(self.path)
        if damaged:
            frames = "1 frame is" if damaged == 1 else f"{damaged} frames are"
            note(f"{where}: {frames} damaged, and what the masks there show is not to be trusted")
        if lost:
            pieces = "1 piece" if lost == 1 else f"{lost} pieces"
            note(f"{where}: {pieces} of it cannot be decoded, and the frames in there are missing")
        wanted = self.duration if stop is None or self.duration is None else min(stop, self.duration)
        if wanted is not None and wanted - end > max(MISSING_AT_END, 3 / self.rate):
            note(f"{where} is cut short: its last frame ends at {float(end):.2f} s of {float(wanted):.2f} s")

    def _pictures(self, start: Fraction) -> Iterator[tuple[Any, Fraction, Fraction]]:
        """Yield each decoded picture with its time and duration; None for data that cannot be decoded.

        Those before `start` are passed over as far as the file has an index of its key frames.
        """
        if start > 0:
            pictures = self._decoded(start)
            first = next(pictures, None)
            if first is not None and first[0] is not None and first[1] <= start:
                yield first
                yield from pictures
                return
        yield from self._decoded(Fraction(0))

    def _decoded(self, start: Fraction) -> Iterator[tuple[Any, Fraction, Fraction]]:
        av = import_av()
        with opened_video(self.path) as container:
            stream = _picture_stream(container, self.path)
            stream.thread_type = "AUTO"
            origin, usual = origin_of(container), 1 / self.rate
            if start > 0:
                with suppress(av.error.FFmpegError):  # there is no index, and reading begins where it can
                    container.seek(int((origin + start) / self.time_base), stream=stream)
            last: Fraction | None = None
            packets = container.demux(stream)
            while True:
                try:
                    pictures = next(packets).decode()
                except (StopIteration, av.error.EOFError):
                    return
                except av.error.InvalidDataError:
                    yield None, Fraction(0), Fraction(0)
                    continue
                for picture in pictures:
                    unit = picture.time_base or self.time_base
                    after = Fraction(0) if last is None else last + usual
                    time = after if picture.pts is None else picture.pts * unit - origin
                    if last is not None and time <= last:  # no player shows two frames at once
                        time = last + self.time_base
                    last = time
                    yield picture, time, (picture.duration or 0) * unit or usual


def video_format(path: str | os.PathLike[str]) -> str | None:
    """Return FFmpeg's name of a video file's format; None for anything else."""
    try:
        with open_regular(path) as file:
            return _format_of(file.read(HEAD))
    except OSError:
        return None


def _format_of(head: bytes) -> str | None:
    """Return FFmpeg's name of the format of a file with these first bytes."""
    if head[4:8] == b"ftyp":
        return None if head[8:12] in STILL_BRANDS else "mov"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") and head[:2] == b"\0\0":
        return "mov"
    for start, name in MAGIC.items():
        if head.startswith(start):
            return name if name != "avi" or head[8:12] == b"AVI " else None
    for size, skip in ((188, 0), (192, 4)):
        if len(head) > skip + 2 * size and all(head[skip + step * size] == 0x47 for step in range(3)):
            return "mpegts"
    return None


@contextmanager
def opened_video(path: Path) -> Iterator[Any]:
    """Open a video for reading; errors of FFmpeg inside the block become those of this program.

    Raises:
        ImageError: it is not there, is not a video (code "video-format"), or is damaged (code "video-damaged").
        MissingExtraError: PyAV is not installed.
    """
    av = import_av()
    where, damaged = shown_path(path), "copy or download it again, or convert it to H.264 in mp4 with another program"
    try:
        with open_regular(path) as file:
            kind = _format_of(file.read(HEAD))
            if kind is None:
                raise ImageError(
                    f"{where}: this is not a video that can be read here",
                    fix="give mp4, mov, mkv, webm, avi, mpg, ts, wmv or flv; or an animated GIF, WebP or PNG",
                    code="video-format",
                )
            file.seek(0)
            with av.open(file, format=kind, metadata_errors="replace") as container:
                yield container
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise ImageError(f"{where}: the video is cut short or damaged", fix=damaged, code="video-damaged") from error
    except av.error.FFmpegError as error:
        raise ImageError(
            f"{where}: the video cannot be read: {said_by(error)}", fix=damaged, code="video-damaged"
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"{where}: there is no such file", fix="check the path", code="image-missing") from error
    except OSError as error:
        if error.filename is None or Path(error.filename) != path:
            raise
        raise ImageError(
            f"{where}: the video cannot be read: {error.strerror}", fix="name a video file", code="image-unreadable"
        ) from error


def _picture_stream(container: Any, path: Path) -> Any:
    """Return the stream that is shown; covers of music are none."""
    for stream in container.streams.video:
        if not _is_cover(stream) and stream.codec_context is not None:
            return stream
    raise ImageError(
        f"{shown_path(path)} holds no video" + (", but sound alone" if container.streams.audio else ""),
        fix="name a file with a video in it",
        code="video-no-stream",
    )


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def no_frames(path: Path, span: Span, duration: Fraction | None) -> ImageError:
    if span.start > 0 or span.stop is not None:
        stop = "its end" if span.stop is None else f"{float(span.stop):g} s"
        long = "" if duration is None else f", which is {float(duration):.2f} s long"
        return ImageError(
            f"{shown_path(path)}: no frame is between {float(span.start):g} s and {stop} of the video{long}",
            fix="choose another start or stop",
            code="video-no-frames",
        )
    return ImageError(
        f"{shown_path(path)}: the video has no frame that can be decoded",
        fix="copy or download it again",
        code="video-no-frames",
    )


def origin_of(container: Any) -> Fraction:
    """The time that counts as the start: where sound or pictures begin, whichever is first."""
    shown = [stream for stream in container.streams.video if not _is_cover(stream)]
    streams = (*shown, *container.streams.audio)
    starts = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
    return min(starts, default=Fraction(0))


def _duration(container: Any, stream: Any) -> Fraction | None:
    if stream.duration:
        start = (stream.start_time or 0) * stream.time_base
        return Fraction(stream.duration * stream.time_base + start - origin_of(container))
    return None if not container.duration else Fraction(container.duration, 1_000_000)


def _upright_rgb(picture: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a decoded picture, on white where it is transparent, turned as players turn it."""
    usual = ITU709 if picture.height >= HD_FROM else ITU601
    matrix = usual if picture.colorspace == UNSPECIFIED else None
    has_alpha = any(component.is_alpha for component in picture.format.components)
    pixels = picture.to_ndarray(format="rgba" if has_alpha else "rgb24", src_colorspace=matrix)
    if has_alpha:
        alpha_HW1 = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha_HW1 + 255 * (255 - alpha_HW1) + 127) // 255).astype(np.uint8)
    return turned(pixels, _display_matrix(picture))


def _display_matrix(picture: Any) -> tuple[int, ...] | None:
    """The 3 x 3 matrix by which a picture is turned when it is shown, in FFmpeg's fixed point."""
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(bytes(data), np.int32).tolist())
    return None


def turned(pixels_HW3: NDArray[np.uint8], matrix: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """Turn and mirror a picture by the quarter turns in its display matrix.

    A pixel in column p and row q is shown in column a p + c q and row b p + d q, up to a shift.
    """
    if matrix is None:
        return pixels_HW3
    a, b, _, c, d = matrix[:5]
    columns, rows = a, d
    if abs(b) > abs(a):
        pixels_HW3, columns, rows = pixels_HW3.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels_HW3[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1])
