"""Photo file to mask file with B0, one thread: ours beside transformers' processor, model and post-processing.

    python benchmarks/photo_to_mask.py [--rounds 5] [--write]

The photo is a 1080p JPEG (a synthetic scene); ours runs in each engine. By default, transformers' image processor
resizes every photo to 512 x 512. Ours keeps the aspect ratio and uses 384 x 683, the same number of pixels to one part
in 2000. Both resize with an antialiased bilinear filter and write a PNG of class indices. There are 150 classes: first
with the shipped model's weights, whose 11 classes form areas as in any trained model, and 139 more that never win; then
with random weights, whose classes change from pixel to pixel, the hardest case for our exact upsampling. A third table
shows where our time goes in PyTorch for a 512 x 512 photo with 19 classes, a fourth the time of resizing the 1080p
photo.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import terrazzo
from measure import alternate, header, milliseconds, publish, table
from peers import build_pair, build_peer
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.engines.torch import TorchEngine
from terrazzo.imaging.read import read_image
from terrazzo.imaging.resize import resize_image
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.result import Segmentation
from terrazzo.inference.upsample.argmax import upsample_argmax
from terrazzo.labels.spec import LabelSpec
from terrazzo.models.segmenter import Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.profiling.scene import draw_scene
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel

ENGINES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
CLASSES = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TERRAZZO_CACHE"] = folder
        command = "python benchmarks/photo_to_mask.py --write"
        text = header("Photo file to mask file, SegFormer-B0", command, ("onnxruntime", "openvino")) + "\n"
        text += "## 1080p, 150 classes in areas, as of trained weights\n\n"
        text += compare(*trained_pair(), Path(folder), options.rounds)
        text += "\n## 1080p, 150 classes, random weights\n\n"
        text += compare(*build_pair("segformer_b0", CLASSES), Path(folder), options.rounds)
        text += "\n## Where our time goes: 512 x 512, 19 classes\n\n" + parts(Path(folder), options.rounds)
        text += "\n## Resizing the 1080p photo to 384 x 683, bilinear\n\n" + resizes(options.rounds)
    publish("photo_to_mask", text, options.write)


def trained_pair() -> tuple[Segmenter, nn.Module]:
    """Return both sides' networks with the shipped model's weights and further classes that never win."""
    shipped = terrazzo.load(DEFAULT_MODEL)
    state, others = shipped.network.state_dict(), CLASSES - shipped.labels.num_classes
    for leaf, rest in (("weight", 0.0), ("bias", -100.0)):
        key = f"decoder.classifier.{leaf}"
        state[key] = torch.cat([state[key], torch.full((others, *state[key].shape[1:]), rest)])
    network = create_model(shipped.architecture, CLASSES).eval()
    network.load_state_dict(state)
    return network, build_peer(shipped.architecture, network, CLASSES)


def compare(network: Segmenter, peer: nn.Module, folder: Path, rounds: int) -> str:
    from transformers import SegformerImageProcessor

    source = folder / "photo.jpg"
    Image.fromarray(draw_scene(1080, 1920)).save(source, quality=92)
    trained = TrainedModel(
        "segformer_b0", network, LabelSpec.bundled("ade20k"), Preprocess(short_side=384, antialias=True)
    )
    predictors = {engine: make_predictor(trained, "cpu", engine=engine, threads=1) for engine in ENGINES}
    processor = SegformerImageProcessor()

    def ours(engine: str) -> None:
        predictors[engine].segment([read_image(source)], [source])[0].save(folder / f"{engine}.png", "mask")

    def theirs() -> None:
        photo = Image.open(source).convert("RGB")
        with torch.inference_mode():
            outputs = peer(**processor(photo, return_tensors="pt"))
        (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[photo.size[::-1]])
        Image.fromarray(mask.numpy().astype(np.uint8)).save(folder / "theirs.png")

    *mine, peers = alternate([*(partial(ours, engine) for engine in ENGINES), theirs], rounds)
    rows = [
        [f"ours, {name}", milliseconds(times), f"{peers.median / times.median:.1f} / {peers.least / times.least:.1f}"]
        for name, times in zip(ENGINES.values(), mine, strict=True)
    ]
    rows.append(["transformers", milliseconds(peers), "1.0"])
    masks = {engine: np.asarray(Image.open(folder / f"{engine}.png")) for engine in ENGINES}
    unlike = [f"{name} {int((masks[engine] != masks['torch']).sum())}" for engine, name in ENGINES.items()]
    count = masks["torch"].size
    return (
        table(["", "ms, median / least", "times as fast as transformers"], rows)
        + f"\nPixels of {count} whose class is not that of ours in PyTorch: {', '.join(unlike[1:])}.\n"
    )


def parts(folder: Path, rounds: int) -> str:
    Image.fromarray(draw_scene(512, 512)).save(folder / "small.jpg", quality=92)
    torch.manual_seed(0)
    engine = TorchEngine(create_model("segformer_b0", 19))
    labels, preprocess = LabelSpec.bundled("cityscapes"), Preprocess()
    names = ("read the JPEG", "normalise", "network", "upsample + argmax", "write the mask")
    seconds: list[list[float]] = [[] for _ in names]
    for round_ in range(rounds + 1):
        marks = [time.process_time()]
        image = read_image(folder / "small.jpg")
        marks.append(time.process_time())
        batch = preprocess(image)[None]
        marks.append(time.process_time())
        logits = engine(batch)[0]
        marks.append(time.process_time())
        mask = upsample_argmax(logits, [(512, 512)])
        marks.append(time.process_time())
        Segmentation(mask, labels).save(folder / "small.png", "mask")
        marks.append(time.process_time())
        if round_:
            for part, start, end in zip(seconds, marks, marks[1:], strict=False):
                part.append(end - start)
    medians = [float(np.median(part)) for part in seconds]
    total = sum(medians)
    rows = [
        [name, f"{1e3 * part:.1f}", f"{100 * part / total:.1f}%"] for name, part in zip(names, medians, strict=True)
    ]
    rows.append(["outside the network", f"{1e3 * (total - medians[2]):.1f}", f"{100 * (1 - medians[2] / total):.1f}%"])
    return table(["", "median, ms", "share"], rows)


def resizes(rounds: int) -> str:
    photo, size = draw_scene(1080, 1920), (384, 683)
    ways: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "plain, OpenCV": lambda: resize_image(photo, size, "bilinear", antialias=False),
        "antialiased, Pillow": lambda: np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR)),
        "antialiased, ours": lambda: resize_image(photo, size, "bilinear", antialias=True),
    }
    times = alternate(list(ways.values()), 4 * rounds)
    _, pillows, ours = (resize() for resize in ways.values())
    rows = [[name, milliseconds(taken)] for name, taken in zip(ways, times, strict=True)]
    return (
        table(["", "median / least, ms"], rows)
        + f"\nOf {ours.size} values {int((ours != pillows).sum())} differ between ours and Pillow's.\n"
    )


if __name__ == "__main__":
    main()
