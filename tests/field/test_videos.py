"""Videos as cameras, phones and editors make them, and as they break: what `terrazzo predict` writes of each."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.data.sources.video import Frame, Span, VideoFile
from terrazzo.errors import ConfigError, ImageError, MissingExtraError, OutputError
from terrazzo.imaging import pyav
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

av = pytest.importorskip("av")

LABELS = LabelSpec.from_names(["red", "green", "blue"])
UNIT = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def brightest(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """A network that takes the strongest of red, green and blue for the class."""
    return images_B3HW.copy()


PREDICTOR = Predictor(brightest, UNIT, LABELS, "brightest")


def flat(color: str, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    return np.full((height, width, 3), COLORS[color], np.uint8)


def halves(top: str, bottom: str, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    return np.concatenate([flat(top, height // 2, width), flat(bottom, height - height // 2, width)])


def make(
    path: Path,
    frames: list[NDArray[np.uint8]],
    *,
    rate: int = 10,
    times: list[int] | None = None,
    codec: str = "libx264",
    sound: str | None = None,
    keys: int = 5,
) -> Path:
    """Write a video; `times` are those of its frames, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if codec == "libx264" and (stream.height % 2 or stream.width % 2) else "yuv420p"
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "g": str(keys)}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio: Any = (
            None if sound is None else container.add_stream(sound, rate=8000 if sound == "pcm_s16le" else 48000)
        )
        if audio is not None:
            audio.codec_context.layout = "mono"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (
                (number, Fraction(1, rate)) if times is None else (times[number], Fraction(1, 1000))
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            hertz = audio.codec_context.sample_rate
            wave = (np.sin(np.arange(hertz * len(frames) // rate) / 10) * 8000).astype(np.int16)
            for first in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="s16", layout="mono")
                part.sample_rate, part.pts, part.time_base = hertz, first, Fraction(1, hertz)
                container.mux(audio.encode(part))
            container.mux(audio.encode())
    return path


def shown(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    """The times and pictures of a video."""
    with av.open(str(path)) as container:
        return [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def run(video: Path, output: Path | None = None, **options: Any) -> Any:
    return terrazzo.predict_video(video, output or video.parent / "out", PREDICTOR, **options)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of red above green, then one of blue, with sound."""
    frames = [halves("red", "green")] * 10 + [flat("blue")] * 10
    return make(tmp_path_factory.mktemp("drive") / "drive.mp4", frames, sound="aac")


# What is written


def test_the_overlay_is_h264_that_players_take_with_the_videos_times_and_sound(drive: Path, tmp_path: Path) -> None:
    summary = run(drive, tmp_path)
    assert (summary.frames, [area.name for area in summary.areas]) == (20, ["blue", "red", "green"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive.csv", "drive.json", "drive_overlay.mp4"]
    with av.open(str(tmp_path / "drive_overlay.mp4")) as container, av.open(str(drive)) as source:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.format.name) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.frames) == (10, 20)
        assert stream.duration * stream.time_base == 2
        packets = [[bytes(packet) for packet in file.demux(audio=0)] for file in (container, source)]
        assert packets[0] == packets[1]
    frames = shown(tmp_path / "drive_overlay.mp4")
    assert [round(at, 3) for at, _ in frames] == [round(number / 10, 3) for number in range(20)]
    expected = (0.55 * np.array(LABELS.palette[2]) + 0.45 * np.array(COLORS["blue"])).round()
    assert np.abs(frames[15][1][16, 24] - expected).max() <= 6  # as much as H.264 loses


def test_masks_are_written_for_each_frame_and_without_loss_as_a_video(drive: Path, tmp_path: Path) -> None:
    run(drive, tmp_path, save="mask,mask-video", every=5)
    assert sorted(path.name for path in (tmp_path / "drive_mask").iterdir()) == [
        "000000.png", "000005.png", "000010.png", "000015.png"
    ]  # fmt: skip
    with av.open(str(tmp_path / "drive_mask.mkv")) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"
        masks = [(frame.time, frame.to_ndarray()) for frame in container.decode(video=0)]
    assert [at for at, _ in masks] == [0, 0.5, 1, 1.5]
    for number, (_, mask) in zip((0, 5, 10, 15), masks, strict=True):
        assert np.array_equal(mask, np.asarray(Image.open(tmp_path / f"drive_mask/{number:06}.png")))
    assert masks[0][1][5, 5] == 0 and masks[0][1][25, 5] == 1 and np.all(masks[2][1] == 2)


def test_more_than_255_classes_are_stored_in_16_bits(drive: Path, tmp_path: Path) -> None:
    labels = LabelSpec.from_names([f"class {number}" for number in range(300)])

    def engine(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.zeros((len(images_B3HW), 300, *images_B3HW.shape[2:]), np.float32)
        logits[:, 299] = 1
        return logits

    terrazzo.predict_video(drive, tmp_path, Predictor(engine, UNIT, labels), save="mask-video", every=10)
    with av.open(str(tmp_path / "drive_mask.mkv")) as container:
        assert [np.unique(frame.to_ndarray()).tolist() for frame in container.decode(video=0)] == [[299]] * 2


def test_the_table_has_every_frames_areas(drive: Path, tmp_path: Path) -> None:
    run(drive, tmp_path, save="csv", every=10)
    lines = (tmp_path / "drive.csv").read_text().splitlines()
    assert lines == ["frame,time,red,green,blue", "0,0.000000,0.5,0.5,0", "10,1.000000,0,0,1"]
    summary = json.loads((tmp_path / "drive.json").read_text())
    assert (summary["frames"], summary["first_time"], summary["last_time"], summary["every"]) == (2, 0, 1, 10)
    assert summary["classes"][0]["color"] == "#{:02x}{:02x}{:02x}".format(*LABELS.palette[2])
    assert [(entry["name"], entry["share"]) for entry in summary["classes"]] == [
        ("blue", 0.5), ("red", 0.25), ("green", 0.25)
    ]  # fmt: skip


def test_python_gets_frames_one_after_the_other(drive: Path) -> None:
    frames = terrazzo.predict_video(drive, model=PREDICTOR, start=0.9, every=2)
    first = next(frames)
    assert (frames.about.rate, frames.about.duration, frames.about.has_audio) == (10, 2, True)
    assert (first.number, first.time, first.result["red"].mean()) == (0, 0.9, 0.5)
    rest = list(frames)
    assert [frame.number for frame in rest] == [2, 4, 6, 8, 10]
    assert all(frame.result["blue"].all() for frame in rest)


def test_a_part_is_cut_out_with_its_sound(drive: Path, tmp_path: Path) -> None:
    run(drive, tmp_path, start=0.7, stop=1.2)
    frames = shown(tmp_path / "drive_overlay.mp4")
    assert [round(at, 3) for at, _ in frames] == [0, 0.1, 0.2, 0.3, 0.4]
    assert frames[2][1][25, 5, 1] > frames[2][1][25, 5, 2] and frames[3][1][25, 5, 2] > frames[3][1][25, 5, 1]
    with av.open(str(tmp_path / "drive_overlay.mp4")) as container:
        audio = container.streams.audio[0]
        assert abs(float(audio.duration * audio.time_base) - 0.5) < 0.05


def test_a_part_of_sound_that_mp4_cannot_hold(tmp_path: Path) -> None:
    video = make(tmp_path / "a.mov", [flat("red")] * 30, sound="pcm_s16le")
    run(video, start=1.0, stop=2.0)
    with av.open(str(tmp_path / "out/a_overlay.mp4")) as container:
        audio = container.streams.audio[0]
        assert 0.85 < float(audio.duration * audio.time_base) < 1.15  # up to a packet of 0.13 s is left out


def test_every_second_frame_is_shown_twice_as_long(drive: Path, tmp_path: Path) -> None:
    run(drive, tmp_path, every=4)
    with av.open(str(tmp_path / "drive_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.duration * stream.time_base) == (5, Fraction(5, 2), 2)


@pytest.mark.parametrize("times", [[0, 40, 500, 520, 1700], [300, 340, 800, 900, 1000]])
def test_frames_at_irregular_times_keep_them(tmp_path: Path, times: list[int]) -> None:
    video = make(tmp_path / "phone.mkv", [flat("red")] * 5, times=times)
    run(video)
    frames = shown(tmp_path / "out/phone_overlay.mp4")
    assert [round(1000 * (at - frames[0][0])) for at, _ in frames] == [time - times[0] for time in times]


@pytest.mark.parametrize(
    ("degrees", "matrix", "corner"),
    [
        (90, (0, 1, -1, 0), "right"),
        (180, (-1, 0, 0, -1), "bottom"),
        (270, (0, -1, 1, 0), "left"),
        (0, (-1, 0, 0, 1), "top"),
    ],
)
def test_a_phones_video_is_turned_upright(tmp_path: Path, degrees: int, matrix: tuple[int, ...], corner: str) -> None:
    """`degrees` clockwise from how the pixels are stored to how they are shown."""
    video = make(tmp_path / "phone.mp4", [halves("red", "green")] * 3)
    turn_header(video, matrix)
    (frame, *_) = terrazzo.predict_video(video, model=PREDICTOR)
    assert frame.result.mask.shape == ((48, 32) if degrees % 180 else (32, 48))
    sides = {"top": np.s_[:8], "bottom": np.s_[-8:], "left": np.s_[:, :8], "right": np.s_[:, -8:]}
    assert np.all(frame.result.mask[sides[corner]] == 0)
    run(video, save="overlay")
    _, picture = shown(tmp_path / "out/phone_overlay.mp4")[0]
    assert picture.shape[:2] == frame.result.mask.shape
    with av.open(str(tmp_path / "out/phone_overlay.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def turn_header(video: Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix into the track header of an mp4, as phones do."""
    data = bytearray(video.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    video.write_bytes(data)


@pytest.mark.parametrize("size", [(33, 48), (32, 47), (31, 47), (2, 3)])
def test_odd_sides_get_a_line_more_in_the_overlay_and_none_in_the_masks(tmp_path: Path, size: tuple[int, int]) -> None:
    video = make(tmp_path / "odd.mkv", [halves("red", "green", *size)] * 3)
    run(video, save="overlay,mask,mask-video")
    height, width = size
    assert shown(tmp_path / "out/odd_overlay.mp4")[0][1].shape == (height + height % 2, width + width % 2, 3)
    assert np.asarray(Image.open(tmp_path / "out/odd_mask/000002.png")).shape == size
    assert shown(tmp_path / "out/odd_mask.mkv")[0][1].shape[:2] == size


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.mov", "libx264", "pcm_s16le"),
        ("a.mkv", "libx264", "pcm_s16le"),
        ("a.avi", "mpeg4", "pcm_s16le"),
        ("a.webm", "libvpx", "libopus"),
        ("a.ts", "libx264", "aac"),
        ("a.mpg", "mpeg2video", "mp2"),
    ],
)
def test_other_containers_and_sounds(tmp_path: Path, name: str, codec: str, sound: str) -> None:
    rate = 25 if codec == "mpeg2video" else 10
    video = make(tmp_path / name, [flat("red")] * 12 + [flat("blue")] * 13, rate=rate, codec=codec, sound=sound)
    summary = run(video)
    assert (summary.frames, summary.areas[0].name) == (25, "blue")
    with av.open(str(tmp_path / "out/a_overlay.mp4")) as container:
        video_stream, audio = container.streams.video[0], container.streams.audio[0]
        assert abs(float(video_stream.duration * video_stream.time_base) - 25 / rate) < 0.1
        assert abs(float(audio.duration * audio.time_base) - 25 / rate) < 0.25
        assert audio.codec_context.name == ("opus" if sound == "libopus" else "aac")


@pytest.mark.parametrize("name", ["walk.gif", "walk.webp", "walk.png"])
def test_animated_images_are_videos(tmp_path: Path, name: str) -> None:
    pictures = [Image.fromarray(flat(color)) for color in ("red", "green", "blue")]
    pictures[0].save(
        tmp_path / name, save_all=True, append_images=pictures[1:], duration=[100, 300, 200], lossless=True
    )
    summary = run(tmp_path / name, save="overlay,csv")
    assert {area.name: area.share for area in summary.areas} == pytest.approx(dict.fromkeys(COLORS, 1 / 3))
    assert [round(at, 3) for at, _ in shown(tmp_path / "out/walk_overlay.mp4")] == [0, 0.1, 0.4]
    with av.open(str(tmp_path / "out/walk_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.duration * stream.time_base == Fraction(6, 10)


def test_transparent_parts_of_an_animation_are_white(tmp_path: Path) -> None:
    hidden = Image.fromarray(np.dstack([flat("blue"), np.zeros((32, 48), np.uint8)]))
    hidden.save(tmp_path / "a.webp", save_all=True, append_images=[Image.fromarray(flat("red"))], lossless=True)
    first, second = terrazzo.predict_video(tmp_path / "a.webp", model=PREDICTOR)
    assert first.result.image is not None and np.all(first.result.image == 255)
    assert second.result["red"].all()


def test_smoothing_averages_logits_over_frames(drive: Path) -> None:
    with pytest.warns(terrazzo.TerrazzoWarning, match=r"lag by 3.0 of them \(0.30 s\)"):
        frames = list(terrazzo.predict_video(drive, model=PREDICTOR, smooth=0.75, batch_size=3))
    turned = [frame.number for frame in frames if frame.result["blue"].all()]
    # blue wins over red once 20 m + 200 (1 - m) > 200 m + 20 (1 - m) for m = 0.75^n: at the third frame of blue
    assert turned == list(range(12, 20))


def test_smoothing_needs_one_view_of_each_frame(drive: Path) -> None:
    views = terrazzo.inference.protocols.find_protocol("multi-scale")
    with pytest.raises(ConfigError) as caught:
        terrazzo.predict_video(drive, model=Predictor(brightest, UNIT, LABELS, protocol=views), smooth=0.5)
    assert caught.value.code == "video-smoothing"


# What breaks


def test_a_video_cut_short_before_its_index_is_refused(drive: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(drive.read_bytes()[:2000])
    with pytest.raises(ImageError, match="cut short or damaged") as caught:
        run(cut)
    assert caught.value.code == "video-damaged"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts", "cut.mp4"])
def test_of_a_video_cut_short_the_frames_there_are_written_with_a_note(tmp_path: Path, name: str) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8) for seed in range(30)]
    video = make(tmp_path / name, noise)
    if name == "cut.mp4":  # with its index first, as players like it
        early_index(video)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 6 // 10])
    said = r"is cut short: its last frame ends at 1\.\d+ s of 3\.00 s"
    if name == "cut.ts":  # whose header does not say how long it is
        said = "1 frame is damaged"
    with pytest.warns(terrazzo.TerrazzoWarning, match=said):
        summary = run(video)
    assert 14 <= summary.frames <= 19
    assert len(shown(tmp_path / "out/cut_overlay.mp4")) == summary.frames


def early_index(video: Path) -> None:
    moved = video.with_name("moved.mp4")
    with av.open(str(video)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    moved.replace(video)


def test_damaged_pieces_in_the_middle_are_told(tmp_path: Path) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8) for seed in range(30)]
    video = make(tmp_path / "a.mkv", noise)
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    video.write_bytes(data)
    with pytest.warns(terrazzo.TerrazzoWarning, match="damaged|cut short"):
        summary = run(video)
    assert 10 <= summary.frames < 30


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=48000)
        audio.codec_context.layout = "mono"
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        part.sample_rate = 48000
        container.mux([*audio.encode(part), *audio.encode()])
    with pytest.raises(ImageError, match="holds no video, but sound alone") as caught:
        run(tmp_path / "a.m4a")
    assert caught.value.code == "video-no-stream"


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    full = make(tmp_path / "a.mkv", [flat("red")] * 3)
    data = full.read_bytes()
    full.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # the first cluster
    with pytest.raises(ImageError) as caught:
        run(full)
    assert caught.value.code in ("video-no-frames", "video-damaged")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("part", [{"start": 2.0}, {"start": 100.0}, {"start": 1.91, "stop": 1.95}])
def test_a_part_without_frames_is_refused(drive: Path, tmp_path: Path, part: dict[str, float]) -> None:
    with pytest.raises(ImageError, match=r"which is 2\.00 s long") as caught:
        run(drive, tmp_path / "out", **part)
    assert caught.value.code == "video-no-frames"
    assert not list((tmp_path / "out").glob("*"))


def test_a_size_that_changes_on_the_way(tmp_path: Path) -> None:
    parts = [make(tmp_path / f"{n}.ts", [flat("red", *size)] * 5) for n, size in enumerate([(32, 48), (64, 80)])]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(terrazzo.TerrazzoWarning, match="changes its size"):
        summary = run(both, save="overlay,mask,mask-video")
    assert summary.frames == 10
    assert [picture.shape for _, picture in shown(tmp_path / "out/both_overlay.mp4")] == [(32, 48, 3)] * 10
    masks = [np.asarray(Image.open(tmp_path / f"out/both_mask/{number:06}.png")) for number in (0, 9)]
    assert [mask.shape for mask in masks] == [(32, 48), (64, 80)]
    assert [picture.shape[:2] for _, picture in shown(tmp_path / "out/both_mask.mkv")] == [(32, 48)] * 10


@pytest.mark.parametrize(
    "content", [b"", b"#EXTM3U\nhttp://example.com/a.ts\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"\0" * 5000]
)
def test_only_formats_that_are_known_by_their_bytes_are_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        run(tmp_path / "a.mp4")
    assert caught.value.code == "video-format"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ImageError):
        run(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"start": -1.0}, {"start": 3.0, "stop": 2.0}, {"smooth": 1.0}, {"save": "cutout"},
                {"batch_size": 0}, {"stop": float("nan")}]
)  # fmt: skip
def test_wrong_options_are_refused(drive: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        run(drive, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_pyav_its_extra_is_named(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\[video\]"):
        run(drive, tmp_path)
    from terrazzo.cli.main import main

    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(drive), "--output", str(tmp_path)])
    assert "pip install '.[video]'" in capsys.readouterr().err
    assert pyav.__all__ == ["import_av"]


# What stays


def test_results_are_replaced_and_other_files_are_not(drive: Path, tmp_path: Path) -> None:
    kinds = "overlay,mask,mask-video,csv"
    run(drive, tmp_path, save=kinds)
    again = run(drive, tmp_path, save=kinds, every=10)  # which replaces all of it
    assert len(list((tmp_path / "drive_mask").iterdir())) == again.frames == 2
    for name in ("drive_overlay.mp4", "drive_mask.mkv", "drive.csv", "drive_mask/000000.png", "drive_mask/mine.txt"):
        path = tmp_path / name
        before = path.read_bytes() if path.exists() else None
        theirs = (before or b"")[:-1] + b"!"
        path.write_bytes(theirs)
        with pytest.raises(OutputError) as caught:
            run(drive, tmp_path, save=kinds)
        assert (caught.value.code, path.read_bytes()) == ("output-not-ours", theirs)
        path.unlink() if before is None else path.write_bytes(before)
    (tmp_path / "drive_mask/mine.txt").write_bytes(b"!")
    run(drive, tmp_path, save=kinds, overwrite=True)
    assert (tmp_path / "drive_mask/mine.txt").exists()


def test_the_overlay_can_be_given_its_file(drive: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "B.MP4"):
        for _ in range(2):  # the second time it is known for a result
            assert run(drive, tmp_path / name, every=10).files == {"overlay": tmp_path / name}
        with av.open(str(tmp_path / name)) as container:
            assert len(container.streams.audio) == 1
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ConfigError) as caught:
        run(drive, tmp_path / "a.mp4", save="overlay,color")
    assert caught.value.code == "config-save"


def test_the_video_itself_is_never_replaced(tmp_path: Path) -> None:
    video = make(tmp_path / "a.mp4", [flat("red")] * 2)
    before = video.read_bytes()
    with pytest.raises(OutputError) as caught:
        run(video, video, save="overlay", overwrite=True)
    assert (caught.value.code, video.read_bytes()) == ("output-is-input", before)


def test_results_among_videos_are_left_out(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from terrazzo.data.sources.find_videos import find_videos

    (tmp_path / "drive.mp4").write_bytes(drive.read_bytes())
    (tmp_path / "photo.txt").write_bytes(b"")
    run(tmp_path / "drive.mp4", tmp_path)
    for argument in (tmp_path, tmp_path / "*.mp4"):
        with pytest.warns(terrazzo.TerrazzoWarning, match="left out 1 result of earlier runs"):
            assert find_videos([str(argument)]) == ([tmp_path / "drive.mp4"], [])


@pytest.mark.parametrize("number", [1, 7, 20])
def test_a_failure_of_the_network_leaves_nothing(drive: Path, tmp_path: Path, number: int) -> None:
    calls = []

    def failing(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(0)
        if len(calls) == number:
            raise RuntimeError("no")
        return images_B3HW.copy()

    with pytest.raises(ImageError, match=rf"drive.mp4, the frame at {(number - 1) / 10:.3f} s"):
        terrazzo.predict_video(drive, tmp_path, Predictor(failing, UNIT, LABELS), save="overlay,mask,mask-video,csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing(drive: Path, tmp_path: Path, number: int) -> None:
    (out := tmp_path / "out").mkdir()
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
import numpy as np
from pathlib import Path
import terrazzo
from terrazzo.cli.stopping import stopped_cleanly
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
calls = []
def held(images):
    calls.append(0)
    while len(calls) > 12 and not Path({str(tmp_path / "enough")!r}).exists():
        time.sleep(0.01)
    return images.copy()
predictor = Predictor(held, Preprocess(), LabelSpec.from_names(["a", "b", "c"]))
with stopped_cleanly():
    terrazzo.predict_video({str(drive)!r}, {str(out)!r}, predictor, save="overlay,mask,mask-video,csv",
                           progress=lambda done, total: print(done, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    assert list(out.iterdir())  # hidden
    process.send_signal(number)  # and only then may it come to the end
    (tmp_path / "enough").touch()
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert not list(out.iterdir())


def test_memory_does_not_grow_with_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few frames are decoded ahead of the network, and the network runs few ahead of the writers."""
    decoded, computed, drawn = [0], [0], [0]
    video = make(tmp_path / "a.mp4", [flat("red")] * 60)
    frames = VideoFile.frames

    def counted(self: VideoFile, span: Span) -> Iterator[Frame]:
        for frame in frames(self, span):
            decoded[0] += 1
            yield frame

    def engine(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.002)
        computed[0] += 1
        most.append(decoded[0] - computed[0])
        return images_B3HW.copy()

    def painted(self: Segmentation, style: Any) -> NDArray[np.uint8]:
        time.sleep(0.005)
        drawn[0] += 1
        most.append(computed[0] - drawn[0])
        return self.color()

    most: list[int] = []
    monkeypatch.setattr(VideoFile, "frames", counted)
    monkeypatch.setattr(Segmentation, "painted", painted)
    terrazzo.predict_video(video, tmp_path / "out", Predictor(engine, UNIT, LABELS), save="overlay")
    assert drawn == [60]
    assert max(most) <= 8


# The command


def test_the_command_takes_videos_and_photos_together(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from terrazzo.cli import predict
    from terrazzo.cli.main import main

    monkeypatch.setattr("terrazzo.inference.predict.make_predictor", lambda *_, **__: PREDICTOR)
    (tmp_path / "drive.mp4").write_bytes(drive.read_bytes())
    Image.fromarray(flat("green")).save(tmp_path / "drive.png")
    monkeypatch.chdir(tmp_path)
    main(["predict", "drive.mp4", "drive.png", "--every", "10", "--output", "out"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "drive.json", "drive_color.png", "drive_mask.png", "drive_mp4.csv", "drive_mp4.json", "drive_mp4_overlay.mp4",
        "drive_overlay.png",
    ]  # fmt: skip
    assert "50.0%  blue" in capsys.readouterr().out
    assert predict.__all__ == ["predict"]


def test_a_bad_video_among_good_ones_is_skipped(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from terrazzo.cli.main import main

    monkeypatch.setattr("terrazzo.inference.predict.make_predictor", lambda *_, **__: PREDICTOR)
    (tmp_path / "bad.mp4").write_bytes(drive.read_bytes()[:1000])
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(tmp_path / "bad.mp4"), str(drive), "--output", str(tmp_path / "out")])
    assert "skipped: " in capsys.readouterr().err
    assert (tmp_path / "out/drive_overlay.mp4").exists()


def test_predict_points_to_predict_video(drive: Path) -> None:
    with pytest.raises(ImageError, match=r"this is a video .*terrazzo\.predict_video"):
        terrazzo.predict(drive, PREDICTOR)


def test_timing_is_for_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from terrazzo.cli.main import main

    Image.fromarray(flat("green")).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(tmp_path / "a.png"), "--every", "2"])
    assert "--every, --start, --stop and --smooth are for videos" in capsys.readouterr().err
