"""An exported file is served where torch cannot be imported, with the masks of `terrazzo.predict`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import PATIENCE, decoded, is_up, post, until

import terrazzo
from terrazzo.exports.export import export
from terrazzo.weights.catalog import DEFAULT_MODEL, example_image

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from terrazzo.cli.main import main; main()"


def test_an_exported_file_is_served_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file = tmp_path / "mine.onnx"
    export(DEFAULT_MODEL, file)
    photo = example_image(DEFAULT_MODEL)
    assert photo is not None
    options = ["--port", "0", "--model", str(file), "--threads", "1", "--timeout", str(PATIENCE)]
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        until(lambda: is_up(url))
        answer = post(
            url + "/v1/segment",
            content=photo.read_bytes(),
            headers={"Content-Type": "image/jpeg"},
        )
        process.terminate()
    assert answer.headers["x-terrazzo-model"] == "mine;version=1"
    assert (decoded(answer.content) == terrazzo.predict(photo, file).mask).all()
