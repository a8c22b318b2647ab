"""Photos for which there is not enough memory: tried again alone and in windows, and the others are done."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.engines.onnx_file import unopened
from terrazzo.errors import ImageError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference import pipeline
from terrazzo.inference.predict_folder import predict_folder
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation
from terrazzo.inference.threads import threads_of
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import save_folder

LABELS = LabelSpec(names=("dark", "bright"), palette=((0, 0, 0), (255, 255, 255)))


class Keeping:
    """An engine that keeps what every run took, and has room for `most` pixels."""

    def __init__(self, most: int) -> None:
        self.most, self.kept, self.widths = most, 0, list[int]()
        self._lock = Lock()

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock:
            self.widths.append(images_B3HW.shape[3])
            self.kept += images_B3HW[0, 0].size
            if self.kept > self.most:
                raise RuntimeError("[CPU] Reorder node with name 'images' can't alloc")
        mean_BHW = images_B3HW.mean(1)
        return np.stack([-mean_BHW, mean_BHW], 1)

    def release_memory(self) -> None:
        self.kept = 0


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos, the middle one wide; dark on the left and bright on the right."""
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    for name, width in (("1.png", 20), ("2.png", 1200), ("3.png", 20)):
        image = np.full((4, width, 3), 20, np.uint8)
        image[:, width // 2 :] = 220
        Image.fromarray(image).save(Path("set") / name)
    return Path("set")


def _predictor(engine: Callable[..., Any], streams: int = 1) -> Predictor:
    return Predictor(engine, Preprocess(), LABELS, "a model", streams=streams)


def _all_right() -> bool:
    for name, width in (("1", 20), ("2", 1200), ("3", 20)):
        with Image.open(f"out/{name}_mask.png") as mask:
            if not (np.asarray(mask) == (np.arange(width) >= width // 2)).all():
                return False
    return True


@pytest.mark.parametrize("streams", [1, 3])
def test_what_an_engine_keeps_is_let_go_and_the_image_done_whole(photos: Path, streams: int) -> None:
    engine = Keeping(most=4 * 1200)
    summary = predict_folder(photos, "out", _predictor(engine, streams), save="mask")
    assert not summary.failures and _all_right() and set(engine.widths) == {20, 1200}


def test_windows_begin_with_what_was_kept_let_go(photos: Path) -> None:
    engine = Keeping(most=4 * 1190)  # not the whole, nor a window beside the whole that failed
    with pytest.warns(TerrazzoWarning, match=r"2\.png: .* windows of \d+ x \d+"):
        summary = predict_folder(photos, "out", _predictor(_PerRun(engine)), save="mask")
    assert not summary.failures and _all_right()


class _PerRun:
    """An engine whose runs keep nothing, unless they fail."""

    def __init__(self, engine: Keeping) -> None:
        self.engine, self.release_memory = engine, engine.release_memory

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        before = self.engine.kept
        logits = self.engine(images_B3HW)
        self.engine.kept = before
        return logits


@pytest.mark.parametrize("error", [MemoryError(), ImportError("cv2.abi3.so: failed to map segment from shared object")])
def test_reading_that_runs_out_of_memory_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read, failed = ReadOptions.read, set()

    def first_fails(self: ReadOptions, path: Path) -> NDArray[np.uint8]:
        if path.name == "2.png" and path not in failed:
            failed.add(path)
            raise error
        return read(self, path)

    monkeypatch.setattr(ReadOptions, "read", first_fails)
    assert not predict_folder(photos, "out", _predictor(Keeping(10**6)), save="mask").failures
    assert failed and _all_right()


def test_upsampling_that_runs_out_of_memory_is_tried_again_in_windows(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, calls = pipeline.decide, []

    def whole_fails(blocks: Any, *arguments: Any) -> Any:
        blocks = list(blocks)
        calls.append(blocks[0].scores.logits_KHW.shape[2])
        if len(calls) in (2, 3):  # the second photo's, by itself too
            raise RuntimeError("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes")
        return decide(blocks, *arguments)

    monkeypatch.setattr(pipeline, "decide", whole_fails)
    with pytest.warns(TerrazzoWarning, match="windows of 1024 x 1024"):
        assert not predict_folder(photos, "out", _predictor(Keeping(10**6)), save="mask").failures
    assert _all_right()


@pytest.mark.parametrize("streams", [1, 2])
def test_writing_that_runs_out_of_memory_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    write, failed = Segmentation.write, set()

    def first_fails(self: Segmentation, *arguments: Any, **options: Any) -> Any:
        if self.path not in failed:
            failed.add(self.path)
            raise MemoryError
        return write(self, *arguments, **options)

    monkeypatch.setattr(Segmentation, "write", first_fails)
    assert not predict_folder(photos, "out", _predictor(Keeping(10**6), streams), save="mask").failures
    assert len(failed) == 3 and _all_right()


def test_a_image_in_python_is_done_in_windows_too_and_refused_where_these_do_not_fit(photos: Path) -> None:
    with pytest.warns(TerrazzoWarning, match="windows of"):
        mask = terrazzo.predict("set/2.png", _predictor(_PerRun(Keeping(most=4 * 1190)))).mask
    np.testing.assert_array_equal(mask[0], np.arange(1200) >= 600)
    with pytest.raises(ImageError, match="the image: there is not enough memory") as caught:
        terrazzo.predict(np.zeros((4, 1200, 3), np.uint8), _predictor(Keeping(most=9)))
    assert caught.value.code == "image-memory"


@pytest.mark.parametrize(
    "message",
    [
        "[CPU] Transpose node with name 'Transpose_76' can't alloc",
        "cv2.abi3.so: failed to map segment from shared object",
        "can't start new thread",
        "Resource temporarily unavailable",
    ],
)
def test_other_words_for_too_little_memory_are_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert unopened(Path("m.onnx"), RuntimeError(message), message).code == "engine-memory"
    assert unopened(Path("m.onnx"), RuntimeError("ends early"), "ends early").code == "export-damaged"


def test_an_empty_result_of_openvino_is_too_little_memory() -> None:
    pytest.importorskip("openvino")
    from terrazzo.engines.openvino import _Compiled

    class Request:
        def infer(self, images: Any) -> None: ...

        def get_output_tensor(self, number: int) -> Any:
            return SimpleNamespace(data=np.empty((0, 11, 0, 0), np.float32))

    with pytest.raises(MemoryError):
        _Compiled(SimpleNamespace(create_infer_request=Request)).run(None)


def test_threads_are_there_before_the_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with threads_of(3) as pool:
        monkeypatch.setattr(Thread, "start", lambda self: pytest.fail("a thread was started late"))
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))


def test_a_thread_that_cannot_start_hangs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    start, started = Thread.start, []

    def refused(self: Thread) -> None:
        if self.name.startswith("ThreadPoolExecutor"):
            started.append(self)
            if len(started) > 1:
                raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(Thread, "start", refused)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "set", "--engine", "torch"])
    assert "error[memory]: there is not enough memory" in capsys.readouterr().err


