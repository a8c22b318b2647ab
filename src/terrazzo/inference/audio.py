"""The sound of a video, brought into the video that is written: as it is, or as AAC where mp4 cannot hold it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

from terrazzo.data.sources.video import Span, opened_video, origin_of
from terrazzo.errors import ImageError
from terrazzo.imaging.pyav import import_av
from terrazzo.notes import note
from terrazzo.text import said_by, shown_path

__all__ = ["Audio"]

COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")  # what players take in mp4

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
USUAL_LAYOUTS = {1: "mono", 2: "stereo"}  # files often say the number of channels alone


class Audio:
    """The first sound track of a file, copied along as far as the pictures have come.

    The file is read a second time: whatever stands between sound and pictures in it, little is held in memory.

    Args:
        path: the video.
        output: the container that is written, before its first packet.
        span: which part is wanted.
    """

    def __init__(self, path: Path, output: Any, span: Span) -> None:
        self._path, self._output, self._span = path, output, span
        self._opened = ExitStack()
        self._container = self._opened.enter_context(opened_video(path))
        self._source = self._container.streams.audio[0]
        self._packets: Iterator[tuple[Fraction, Any]] | None = None
        self._next: tuple[Fraction, Any] | None = None
        codec = self._source.codec_context.name if self._source.codec_context is not None else ""
        self._is_copied = codec in COPIED
        try:
            if self._is_copied:
                self._stream = output.add_stream_from_template(self._source)
            else:
                rate, layout = self._source.codec_context.sample_rate, self._source.codec_context.layout
                self._stream = output.add_stream("aac", rate=rate if rate in AAC_RATES else 48000)
                self._stream.codec_context.layout = USUAL_LAYOUTS.get(layout.nb_channels, layout.name)
            self._packets = self._timed()
        except Exception as error:
            self._drop(error)

    def copy_until(self, time: Fraction | None) -> None:
        """Write what sounds before a time of the source, or to the end."""
        while self._packets is not None:
            try:
                self._next = self._next or next(self._packets, None)
            except Exception as error:
                self._drop(error)
                return
            if self._next is None:
                self._packets = None
                return
            if time is not None and self._next[0] >= time:
                return
            self._output.mux(self._next[1])
            self._next = None

    def close(self) -> None:
        self._opened.close()

    def _drop(self, error: Exception) -> None:
        reason = error.message if isinstance(error, ImageError) else said_by(error)
        note(f"{shown_path(self._path)}: its sound ends early: {reason}")
        self._packets = None

    def _timed(self) -> Iterator[tuple[Fraction, Any]]:
        """Yield packets for the output with the time at which they sound in the source."""
        return self._copied() if self._is_copied else self._converted()

    def _copied(self) -> Iterator[tuple[Fraction, Any]]:
        origin, start = origin_of(self._container), self._span.start
        if start > 0:
            self._container.seek(int((origin + start) * 1_000_000))
        for packet in self._container.demux(self._source):
            if packet.dts is None or packet.pts is None:
                continue
            time = packet.pts * packet.time_base - origin
            if start > 0 and time < start:
                continue
            shift = round((origin + start) / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._stream
            yield time, packet

    def _converted(self) -> Iterator[tuple[Fraction, Any]]:
        av = import_av()
        origin, start, rate = origin_of(self._container), self._span.start, self._stream.codec_context.sample_rate
        context = self._stream.codec_context
        resampler = av.AudioResampler(format="fltp", layout=context.layout, rate=rate, frame_size=1024)
        if start > 0:
            self._container.seek(int((origin + start) * 1_000_000))

        def made(part: Any) -> Iterator[tuple[Fraction, Any]]:
            for packet in self._stream.encode(part):
                yield start + (packet.pts or 0) * (packet.time_base or Fraction(1, rate)), packet

        for packet in self._container.demux(self._source):
            for sound in [*packet.decode(), *([None] if packet.dts is None else [])]:
                if sound is not None:
                    time = (sound.pts or 0) * sound.time_base - origin
                    if time < start:
                        continue
                    sound.pts, sound.time_base = round((time - start) * rate), Fraction(1, rate)
                for part in resampler.resample(sound):
                    yield from made(part)
        yield from made(None)
