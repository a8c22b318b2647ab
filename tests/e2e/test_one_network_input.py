"""One image is one network input in predict, evaluate, explain, export, training's validation and Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.engines.onnx_file import describe_onnx
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.torch import TorchEngine
from terrazzo.exports.int8 import read_input
from terrazzo.models.segmenter import Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import save_folder
from tiny_models import tiny_model

Captured = list[NDArray[np.float32]]

PREPROCESSES = {
    "own": Preprocess(short_side=96, long_side=120, multiple_of=8),
    "transformers'": Preprocess(size=(72, 88), interpolation="bilinear", antialias=True, mean=(1.0, 2.0, 3.0)),
}
"""Of a run and of a folder of transformers; neither keeps the image's size."""


@contextmanager
def captured(kind: type, method: str) -> Iterator[Captured]:
    """Collect what a class's method is called with: the network's input."""
    seen: Captured = []
    usual = getattr(kind, method)

    def recording(self: Any, images: Any, *rest: Any, **named: Any) -> Any:
        seen.append(images.numpy().copy() if isinstance(images, torch.Tensor) else images.copy())
        return usual(self, images, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, recording)
        yield seen


@pytest.fixture(scope="module", params=PREPROCESSES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one image and its mask, and a model in three forms: run/, hf/ and run.onnx."""
    root = tmp_path_factory.mktemp("one_input")
    model = replace(tiny_model("segformer_b0"), preprocess=PREPROCESSES[request.param])
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for part, image in (
            ("images", rng.integers(0, 256, (150, 201, 3), dtype=np.uint8)),
            ("masks", rng.integers(0, 11, (150, 201), dtype=np.uint8)),
        ):
            (root / "data" / split / part).mkdir(parents=True)
            Image.fromarray(image).save(root / "data" / split / part / "1.png")
    (root / "data/labels.yaml").write_text(f"names: {list(model.labels.names)}\n")
    save_folder(root / "run", model)
    with warnings.catch_warnings():  # transformers' own processor has no words for all of it; config.json has
        warnings.simplefilter("ignore", terrazzo.TerrazzoWarning)
        terrazzo.convert(root / "run", root / "hf", "hf")
    terrazzo.export(root / "run", root / "run.onnx")
    return root


def command(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def trained(root: Path, image: Path) -> None:
    """Start a run from the model: it says the mIoU before the first step."""
    settings = {"steps": 1, "batch_size": 1, "crop": (32, 32), "precision": "fp32"}
    spec = replace(terrazzo.load(root / "run").network.spec, name=None)
    terrazzo.train(root / "data", root / "new_run", spec, weights=str(root / "run"), overrides=settings, workers=0)


DOORS: dict[str, tuple[type, str, Callable[[Path, Path], object]]] = {
    "predict": (
        TorchEngine,
        "__call__",
        lambda root, image: command("predict", image, "--model", root / "run", "--engine", "torch", "-o", root / "p"),
    ),
    "predict in Python": (
        TorchEngine,
        "__call__",
        lambda root, image: terrazzo.predict(np.asarray(Image.open(image)), terrazzo.load(root / "run")),
    ),
    "predict with a folder of transformers": (
        TorchEngine,
        "__call__",
        lambda root, image: terrazzo.predict(image, root / "hf", engine="torch"),
    ),
    "predict with an exported file": (
        OnnxRuntimeEngine,
        "__call__",
        lambda root, image: terrazzo.predict(image, root / "run.onnx"),
    ),
    "evaluate": (
        TorchEngine,
        "__call__",
        lambda root, image: command("evaluate", "--data", root / "data", "--model", root / "run", "--engine", "torch"),
    ),
    "evaluate an exported file": (
        OnnxRuntimeEngine,
        "__call__",
        lambda root, image: terrazzo.evaluate(root / "run.onnx", root / "data"),
    ),
    "explain": (
        Segmenter,
        "forward",
        lambda root, image: command(
            "explain", image, "--model", root / "run", "--show", "attention", "--layers", "4.1", "-o", root / "e"
        ),
    ),
    "the accuracy gate, model": (
        TorchEngine,
        "__call__",
        lambda root, image: terrazzo.export(
            root / "run", root / "gate.onnx", precision="fp16", data=root / "data", max_loss=100, overwrite=True
        ),
    ),
    "the accuracy gate, file": (
        OnnxRuntimeEngine,
        "__call__",
        lambda root, image: terrazzo.export(
            root / "run", root / "gate.onnx", precision="fp16", data=root / "data", max_loss=100, overwrite=True
        ),
    ),
    "training's validation": (TorchEngine, "__call__", trained),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_shows_the_network_the_same_input(folder: Path, door: str) -> None:
    image = folder / "data/val/images/1.png"
    model = terrazzo.load(folder / "run")
    expected = model.preprocess(np.asarray(Image.open(image)))[None]
    kind, method, enter = DOORS[door]
    with captured(kind, method) as seen:
        enter(folder, image)
    alike = [images for images in seen if images.shape == expected.shape]
    assert alike, [images.shape for images in seen]
    for images in alike:
        np.testing.assert_array_equal(images, expected)


def test_int8_is_calibrated_on_the_same_input(folder: Path) -> None:
    image = folder / "data/val/images/1.png"
    model = terrazzo.load(folder / "run")
    expected = model.preprocess(np.asarray(Image.open(image)))[None]
    np.testing.assert_array_equal(read_input(image, describe_onnx(folder / "run.onnx")), expected)
