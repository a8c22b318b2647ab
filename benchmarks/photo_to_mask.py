"""Photo file to mask file: ours beside transformers' processor, model and post-processing, one thread, B0.

    python benchmarks/photo_to_mask.py [--rounds 5] [--write]

A 1080p JPEG (a synthetic scene) and 150 classes. transformers' image processor squashes every photo to 512 x 512 by
default; ours keeps the aspect ratio, so it gets 384 x 683, the same number of pixels to one part in 2000. Both write a
PNG of class indices. The weights are random, so classes change from pixel to pixel: the hardest case for our exact
upsampling. A second table says where our time goes for a 512 x 512 photo with 19 classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from measure import alternate, header, publish, table
from peers import build_pair
from terrazzo.engines.torch import TorchEngine, keep_freed_memory
from terrazzo.images import read_image
from terrazzo.inference.postprocess import upsample_argmax
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation
from terrazzo.labels import LabelSpec
from terrazzo.models import create_model
from terrazzo.preprocess import Preprocess


def draw_photo(path: Path, height: int, width: int) -> None:
    """Write a JPEG with smooth areas, edges and texture."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        center = int(rng.integers(width)), int(rng.integers(height))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.circle(image, center, int(rng.integers(10, height // 6)), color, -1)
    noise = rng.normal(0, 6, image.shape)
    Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(path, quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        text = header("Photo file to mask file, SegFormer-B0", "python benchmarks/photo_to_mask.py --write")
        text += "## 1080p, 150 classes\n\n" + compare(Path(folder), options.rounds)
        text += "\n## Where our time goes: 512 x 512, 19 classes\n\n" + parts(Path(folder), options.rounds)
    publish("photo_to_mask", text, options.write)


def compare(folder: Path, rounds: int) -> str:
    from transformers import SegformerImageProcessor

    draw_photo(folder / "photo.jpg", 1080, 1920)
    network, peer = build_pair("segformer_b0", 150)
    labels = LabelSpec.bundled("ade20k")
    predictor = Predictor(TorchEngine(network), Preprocess(short_side=384), labels)
    processor = SegformerImageProcessor()

    def ours() -> None:
        path = folder / "photo.jpg"
        predictor.segment([read_image(path)], [path])[0].save(folder / "ours.png", "mask")

    def theirs() -> None:
        photo = Image.open(folder / "photo.jpg").convert("RGB")
        with torch.inference_mode():
            outputs = peer(**processor(photo, return_tensors="pt"))
        (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[photo.size[::-1]])
        Image.fromarray(mask.numpy().astype(np.uint8)).save(folder / "theirs.png")

    mine, peers = alternate([ours, theirs], rounds)
    rows = [
        [name, f"{1e3 * times.median:.0f}", f"{1e3 * times.least:.0f}"]
        for name, times in (("ours", mine), ("transformers", peers))
    ]
    rows.append(["ratio", f"{peers.median / mine.median:.1f}", f"{peers.least / mine.least:.1f}"])
    return table(["", "median, ms", "least, ms"], rows)


def parts(folder: Path, rounds: int) -> str:
    draw_photo(folder / "small.jpg", 512, 512)
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


if __name__ == "__main__":
    main()
