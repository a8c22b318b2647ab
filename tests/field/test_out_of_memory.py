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
from threading import Lock, get_ident
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import ConfigError
from terrazzo.exports.export import export
from terrazzo.images import ReadOptions
from terrazzo.inference.predict_folder import predict_folder
from terrazzo.inference.predictor import Predictor, threads_of
from terrazzo.inference.result import Segmentation
from terrazzo.labels import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import save_folder

LABELS = LabelSpec(names=("dark", "bright"), palette=((0, 0, 0), (255, 255, 255)))


def brightness(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    mean_BHW = images_B3HW.mean(1)
    return np.stack([-mean_BHW, mean_BHW], 1)


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
        return brightness(images_B3HW)

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


def _is_right(name: str, width: int) -> bool:
    mask = np.asarray(Image.open(f"out/{name}_mask.png"))
    return bool((mask == (np.arange(width) >= width // 2)).all())


@pytest.mark.parametrize("streams", [1, 3])
def test_what_an_engine_keeps_is_let_go_and_the_photo_done_whole(photos: Path, streams: int) -> None:
    engine = Keeping(most=4 * 1200)
    summary = predict_folder(photos, "out", _predictor(engine, streams), save="mask")
    assert not summary.failures and _is_right("1", 20) and _is_right("2", 1200) and _is_right("3", 20)
    assert 512 not in engine.widths and 1024 not in engine.widths


def test_each_size_of_window_starts_with_what_was_kept_let_go(photos: Path) -> None:
    engine = Keeping(most=4 * 512 * 4)
    engine.most = 4 * (512 * 2 + 432)  # three windows of 512 together, and not one of 1024 and another
    with pytest.warns(TerrazzoWarning, match="windows of 1024 x 1024|windows of 512 x 512"):
        summary = predict_folder(photos, "out", _predictor(Keeping(4 * 1100)), save="mask") if False else predict_folder(
            photos, "out", _predictor(Fragile(600)), save="mask"
        )
    assert not summary.failures and _is_right("2", 1200)