# -- real limits ------------------------------------------------------------------------------------------------------


def _predict(arguments: list[str], limit: int | None = None) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run the command, within so many bytes of address space; return the most that it had, too."""
    code = "import sys; from terrazzo.cli.main import main; main(sys.argv[1:]); print(open('/proc/self/status').read())"

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code, "predict", *arguments, "--save", "mask", "--threads", "1", "--overwrite"],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=limited,
        capture_output=True,
        text=True,
        timeout=900,
    )
    peak = re.search(r"VmPeak:\s+(\d+) kB", done.stdout)
    return done, int(peak[1]) * 1024 if peak else 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
@pytest.mark.parametrize(
    ("engine", "file"),
    [
        ("torch", None),
        ("torch", "m.pt2"),
        ("onnxruntime", None),
        ("onnxruntime", "m.onnx"),
        ("openvino", None),
        ("openvino", "m.xml"),
    ],
)
def test_a_image_too_large_for_a_limit_of_memory_is_done_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, file: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = terrazzo.load("segformer_b0.camvid")
    save_folder(Path("native"), replace(trained, preprocess=Preprocess()))  # at the photos' own size
    model = "native"
    if file is not None:
        main(["export", "--model", "native", "--output", file])
        model = file
    Path("set").mkdir()
    with Image.open(Path(terrazzo.__file__).parent / "weights/bundled/segformer_b0.camvid/example.jpg") as example:
        example.resize((480, 360)).save("set/1.png")
        example.resize((1800, 1200)).save("set/2.png")
        example.resize((480, 360)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("set/3.png")
    options = ["--model", model, "--engine", engine]
    _predict(["set/1.png", "--output", "small", *options])  # which keeps a conversion for later starts
    small, least = _predict(["set/1.png", "--output", "small", *options])
    whole, most = _predict(["set", "--output", "whole", *options])
    assert small.returncode == whole.returncode == 0, small.stderr + whole.stderr

    done, _ = _predict(["set", "--output", "out", *options], limit=(least + most) // 2)
    assert done.returncode == 0 and "3 of 3 photos" in done.stdout, done.stdout + done.stderr
    for name, same in (("1", 1.0), ("2", 0.9), ("3", 1.0)):
        mask, expected = (np.asarray(Image.open(f"{folder}/{name}_mask.png")) for folder in ("out", "whole"))
        assert (mask == expected).mean() >= same
