"""Writers of what a video's frames become: H.264 video with its sound, lossless masks, PNGs in a folder, a table.

Each is a context manager that yields a function for the next frame, and puts a complete file in place when it ends.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import replacing, replacing_folder, replacing_together
from terrazzo.data.sources.video import ITU709, Frame, Span, Video
from terrazzo.imaging.pyav import import_av
from terrazzo.inference.areas import areas_of, count_classes, file_name
from terrazzo.inference.audio import Audio
from terrazzo.inference.result import Segmentation
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import blank_mark, mark_files
from terrazzo.notes import note
from terrazzo.text import shown_path

__all__ = ["Write", "folder_of_masks", "h264_video", "mask_video", "tables"]

Write: TypeAlias = Callable[[Frame, Segmentation], None]
Picture: TypeAlias = NDArray[np.uint8]

QUALITY = {"preset": "veryfast", "crf": "20"}
LIMITED_RANGE, FULL_RANGE = 1, 2  # FFmpeg's numbers


@contextmanager
def h264_video(path: Path, video: Video, span: Span, draw: Callable[[Segmentation], Picture]) -> Iterator[Write]:
    """Write pictures as H.264 in mp4, which every player shows, with the video's times and sound.

    H.264 as players take it has even sides: an odd one gets a line more, a copy of its last.
    """
    av = import_av()

    def encoder(container: Any, picture: Picture) -> Any:
        stream = container.add_stream("libx264", rate=video.rate / span.every, options=QUALITY)
        context = stream.codec_context
        context.height, context.width = picture.shape[:2]
        context.pix_fmt, context.sample_aspect_ratio = "yuv420p", video.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = ITU709
        context.color_range = LIMITED_RANGE
        return stream

    def encoded(result: Segmentation) -> Any:
        picture = draw(result)
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        return frame.reformat(
            format="yuv420p", dst_colorspace=ITU709, src_color_range=FULL_RANGE, dst_color_range=LIMITED_RANGE
        )

    def even(result: Segmentation) -> Picture:
        height, width = result.mask.shape
        return np.empty((height + height % 2, width + width % 2, 3), np.uint8)

    with _video(path, video, span, encoder, encoded, even, {"movflags": "faststart"}) as write:
        yield write


@contextmanager
def mask_video(path: Path, video: Video, span: Span) -> Iterator[Write]:
    """Write class indices as FFV1 in Matroska: grey of 8 or 16 bits, without loss."""
    av = import_av()

    def encoder(container: Any, picture: Picture) -> Any:
        stream = container.add_stream("ffv1", rate=video.rate / span.every, options={"level": "3", "slices": "4"})
        stream.codec_context.height, stream.codec_context.width = picture.shape[:2]
        stream.codec_context.pix_fmt = "gray" if picture.dtype == np.uint8 else "gray16le"
        stream.codec_context.color_range = FULL_RANGE
        return stream

    def encoded(result: Segmentation) -> Any:
        frame = av.VideoFrame.from_ndarray(result.mask, format="gray" if result.mask.dtype == np.uint8 else "gray16le")
        frame.color_range = FULL_RANGE
        return frame

    with _video(path, video, span, encoder, encoded, lambda result: result.mask, {"write_crc32": "0"}) as write:
        yield write


@contextmanager
def _video(
    path: Path,
    video: Video,
    span: Span,
    encoder: Callable[[Any, Any], Any],
    encoded: Callable[[Segmentation], Any],
    shaped: Callable[[Segmentation], Any],
    options: dict[str, str],
) -> Iterator[Write]:
    """Write a video whose first frame settles the size."""
    av = import_av()
    with replacing(path) as partial:
        with ExitStack() as opened, av.open(str(partial), "w", options=options) as container:
            container.metadata["comment"] = blank_mark("predict")
            stream: Any = None
            audio: Audio | None = None
            durations: dict[int, int] = {}

            def mux(packets: list[Any]) -> None:
                for packet in packets:
                    packet.duration = durations.pop(packet.pts, packet.duration)
                    container.mux(packet)

            def write(frame: Frame, result: Segmentation) -> None:
                nonlocal stream, audio
                if stream is None:
                    stream = encoder(container, shaped(result))
                    stream.codec_context.time_base = video.time_base
                    if video.has_audio and path.suffix.lower() == ".mp4":
                        audio = opened.enter_context(closing(Audio(video.path, container, span)))
                picture = encoded(result)
                size = stream.codec_context.height, stream.codec_context.width
                if (picture.height, picture.width) != size:
                    note(f"{shown_path(video.path)} changes its size; {path.name} keeps that of the first frame")
                    picture = picture.reformat(width=size[1], height=size[0], interpolation=_resizing(picture))
                picture.pts = round((frame.time - span.start) / video.time_base)
                picture.time_base = video.time_base
                durations[picture.pts] = round(frame.duration / video.time_base)
                mux(stream.encode(picture))
                if audio is not None:
                    audio.copy_until(frame.time)

            yield write
            if stream is not None:
                mux(stream.encode())
            if audio is not None:
                audio.copy_until(span.stop)
        mark_files([partial], "predict")


def _resizing(picture: Any) -> str:
    return "POINT" if picture.format.name.startswith("gray") else "BILINEAR"


@contextmanager
def folder_of_masks(path: Path, keep_others: bool) -> Iterator[Write]:
    """Write each frame's mask as a PNG of class indices, ``000042.png`` for frame 42."""
    with replacing_folder(path, keep_others=keep_others) as folder:

        def write(frame: Frame, result: Segmentation) -> None:
            path = folder / f"{frame.number:06}.png"
            path.write_bytes(result.encode("mask"))
            mark_files([path], "predict")

        yield write


@contextmanager
def tables(
    csv_path: Path | None, json_path: Path, video: Video, labels: LabelSpec, model: str | None, settings: dict[str, Any]
) -> Iterator[Write]:
    """Write the share of every class in every frame as CSV, and in all of them as JSON."""
    paths = [json_path] if csv_path is None else [csv_path, json_path]
    with replacing_together(paths) as partials:
        rows = open(partials[0], "w", newline="", encoding="utf-8") if csv_path is not None else None  # noqa: SIM115
        try:
            writer = csv.writer(rows) if rows is not None else None
            if writer is not None:
                writer.writerow(["frame", "time", *labels.names])
            counts = np.zeros(labels.num_classes, np.int64)
            size, frames, first, last = 0, 0, Fraction(0), Fraction(0)

            def write(frame: Frame, result: Segmentation) -> None:
                nonlocal counts, size, frames, first, last
                its_counts = count_classes(result.mask, labels)
                counts, size = counts + its_counts, size + result.mask.size
                first, last = first if frames else frame.time, frame.time
                frames += 1
                if writer is not None:
                    shares = (f"{share:.6f}".rstrip("0").rstrip(".") for share in its_counts / result.mask.size)
                    writer.writerow([frame.number, f"{float(frame.time):.6f}", *shares])

            yield write
        finally:
            if rows is not None:
                rows.close()
        areas = areas_of(counts, labels, size)
        summary = {
            "file": file_name(video.path),
            "model": model,
            "frames": frames,
            "first_time": round(float(first), 6),
            "last_time": round(float(last), 6),
            **settings,
            "classes": [
                {
                    "index": area.index,
                    "name": area.name,
                    "color": "#{:02x}{:02x}{:02x}".format(*labels.palette[area.index]),
                    "share": round(area.share, 6),
                }
                for area in areas
            ],
        }
        partials[-1].write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        mark_files(partials, "predict")
